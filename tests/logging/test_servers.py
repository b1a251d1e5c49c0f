"""Servers with several workers write one log: every record arrives once, whole and in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.logging.servers import Load, Receiver, check_whole, numbers, serving

if TYPE_CHECKING:
    from pathlib import Path

GUNICORN: Final = ("gunicorn", "-b", "127.0.0.1:{port}", "--graceful-timeout", "5")
UVICORN: Final = ("uvicorn", "application:asgi", "--port", "{port}", "--log-level", "warning")
SYNC: Final = (*GUNICORN, "application:wsgi")
ASGI: Final = (*GUNICORN, "application:asgi", "-k")

SERVERS: Final = {
    "gunicorn": SYNC,
    "gunicorn, preloaded": (*SYNC, "--preload"),
    "gunicorn with uvicorn's worker": (*ASGI, "uvicorn.workers.UvicornWorker"),
    "gunicorn with its own ASGI worker": (*ASGI, "asgi"),
    "uvicorn": UVICORN,
}


def restarting(server: str, requests: int) -> tuple[str, ...]:
    """Return what has a worker end after so many requests."""
    option = "--limit-max-requests" if server == "uvicorn" else "--max-requests"
    return (option, str(requests))


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(
            "gunicorn", marks=pytest.mark.soak
        ),  # its workers load the application, as uvicorn's do
        "gunicorn, preloaded",
        "uvicorn",
    ],
)
def test_workers_log_whole_and_in_order_through_restarts(tmp_path: Path, server: str) -> None:
    """Workers end and begin, the server reloads, and the receiver is restarted."""
    receiver = Receiver(tmp_path)
    command = (*SERVERS[server], "--workers", "2", *restarting(server, 60))
    with serving(tmp_path, receiver.address, *command) as (process, port), Load(port, 3) as load:
        load.await_more(80)
        process.send_signal(signal.SIGHUP)
        load.await_more(40)
        receiver.restart()
        load.await_more(80)
    receiver.stop()
    check_whole(numbers(receiver.output.read_bytes().splitlines()), load)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("server", SERVERS)
def test_eight_workers_log_whole_and_in_order_under_load(
    tmp_path: Path, server: str, journaled: bool
) -> None:
    """So do eight, for long; a receiver with a journal is killed instead of stopped."""
    journal = tmp_path / "log.journal"
    receiver = Receiver(tmp_path, *(("--journal", str(journal)) if journaled else ()))
    signum = signal.SIGKILL if journaled else signal.SIGTERM
    command = (*SERVERS[server], "--workers", "8", *restarting(server, 500))
    with serving(tmp_path, receiver.address, *command) as (process, port), Load(port, 8) as load:
        for _ in range(3):
            load.await_more(700)
            process.send_signal(signal.SIGHUP)
            load.await_more(700)
            receiver.restart(signum)
    receiver.stop()
    lines = receiver.output.read_bytes().splitlines()
    if journaled:  # what was printed when it was killed may be printed again
        log = [sys.executable, "-m", "mpsr", "log", str(journal), "-o", "json"]
        lines = subprocess.check_output(log).splitlines()
    found = numbers(lines)
    check_whole(found, load)
