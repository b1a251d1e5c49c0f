"""A timer that is a descriptor, and the rest of a producer's background thread."""

from __future__ import annotations

import select
import threading
import time
from math import inf
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr._speedups import IN_C_ON_LINUX
from mpsr.system.timer import Timer, make_timer
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not IN_C_ON_LINUX, reason="it takes C, and Linux")


@pytest.fixture
def alarm() -> Iterator[Timer]:
    alarm = make_timer()
    assert alarm is not None
    yield alarm
    alarm.close()


def is_readable(alarm: Timer, *, within: float) -> bool:
    return bool(select.select([alarm], [], [], within)[0])


def wait_for_rest(producer: mpsr.Producer[bytes]) -> None:
    """Return once the background thread waits for nothing but to be told."""
    eventually(lambda: producer._resting and producer._wakes_at == inf)


def test_timer_is_readable_once_its_time_has_come(alarm: Timer) -> None:
    assert not is_readable(alarm, within=0.01)
    when = time.monotonic() + 0.05
    alarm.set(when)
    assert is_readable(alarm, within=5)
    assert time.monotonic() >= when
    assert is_readable(alarm, within=0)  # until it is cleared
    alarm.clear()
    assert not is_readable(alarm, within=0.01)


def test_timer_keeps_the_last_time_that_was_set(alarm: Timer) -> None:
    alarm.set(time.monotonic() + 3600)
    alarm.set(time.monotonic() - 1)
    assert is_readable(alarm, within=5)
    alarm.set(time.monotonic() + 3600)
    assert not is_readable(alarm, within=0.01)


@pytest.mark.parametrize("when", [-1.0, float("inf"), float("nan"), 1e300])
def test_timer_refuses_what_is_no_time(alarm: Timer, when: float) -> None:
    with pytest.raises(ValueError, match="no time on the monotonic clock"):
        alarm.set(when)


@pytest.mark.parametrize("linger", [1e5, 1e12, 1e300])
def test_long_linger_waits_for_a_flush(address: str, linger: float) -> None:
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[bytes](address, linger=linger) as producer,
    ):
        producer.send(b"first")
        assert receiver.receive(5) == b"first"
        receiver.acknowledge()
        wait_for_rest(producer)
        for _ in range(20):
            producer.send(b"message")
        flushing = threading.Thread(target=producer.flush, args=(5,))
        flushing.start()
        assert [receiver.receive(5) for _ in range(20)] == [b"message"] * 20
        receiver.acknowledge()
        flushing.join()


def test_burst_wakes_the_background_thread_once(address: str) -> None:
    """Only when it has gathered: not to say until when it gathers."""
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address, linger=0.2) as producer:
        producer.send(b"first")
        assert receiver.receive(5) == b"first"
        receiver.acknowledge()
        wait_for_rest(producer)
        looks = 0
        service = producer._outbox.service

        def counted(now: float) -> None:
            nonlocal looks
            looks += 1
            service(now)

        producer._outbox.service = counted  # type: ignore[method-assign]
        for _ in range(20):
            producer.send(b"message")
        assert [receiver.receive(5) for _ in range(20)] == [b"message"] * 20
        assert looks == 1
        receiver.acknowledge()


def test_producer_without_a_timer_works(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system has no descriptor left for it, or there is no C."""
    monkeypatch.setattr("mpsr.sync.background.make_timer", lambda: None)
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address) as producer:
        for _ in range(20):
            producer.send(b"message")
        assert [receiver.receive(5) for _ in range(20)] == [b"message"] * 20
        receiver.acknowledge()
