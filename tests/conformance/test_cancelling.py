"""What cancelling does to the async fronts."""

from __future__ import annotations

import logging

import anyio
import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front


@pytest.fixture(params=FRONTS[1:], ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one async front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


def test_a_cancelled_receive_has_taken_no_message(front: Front, address: str) -> None:
    """Whenever a receive is cancelled, the next one gets the message."""

    async def test(front: Front) -> None:
        async with (
            mpsr.AsyncReceiver(address) as receiver,
            mpsr.AsyncProducer(address, linger=0) as producer,
        ):
            got: list[bytes] = []

            async def receive() -> None:
                while len(got) < 200:
                    with anyio.move_on_after(0.0005):
                        got.append(await receiver.receive())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                for i in range(200):
                    await producer.send(b"%d" % i)
                    await anyio.sleep(0.0003)
            assert got == [b"%d" % i for i in range(200)]
            receiver.acknowledge()

    front.run(test)


def test_a_cancelled_send_has_not_taken_its_message(front: Front, address: str) -> None:
    """A send that waits for room and is cancelled leaves nothing behind."""

    async def test(front: Front) -> None:
        async with mpsr.AsyncProducer(address, buffer=1000) as producer:
            await producer.send(bytes(900))
            with anyio.move_on_after(0.02) as scope:
                await producer.send(bytes(900))
            assert scope.cancelled_caught
            assert producer.stats().sent == 1
            async with mpsr.AsyncReceiver(address) as receiver:
                assert await receiver.receive(5) == bytes(900)
                with pytest.raises(mpsr.TimedOut):
                    await receiver.receive(0)

    front.run(test)


def test_a_cancelled_flush_loses_nothing(front: Front, address: str) -> None:
    """After a cancelled flush the producer goes on delivering."""

    async def test(front: Front) -> None:
        async with mpsr.AsyncProducer(address) as producer:
            await producer.send(b"x")
            with anyio.move_on_after(0.02) as scope:
                await producer.flush()
            assert scope.cancelled_caught
            async with mpsr.AsyncReceiver(address) as receiver:
                assert await receiver.receive(5) == b"x"

    front.run(test)


def test_a_cancelled_block_ends_at_once_and_says_what_it_gave_up(
    front: Front, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelling the block does not wait for a receiver; a warning counts what is left."""

    async def test(front: Front) -> None:
        with anyio.fail_after(2), anyio.move_on_after(0.02) as scope:
            async with mpsr.AsyncProducer(address) as producer:
                await producer.send(b"x")
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    with caplog.at_level(logging.WARNING, logger="mpsr"):
        front.run(test)
    assert "1 message" in caplog.text


def test_a_cancelled_handler_has_its_message_sent_again(front: Front, address: str) -> None:
    """Cancelling the block of a receiver leaves the message in hand unacknowledged."""

    async def test(front: Front) -> None:
        async with mpsr.AsyncProducer(address) as producer:
            await producer.send_many([b"0", b"1"])
            with anyio.move_on_after(0.1) as scope:
                async with mpsr.AsyncReceiver(address) as receiver:
                    async for message in receiver:
                        if message == b"1":
                            await anyio.sleep_forever()
            assert scope.cancelled_caught
            async with mpsr.AsyncReceiver(address) as receiver:
                assert await receiver.receive(5) == b"1"

    front.run(test)


def test_a_producer_outside_its_block_says_so(front: Front, address: str) -> None:
    """An async producer works inside ``async with``; outside, the error says that."""

    async def test(front: Front) -> None:
        producer = mpsr.AsyncProducer(address)
        with pytest.raises(mpsr.Closed, match="async with"):
            await producer.send(b"x")
        await producer.close()

    front.run(test)


def test_the_blocks_own_exception_comes_out_unwrapped(front: Front, address: str) -> None:
    """The task inside a producer does not turn the user's exceptions into groups."""

    async def test(front: Front) -> None:
        with pytest.raises(ZeroDivisionError):
            async with mpsr.AsyncReceiver(address), mpsr.AsyncProducer(address):
                raise ZeroDivisionError

    front.run(test)


def test_two_tasks_may_send(front: Front, address: str) -> None:
    """Tasks share a producer; each one's messages stay in order."""

    async def test(front: Front) -> None:
        async with (
            mpsr.AsyncReceiver(address) as receiver,
            mpsr.AsyncProducer(address, buffer=5000) as producer,
        ):

            async def send(name: bytes) -> None:
                for i in range(500):
                    await producer.send(b"%s %d" % (name, i))

            got: dict[bytes, list[int]] = {b"a": [], b"b": []}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, b"a")
                tasks.start_soon(send, b"b")
                for _ in range(1000):
                    name, number = (await receiver.receive(5)).split()
                    got[name].append(int(number))
            assert got == {b"a": list(range(500)), b"b": list(range(500))}
            receiver.acknowledge()

    front.run(test)
