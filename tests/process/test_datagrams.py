"""What datagrams keep between processes."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.limits import KIB
from tests.process import roles
from tests.process.stamps import stamp_of, stamped
from tests.process.workers import PATIENCE, is_stuck, receive_all, receive_beside

if TYPE_CHECKING:
    from mpsr.engine.sending.window import OnFull
    from tests.process.workers import Start


@pytest.mark.parametrize("messages", [100, pytest.param(5000, marks=pytest.mark.soak)])
def test_datagrams_of_many_processes_arrive_whole(
    start: Start, address: str, messages: int
) -> None:
    """8 processes send 0 to 100,000 bytes at a time; each datagram comes whole, in order."""
    with mpsr.Receiver(address, type="dgram") as receiver:
        workers = [start(roles.send_datagrams, address, seed, messages) for seed in range(8)]
        expected = {
            worker.pid: roles.datagrams(seed, messages) for seed, worker in enumerate(workers)
        }
        counts: dict[int | None, int] = defaultdict(int)

        def take(batch: mpsr.Batch) -> None:
            for datagram in batch:
                assert batch.peer.pid is not None
                assert datagram == next(expected[batch.peer.pid])
                counts[batch.peer.pid] += 1

        receive_all(receiver, take, workers)
        assert receiver.stats().rejected == 0
    assert counts == dict.fromkeys(expected, messages)


def test_too_large_a_datagram_is_refused_at_its_sender(address: str) -> None:
    """What no datagram can carry raises MessageTooLarge; the largest possible one arrives."""
    with (
        mpsr.Receiver(address, type="dgram") as receiver,
        mpsr.Producer(address, type="dgram") as producer,
    ):
        most = producer._outbox.window.max_message
        assert most > 100_000
        with pytest.raises(mpsr.MessageTooLarge, match=f"{most + 1} bytes: the most here is"):
            producer.send(bytes(most + 1))
        producer.send(bytes(most))
        assert len(receiver.receive(timeout=PATIENCE)) == most


def flooded(producer: mpsr.Producer) -> int:
    """Send until the kernel and the buffer are full or drop; return how many were taken."""
    producer.send(stamped(0, size=1000))
    producer.flush(timeout=PATIENCE)
    number = 1
    while not is_stuck(producer):
        producer.send(stamped(number, size=1000))
        number += 1
    with suppress(mpsr.BufferFull, mpsr.SendTimedOut):
        for _ in range(200):
            producer.send(stamped(number, size=1000))
            number += 1
    return number


@pytest.mark.parametrize("on_full", ["block", "raise", "drop_newest", "drop_oldest"])
def test_full_queue_of_datagrams_does_as_on_full_says(address: str, on_full: OnFull) -> None:
    """What was sent arrives or was counted; nothing else is missing."""
    numbers: list[int] = []

    def take(batch: mpsr.Batch) -> None:
        assert batch.peer.pid == stamp_of(batch[0]).source.pid
        numbers.extend(stamp_of(message).number for message in batch)

    with (
        mpsr.Receiver(address, type="dgram") as receiver,
        mpsr.Producer(
            address, type="dgram", on_full=on_full, buffer=64 * KIB, timeout=0.2
        ) as producer,
    ):
        before = time.monotonic()
        sent = flooded(producer)
        assert time.monotonic() - before < 5
        receive_beside(receiver, take, lambda: producer.flush(timeout=PATIENCE))
        stats = producer.stats()
    assert stats.sent == sent == stats.accepted + stats.lost
    assert stats.lost == (0 if on_full in ("block", "raise") else sent - len(numbers))
    assert (stats.lost > 0) is on_full.startswith("drop")
    assert numbers == sorted(set(numbers))
    if on_full == "drop_oldest":
        assert numbers[-1] == sent - 1
    else:
        assert numbers == list(range(len(numbers)))
