"""Run funnels, each on a host of its own, with producers beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.fleet.network import Network
from benchmarks.results import ROOT

PATIENCE: Final = 60  # seconds that a funnel may take to start, or to end


class Funnel:
    """A host whose producers send to a journaled ``mpsr recv``, which forwards.

    Args:
        network: where the host is made.
        directory: for the journal and what the programs print.
        name: of the host, and the begin of its producers' names.
        sink: where the funnel forwards to.

    """

    def __init__(self, network: Network, directory: Path, name: str, sink: str) -> None:
        network.add(name)
        self.name = name
        self._network = network
        self._directory = directory
        self._address = directory / "app.sock"
        self._told = directory / "told"
        self._producers: dict[str, subprocess.Popen[bytes]] = {}
        command = [sys.executable, "-m", "mpsr", "recv", str(self._address)]
        command += [f"--journal={directory / 'app.journal'}", f"--to={sink}"]
        directory.mkdir()
        with self._told.open("wb") as told:
            self._recv = network.start(name, command, stdin=subprocess.DEVNULL, stderr=told)

    def await_start(self) -> None:
        until = time.monotonic() + PATIENCE
        while not self._address.exists():
            if self._recv.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"fleet: {self.name} does not start: {self.told}")
            time.sleep(0.05)

    def start_producers(self, count: int, rate: float, seconds: float) -> None:
        for number in range(count):
            producer = f"{self.name}-p{number}"
            arguments = [str(self._address), producer, str(rate), str(seconds)]
            command = [sys.executable, "-m", "benchmarks.fleet.producer", *arguments]
            with self._file(producer).open("wb") as out:
                self._producers[producer] = self._network.start(
                    self.name, command, stdin=subprocess.DEVNULL, stdout=out, cwd=ROOT
                )

    @property
    def producing(self) -> bool:
        return any(each.poll() is None for each in self._producers.values())

    def accepted(self) -> dict[str, list[tuple[float, int, float]]]:
        """Return, for each producer, when how many messages were accepted, and after how long.

        Raises:
            SystemExit: a producer has failed.

        """
        if any(each.poll() for each in self._producers.values()):
            raise SystemExit(f"fleet: a producer of {self.name} failed: {self.told}")
        found = {}
        for name in self._producers:
            lines = [line.split() for line in self._file(name).read_text().splitlines()]
            found[name] = [(float(at), int(count), float(took)) for at, count, took in lines]
        return found

    def end(self) -> None:
        """End it in order."""
        self._recv.send_signal(signal.SIGTERM)
        if self._recv.wait(PATIENCE):
            raise SystemExit(f"fleet: {self.name} ended badly: {self.told}")

    @property
    def told(self) -> str:
        return self._told.read_text()

    def _file(self, producer: str) -> Path:
        return self._directory / producer
