"""Threads that close descriptors: owners do not wait for each other, and are counted apart."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from mpsr.limits import MAX_CLOSERS
from mpsr.system import closing
from tests.eventually import eventually
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Give an event for which the closing thread of the owner "slow" waits."""
    event = threading.Event()
    begun = threading.Event()

    def close() -> None:
        begun.set()
        event.wait(PATIENCE)

    closing.close_by([close], "slow")
    assert begun.wait(PATIENCE)
    yield event
    event.set()
    eventually(lambda: not closing.unclosed("slow"))


def test_slow_close_of_one_owner_holds_up_no_other(stuck: threading.Event) -> None:
    reader, writer = os.pipe()
    closing.close_apart([writer], "slow")
    assert closing.unclosed("slow") == 2
    others = [os.dup(reader) for _ in range(100)]
    for each in others:
        closing.close_apart([each], "quick")
    eventually(lambda: not closing.unclosed("quick"))
    assert closing.unclosed("slow") == 2
    assert closing.owners() == ["slow"]
    stuck.set()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_function_is_called_once_few_enough_are_left(stuck: threading.Event) -> None:
    called = threading.Event()
    assert not closing.call_at("slow", 1, called.set)
    assert closing.call_at("slow", 0, called.set)
    assert not called.is_set()
    stuck.set()
    assert called.wait(PATIENCE)


def test_number_of_closing_threads_is_bounded() -> None:
    """Owners beyond it take turns; each is served in the end."""
    event = threading.Event()
    running: list[int] = []

    def close() -> None:
        running.append(threading.get_ident())
        event.wait(PATIENCE)

    owners = [f"owner {each}" for each in range(2 * MAX_CLOSERS)]
    for owner in owners:
        closing.close_by([close], owner)
    eventually(lambda: len(running) == MAX_CLOSERS)
    assert len(set(running)) == MAX_CLOSERS
    event.set()
    eventually(lambda: not any(map(closing.unclosed, owners)))
    assert len(running) == len(owners)


def test_finalizer_that_closes_inside_the_closers_is_served() -> None:
    """It is called with the lock held, and must not wait for it."""
    reader, writer = os.pipe()
    closers = closing._closers
    with closers._lock:
        closing.close_apart([writer], "finalizer")
        assert closing.unclosed("finalizer") == 0
    closing.close_by([], "finalizer")
    assert os.read(reader, 1) == b""
    os.close(reader)
