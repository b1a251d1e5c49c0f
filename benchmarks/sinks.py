"""Measure what sinks cost the acceptance of messages: ``python -m benchmarks.sinks``.

Two producers send messages of 100 bytes to a journaled ``mpsr recv``, with no sink that takes them
(a library's receiver, whose cursor stands still), and with one sink of each kind. The rate counts
until all is accepted, which is when it is on the journal's disk.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import mpsr

COUNT = 1_000_000  # messages, of both producers
SINKS = ("none", "file:out", "file:out?format=lines", "sqlite:out", "duckdb:out", "exec:cat>out")
IDLE = """
import signal, mpsr
with mpsr.Receiver("app.sock", journal="app.journal") as receiver:
    signal.sigwait([signal.SIGTERM])
"""


def send(address: str, count: int) -> None:
    with mpsr.Producer(address) as producer:
        for _ in range(count // 100):
            producer.send_many([b"x" * 100] * 100)
        producer.flush()


def measure(sink: str) -> float:
    """Return messages a second that were accepted."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", IDLE]
        if sink != "none":
            command = [sys.executable, "-m", "mpsr", "recv", "app.sock", "--journal=app.journal"]
            command += [f"--to={sink}", "--journal-limit=2G", "-q"]
        receiver = subprocess.Popen(command, cwd=directory)
        address = Path(directory, "app.sock")
        while not address.exists():
            time.sleep(0.01)
        producers = [
            multiprocessing.Process(target=send, args=(str(address), COUNT // 2)) for _ in range(2)
        ]
        begun = time.monotonic()
        for each in producers:
            each.start()
        for each in producers:
            each.join()
        accepted = time.monotonic()
        receiver.kill()
        receiver.wait()
        return COUNT / (accepted - begun)


if __name__ == "__main__":
    rounds = [{name: measure(name) for name in SINKS} for _ in range(5)]
    for name in SINKS:
        rate = median(each[name] for each in rounds)
        part = median(each[name] / each["none"] for each in rounds)
        print(f"{name:24} {rate:12,.0f} messages/s accepted, {part:.2f} of none")
