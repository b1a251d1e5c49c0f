"""A wakeup is set, cleared and closed by different threads."""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from mpsr.system.descriptors import Socket
from mpsr.system.wakeup import Wakeup
from tests.interleaving import held_at, tracer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


def is_set(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup], [], [], 0)[0])


def test_descriptor_is_readable_from_set_until_clear(wakeup: Wakeup) -> None:
    assert not is_set(wakeup)
    for _ in range(2):
        wakeup.set()
        wakeup.set()
        assert is_set(wakeup)
        wakeup.clear()
        assert not is_set(wakeup)


def test_close_waits_for_the_thread_that_sets(wakeup: Wakeup) -> None:
    """A descriptor stays open between the check and the write of ``set()``."""
    with held_at(Socket.holds, "return", wakeup.set):
        wakeup.close()
        assert wakeup.fileno() >= 0
    assert wakeup.fileno() == -1


def test_close_waits_for_the_thread_that_clears(wakeup: Wakeup) -> None:
    wakeup.set()
    with held_at(Socket.holds, "return", wakeup.clear):
        wakeup.close()
        assert wakeup.fileno() >= 0
    assert wakeup.fileno() == -1


def test_signal_handler_may_close_what_it_interrupted(wakeup: Wakeup) -> None:
    sys.settrace(tracer(Socket.holds, "return", wakeup.close))
    try:
        wakeup.set()
    finally:
        sys.settrace(None)
    assert wakeup.fileno() == -1


def test_closed_wakeup_ignores_all_calls(wakeup: Wakeup) -> None:
    wakeup.close()
    wakeup.set()
    wakeup.clear()
    wakeup.close()
    assert wakeup.fileno() == -1


def test_clear_ends_a_set_that_writes_late(wakeup: Wakeup) -> None:
    """A ``clear()`` came between: the next ``clear()`` reads the byte."""
    with held_at(Socket.holds, "call", wakeup.set):
        wakeup.clear()
    assert is_set(wakeup)
    wakeup.clear()
    assert not is_set(wakeup)


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_wakeup_does_not_wait_for_a_file_of_the_program(wakeup: Wakeup, kind: str) -> None:
    """The program gives the number to a file of its own between the check and the read."""
    wakeup.set()
    files = [each.detach() for each in socket.socketpair()] if kind == "socket" else os.pipe()
    with held_at(Socket.holds, "return", wakeup.clear):
        os.dup2(files[0], wakeup.fileno())
    assert not wakeup.intact
    for each in (*files, wakeup.fileno()):
        os.close(each)
