"""Test that a failing block, or its thread, ends a test at once with the first failure."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front
from tests.process.workers import PATIENCE, beside, receive_beside

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 10.0  # seconds: far less than PATIENCE, and enough for a busy machine


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Fail if a test takes as long as the other side would wait."""
    since = time.monotonic()
    yield
    assert time.monotonic() - since < AT_ONCE


def fail() -> None:
    raise LookupError("the first failure")


def test_block_that_fails_does_not_wait_for_its_thread(address: str) -> None:
    with pytest.raises(LookupError), mpsr.Receiver(address) as receiver:
        with beside(lambda: [*receiver]):
            fail()


def test_thread_that_fails_stops_the_block(address: str) -> None:
    with mpsr.Receiver(address) as receiver, pytest.raises(LookupError):
        with beside(fail, receiver.stop):
            receiver.receive(PATIENCE)


@pytest.mark.parametrize("side", ["take", "work"])
def test_failure_ends_a_receiver_and_its_producer(address: str, side: str) -> None:
    """Neither the loop that receives nor the flush that waits for it delays the failure."""
    producers: list[mpsr.Producer[bytes]] = []

    def take(_: mpsr.Batch) -> None:
        fail()

    def work() -> None:
        if side == "work":
            fail()
        producers.append(mpsr.Producer(address))
        producers[0].send(b"message")
        with suppress(mpsr.Closed):
            producers[0].flush(PATIENCE)

    with pytest.raises(LookupError), mpsr.Receiver(address) as receiver:
        receive_beside(receiver, take, work)
    for producer in producers:
        with suppress(mpsr.Undelivered):
            producer.close(0)


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.name)
@pytest.mark.parametrize("side", ["block", "work"])
def test_failure_on_any_front_ends_the_other_side(front: Front, address: str, side: str) -> None:
    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:

            async def receive() -> None:
                await receiver.receive(PATIENCE)

            async def fail_at_once() -> None:
                fail()

            work, block = (receive, fail_at_once) if side == "block" else (fail_at_once, receive)
            async with front.beside(work):
                await block()

    with pytest.raises((LookupError, ExceptionGroup)) as caught:
        front.run(test)
    assert isinstance(caught.value, LookupError) or caught.group_contains(LookupError)
