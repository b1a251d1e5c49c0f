"""What producers do while the receiver reads nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.limits import KIB, MIB
from tests.eventually import eventually
from tests.process import roles
from tests.process.stamps import stamp_of, stamped
from tests.process.workers import PATIENCE, beside, is_stuck, receive_beside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.engine.sending.window import OnFull
    from tests.process.workers import Start, Worker

BUFFER = 5 * MIB  # more than the kernel takes
SIZE = 40_000


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def receiver(start: Start, address: str, record: Path) -> Worker:
    worker = start(roles.receive, address, str(record))
    assert worker.hear() == "ready"
    return worker


def frozen_full(receiver: Worker, producer: mpsr.Producer) -> Iterator[int]:
    """Freeze the receiver and fill the kernel; return the numbers of the messages to come."""
    numbers = iter(range(10**6))
    producer.send(stamped(next(numbers), size=SIZE))
    producer.flush(timeout=PATIENCE)
    receiver.freeze()
    while not is_stuck(producer):
        producer.send(stamped(next(numbers), size=SIZE))
    assert producer.stats().lost == 0
    return numbers


def ended(receiver: Worker) -> dict[str, Any]:
    """Stop the receiver in an orderly way; return its statistics."""
    receiver.process.terminate()
    assert receiver.hear() == "receiving"
    stats: dict[str, Any] = receiver.hear()
    assert receiver.wait() == 0
    return stats


def taken(record: Path) -> tuple[list[int], list[int]]:
    """Return the numbers of the messages that came, and how many were lost, batch by batch."""
    numbers: list[int] = []
    lost: list[int] = []
    for event in roles.Record.events(record):
        numbers += range(event["first"], event["first"] + event["count"])
        lost.append(event["lost"])
    return numbers, lost


def test_blocked_producer_honours_its_timeout_and_loses_nothing(
    receiver: Worker, address: str, record: Path
) -> None:
    """SendTimedOut gives back what was not taken; all that was taken arrives."""
    with mpsr.Producer(address, buffer=BUFFER, timeout=0.3) as producer:
        numbers = frozen_full(receiver, producer)
        number = next(numbers)
        while producer.try_send(message := stamped(number, size=SIZE)):
            number = next(numbers)
        before = time.monotonic()
        with pytest.raises(mpsr.SendTimedOut, match=f"pid {receiver.pid}") as caught:
            producer.send(message)
        assert 0.3 <= time.monotonic() - before < 5
        assert caught.value.messages == [message]
        with pytest.raises(mpsr.SendTimedOut) as caught:
            producer.send_many([message, message], timeout=0)
        assert caught.value.messages == [message, message]
        assert not producer.try_send(message)
        with pytest.raises(mpsr.TimedOut):
            producer.flush(timeout=0.1)

        with beside(lambda: producer.send(message, timeout=PATIENCE)):  # it waits for room
            eventually(lambda: producer._waiting)
            receiver.thaw()
        producer.flush(timeout=PATIENCE)
        assert producer.stats().lost == 0
    assert ended(receiver)["lost"] == 0
    assert taken(record)[0] == list(range(number + 1))


def test_raising_producer_gives_back_what_it_has_no_room_for(
    receiver: Worker, address: str, record: Path
) -> None:
    """BufferFull comes at once; all that was taken arrives."""
    with mpsr.Producer(address, buffer=BUFFER, on_full="raise") as producer:
        numbers = frozen_full(receiver, producer)
        messages = [stamped(number, size=SIZE) for number in range(next(numbers), 1000)]
        first = 1000 - len(messages)
        with pytest.raises(mpsr.BufferFull) as caught:
            producer.send_many(messages)
        kept = len(messages) - len(caught.value.messages)
        assert caught.value.messages == messages[kept:]
        with pytest.raises(mpsr.BufferFull) as caught:
            producer.send(messages[kept])
        assert caught.value.messages == [messages[kept]]
        receiver.thaw()
        producer.flush(timeout=PATIENCE)
    assert ended(receiver)["lost"] == 0
    assert taken(record)[0] == list(range(first + kept))


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_drops_are_counted_alike_on_both_ends(
    receiver: Worker, address: str, record: Path, policy: OnFull
) -> None:
    """What was sent is accepted or counted as lost, and the receiver shows the same count."""
    with mpsr.Producer(address, buffer=BUFFER, on_full=policy) as producer:
        numbers = frozen_full(receiver, producer)
        total = next(numbers) + 1000
        for number in range(total - 1000, total):
            producer.send(stamped(number, size=SIZE))
        receiver.thaw()
        producer.flush(timeout=PATIENCE)
        stats = producer.stats()
    assert stats.sent == total
    assert stats.sent == stats.accepted + stats.lost
    assert (stats.buffered, stats.buffered_bytes) == (0, 0)
    assert stats.lost > 500
    came, lost = taken(record)
    assert (len(came), sum(lost)) == (stats.accepted, stats.lost)
    assert ended(receiver)["lost"] == stats.lost
    gap = next(place for place, number in enumerate([*came, None]) if number != place)
    if policy == "drop_newest":
        assert came == list(range(stats.accepted))
    else:
        assert came == [*range(gap), *range(gap + stats.lost, total)]


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_drops_are_counted_alike_over_many_stalls(
    receiver: Worker, address: str, record: Path, policy: OnFull
) -> None:
    """Neither bursts, nor stalls at any moment, confuse the count or the order."""
    total = 0
    with mpsr.Producer(address, buffer=64 * KIB, on_full=policy) as producer:
        for _ in range(20):
            receiver.freeze()
            for _ in range(400):
                producer.send(stamped(total, size=total * 7919 % 3000))
                total += 1
            receiver.thaw()
            producer.send_many([stamped(total + more) for more in range(200)])
            total += 200
        producer.flush(timeout=PATIENCE)
        stats = producer.stats()
    assert stats.sent == total == stats.accepted + stats.lost
    assert stats.lost > 0
    came, lost = taken(record)
    assert (len(came), sum(lost)) == (stats.accepted, stats.lost)
    assert came == sorted(set(came))
    assert ended(receiver)["lost"] == stats.lost


def test_messages_accepted_before_a_drop_are_not_counted_as_lost(address: str) -> None:
    """A batch of which a receiver accepted a part is dropped but for that part."""
    came: list[int] = []
    with mpsr.Producer(address, buffer=64 * KIB, on_full="drop_oldest") as producer:
        with mpsr.Receiver(address) as receiver:
            producer.send_many([stamped(number) for number in range(100)])
            while len(came) < 37:
                came.append(stamp_of(receiver.receive(timeout=PATIENCE)).number)
        eventually(lambda: producer.stats().accepted >= 37 and not producer.stats().connected)
        for number in range(100, 2000):
            producer.send(stamped(number, size=100))
        with mpsr.Receiver(address) as receiver:
            receive_beside(
                receiver,
                lambda batch: came.extend(stamp_of(message).number for message in batch),
                lambda: producer.flush(timeout=PATIENCE),
            )
            lost = receiver.stats().lost
        stats = producer.stats()
    assert (stats.sent, stats.lost) == (2000, lost)
    assert stats.accepted == len(came) == 2000 - lost
    assert came == [*range(37), *range(37 + lost, 2000)]


@pytest.mark.parametrize("size", [6000, 200_000])
def test_message_that_turns_out_too_large_while_it_waits_is_counted_as_lost(
    start: Start, address: str, record: Path, size: int
) -> None:
    """A receiver that takes less than was known when a send began to wait costs that message."""
    with mpsr.Producer(address, buffer=4000) as producer:
        producer.send(stamped(0, size=3000))
        with beside(lambda: producer.send(stamped(1, size=size), timeout=PATIENCE)):
            eventually(lambda: producer._waiting)
            receiver = start(roles.receive, address, str(record), max_message=5000)
            assert receiver.hear() == "ready"
        producer.send(stamped(2))
        with pytest.raises(mpsr.Undelivered) as caught:
            producer.flush(timeout=PATIENCE)
        stats = producer.stats()
    assert caught.value.messages == [stamped(1, size=size)]
    assert (stats.sent, stats.accepted, stats.lost) == (3, 2, 1)
    assert ended(receiver)["lost"] == 1
    assert taken(record)[0] == [0, 2]
