"""Feed one target with what reaches ever more of the code, until so many bytes were fed.

``python -m tests.fuzz.run TARGET BYTES [OPTION...]`` takes libFuzzer's options and folders; with
0 bytes it goes on for ever. ``make fuzz`` builds what it needs, and runs all the targets.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Final

import atheris

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
LONGEST: Final = 1.0  # seconds of processor time that one input may take, on a busy machine too
WARM: Final = 10  # the part of the bytes after which memory is looked at again


def resident() -> int:
    """Return the memory that this process has, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE >> 20


class Meter:
    """Counts what is fed to a target, and ends the process when it is enough."""

    def __init__(self, name: str, run: Callable[[bytes], None], enough: int) -> None:
        self._name = name
        self._run = run
        self._enough = enough
        self.ends: bool = enough > 0
        self._fed = self._inputs = 0
        self._slowest = 0.0  # seconds
        self._memory: list[int] = []  # at the start, and once it is warm
        self._began = time.monotonic()

    def feed(self, data: bytes) -> None:
        if len(self._memory) < 1 or (len(self._memory) < 2 and self._is_warm()):
            self._memory.append(resident())
        began = time.process_time()
        self._run(data)
        taken = time.process_time() - began
        assert taken <= LONGEST, f"{taken:.1f} s for {len(data)} bytes"
        self._slowest = max(self._slowest, taken)
        self._fed += len(data)
        self._inputs += 1
        if self._enough and self._fed >= self._enough:
            self._end("nothing found", 0)

    def _is_warm(self) -> bool:
        return self._fed * WARM >= self._enough

    def stop(self, number: int, _: object) -> None:
        """Take a signal: tell how far it came, and end the process."""
        self._memory = self._memory or [resident()]
        self._end("stopped", 128 + number)

    def _end(self, outcome: str, status: int) -> None:
        seconds = time.monotonic() - self._began
        start, warm = self._memory[0], self._memory[-1]
        print(  # noqa: T201 - what a run is for
            f"{self._name}: {self._fed} bytes, {self._inputs} inputs, {seconds:.0f} s, the slowest "
            f"{self._slowest * 1000:.0f} ms; memory {start} MiB at the start, {warm} after a "
            f"tenth, {resident()} at the end; {outcome}",
            flush=True,
        )
        os._exit(status)


def main() -> None:
    """Fuzz."""
    name, enough, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["mpsr"]):
        target = import_module(f"tests.fuzz.{name}")
    again = f"{sys.executable} -m tests.fuzz.run {name} 0"  # how -merge starts its workers
    meter = Meter(name, target.run, int(enough))
    if meter.ends:
        options += ["-handle_int=0", "-handle_term=0"]
        signal.signal(signal.SIGINT, meter.stop)
        signal.signal(signal.SIGTERM, meter.stop)
    atheris.Setup([again, *options], meter.feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
