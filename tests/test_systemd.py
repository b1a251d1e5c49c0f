"""What a service tells its manager, and what happens where there is none."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr import systemd
from mpsr.system import passing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Give the socket at which a service manager listens."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@mpsr-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_states_are_told_as_the_protocol_has_them(manager: socket.socket) -> None:
    assert mpsr.systemd is systemd
    assert systemd.ready("receives\nat app.sock")
    assert manager.recv(1000) == b"READY=1\nSTATUS=receives at app.sock"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading()
    first, _, second = manager.recv(1000).partition(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(second.partition(b"=")[2]) <= after
    assert systemd.stopping("ends")
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=ends"
    assert systemd.status("42 messages")
    assert manager.recv(1000) == b"STATUS=42 messages"
    assert systemd.notify("EXTEND_TIMEOUT_USEC=5", "X=Y")
    assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=5\nX=Y"


def test_watchdog_is_told_if_there_is_one(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    assert systemd.watchdog_interval() is None
    assert not systemd.keep_alive()
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert systemd.watchdog_interval() == 1.5
    assert systemd.keep_alive()
    assert manager.recv(1000) == b"WATCHDOG=1"
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_interval() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert systemd.watchdog_interval() is None
    monkeypatch.delenv("WATCHDOG_PID")
    for wrong in ("", "0", "-5", "soon"):
        monkeypatch.setenv("WATCHDOG_USEC", wrong)
        assert systemd.watchdog_interval() is None


def test_barrier_waits_for_the_answer(manager: socket.socket) -> None:
    """It is answered once the manager closes the descriptor that came along."""
    assert not systemd.barrier(timeout=0)
    data, descriptors = passing.receive(manager, 1000)
    assert (data, len(descriptors)) == (b"BARRIER=1", 1)
    assert not systemd.barrier(timeout=0.05)
    for each in (*descriptors, *passing.receive(manager, 1000)[1]):
        os.close(each)
    if os.fork() == 0:  # a manager that answers
        for each in passing.receive(manager, 1000)[1]:
            os.close(each)
        os._exit(0)
    try:
        assert systemd.barrier(timeout=10)
    finally:
        os.wait()


@pytest.mark.parametrize("name", [None, "", "relative", "/nobody/there", "@mpsr-nobody"])
def test_without_a_manager_nothing_is_told(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not systemd.ready()
    assert not systemd.barrier(timeout=10)
