"""Measure what a call of ``logging`` costs with each handler: ``python -m benchmarks.logging``."""

from __future__ import annotations

import logging
import logging.handlers
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Final

import mpsr.logging

ROUNDS: Final = 7
BURST: Final = 20_000  # records of a round
SINK: Final = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    connection, _ = listening.accept()
    while connection.recv(1 << 16):
        pass
"""


def burst(handler: logging.Handler) -> float:
    """Log one burst of records; return the microseconds of a call."""
    logger = logging.Logger("benchmark")  # noqa: LOG001 - nobody else is to have it
    logger.addHandler(handler)
    since = perf_counter()
    for number in range(BURST):
        logger.info("request %d took %d ms", number, 7)
    elapsed = perf_counter() - since
    handler.flush()
    return elapsed / BURST * 1e6


def await_receiver(address: Path) -> None:
    """Return once somebody listens."""
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                return client.connect(str(address))
            except OSError:
                sleep(0.01)


def main() -> None:
    """Measure the handlers in turn, and print the medians."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        address = directory / "log.sock"
        receive = [sys.executable, "-m", "mpsr", "recv", str(address), "-q"]
        with (
            subprocess.Popen(receive, stdout=subprocess.DEVNULL) as receiver,
            subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE) as sink,
        ):
            await_receiver(address)
            assert sink.stdout is not None
            port = int(sink.stdout.readline())
            file = logging.FileHandler(directory / "log")
            file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            ours = mpsr.logging.Handler(address, timeout=20)
            handlers = {
                "none (NullHandler)": logging.NullHandler(),
                "mpsr.logging.Handler": ours,
                "mpsr.logging.Handler, no receiver": mpsr.logging.Handler(directory / "none.sock"),
                "logging.FileHandler": file,
                "logging.handlers.SocketHandler": logging.handlers.SocketHandler("127.0.0.1", port),
            }
            rounds = [{each: burst(handlers[each]) for each in handlers} for _ in range(ROUNDS)]
            lost = ours.lost
            logging.raiseExceptions = False  # nobody receives the rest
            for handler in handlers.values():
                handler.close()
            receiver.terminate()
        for each in handlers:
            took = median(one[each] for one in rounds)
            sys.stdout.write(f"{each:36}{took:7.1f} us a call {1e6 / took:10,.0f} a second\n")
        sys.stdout.write(f"lost with a receiver: {lost} of {ROUNDS * BURST}\n")


if __name__ == "__main__":
    main()
