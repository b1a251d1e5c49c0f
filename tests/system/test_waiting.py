"""What one caller waits with, in an ordinary program."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from mpsr.system.waiting import Waiter


@pytest.fixture
def waiter() -> Waiter:
    return Waiter()


def test_wake_up_before_the_wait_counts_once(waiter: Waiter) -> None:
    waiter.wake()
    waiter.wake()
    assert waiter.wait(None)
    assert not waiter.wait(0)


def test_wait_ends_when_its_time_is_over(waiter: Waiter) -> None:
    before = time.monotonic()
    assert not waiter.wait(0.05)
    assert 0.05 <= time.monotonic() - before < 5
    assert not waiter.wait(-1)


def test_no_time_is_too_long_to_be_waited_for(waiter: Waiter) -> None:
    for seconds in (1e300, float("inf")):
        waiter.wake()
        assert waiter.wait(seconds)


def test_each_of_many_wake_ups_from_another_thread_ends_a_wait(waiter: Waiter) -> None:
    awake = Waiter()

    def answer() -> None:
        for _ in range(1000):
            assert waiter.wait(30)
            awake.wake()

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(1000):
        waiter.wake()
        assert awake.wait(30)
    thread.join()


def test_signal_handler_ends_the_wait_that_it_interrupts(waiter: Waiter) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: waiter.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert waiter.wait(30)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_exception_that_breaks_in_leaves_the_waiter_ready(waiter: Waiter) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            waiter.wait(None)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not waiter.wait(0)
    waiter.wake()
    assert waiter.wait(30)
