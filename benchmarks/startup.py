"""Measure how long the command takes to start: ``python -m benchmarks.startup``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from time import perf_counter

import mpsr

ROUNDS = 30
TO_BEAT = {"mpsr --help": 120.0, "mpsr send": 90.0}  # milliseconds

PYTHON = sys.executable
BARE = "python -c pass"
MPSR = (PYTHON, "-c", "from mpsr.cli import main; main()")  # what the script `mpsr` does


def commands(address: str) -> dict[str, Sequence[str]]:
    return {
        "python -I -S -c pass": (PYTHON, "-I", "-S", "-c", "pass"),
        BARE: (PYTHON, "-c", "pass"),
        "mpsr": MPSR,
        "mpsr --help": (*MPSR, "--help"),
        "mpsr recv --help": (*MPSR, "recv", "--help"),
        "mpsr send": (*MPSR, "send", address, "hello"),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Run every command so often, in turns, so that a busy moment falls on all of them."""
    with (
        tempfile.TemporaryDirectory() as cache,
        tempfile.TemporaryDirectory() as directory,
        serving(f"{directory}/app.sock") as address,
    ):
        found: dict[str, list[float]] = {name: [] for name in commands(address)}
        changes = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        environment = {**os.environ, **changes}
        for i in range(rounds + 1):  # the first compiles, and does not count
            for name, command in commands(address).items():
                began = perf_counter()
                subprocess.run(command, env=environment, check=True, capture_output=True)
                took = (perf_counter() - began) * 1000
                if i:
                    found[name].append(took)
    return found


class serving:  # noqa: N801 - it is used as a function
    """A receiver in a process of its own, as `mpsr send` needs one."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._process = subprocess.Popen(
            (*MPSR, "recv", "--quiet", address), stdout=subprocess.DEVNULL
        )

    def __enter__(self) -> str:
        with mpsr.Producer(self._address) as producer:
            producer.send(b"are you there?")
            producer.flush(timeout=20)
        return self._address

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def main() -> None:
    found = measure(ROUNDS)
    bare = statistics.median(found[BARE])
    print(f"{ROUNDS} runs of each, in turns; milliseconds, and how many times {BARE}\n")
    print(f"{'':<22}{'least':>8}{'median':>8}{'p90':>8}{'ratio':>8}")
    for name, times in found.items():
        middle, p90 = statistics.median(times), statistics.quantiles(times, n=10)[-1]
        limit = f"  (below {TO_BEAT[name]:g})" if name in TO_BEAT else ""
        figures = f"{min(times):>8.1f}{middle:>8.1f}{p90:>8.1f}{middle / bare:>8.1f}"
        print(f"{name:<22}{figures}{limit}")


if __name__ == "__main__":
    main()
