"""Wait for many descriptors at once."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from mpsr.system.poller import READ, WRITE, AnyPoller, Poller, ready_events

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def poller() -> Iterator[AnyPoller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def test_what_is_ready_is_told_with_what_it_stands_for(poller: AnyPoller, pair: Pair) -> None:
    """A descriptor is ready for what is awaited of it, and its own descriptor says so."""
    one, other = pair
    poller.register(one, READ, "one")
    assert poller.poll(0) == []
    other.send(b"a")
    assert select.select([poller.fileno()], [], [], 5)[0]
    assert poller.poll(None) == [("one", READ)]
    poller.modify(one, READ | WRITE)
    assert poller.poll(0) == [("one", READ | WRITE)]
    poller.modify(one, WRITE)
    assert poller.poll(0) == [("one", WRITE)]
    poller.unregister(one)
    assert poller.poll(0) == []


def test_end_is_ready_to_be_read(poller: AnyPoller, pair: Pair) -> None:
    """Who awaits bytes hears of the end too."""
    one, other = pair
    poller.register(one, READ, "one")
    other.close()
    ((what, events),) = poller.poll(5)
    assert what == "one"
    assert events & ~WRITE


def test_descriptor_may_come_back_as_another(poller: AnyPoller, pair: Pair) -> None:
    """A number that is used again stands for the new file."""
    one, other = pair
    copy = one.dup()
    number = copy.fileno()
    poller.register(copy, READ, "copy")
    poller.unregister(copy)
    copy.close()
    again = one.dup()
    assert again.fileno() == number
    with again:
        poller.register(again, READ, "again")
        other.send(b"a")
        assert poller.poll(5) == [("again", READ)]
        poller.unregister(again)


def test_readiness_of_one_descriptor_is_known_at_once(pair: Pair) -> None:
    """It is asked without waiting, and of no other."""
    one, other = pair
    assert ready_events(one.fileno(), READ) == 0
    assert ready_events(one.fileno(), READ | WRITE) == WRITE
    other.send(b"a")
    assert ready_events(one.fileno(), READ) == READ
