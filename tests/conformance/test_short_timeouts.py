"""A call that can be done at once is done, however short the caller's time-out is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import anyio
import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front

SHORT = 0.0004  # seconds: uvloop rounds it to none


@pytest.fixture(params=FRONTS[1:3], ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give asyncio, then uvloop: ``wait_for`` is asyncio's."""
    given = request.param
    assert isinstance(given, Front)
    return given


@pytest.mark.parametrize("pause", [0, 0.002])
def test_receive_returns_a_waiting_message_within_any_time_out(
    front: Front, address: str, pause: float
) -> None:
    """Also if the caller does something else in between, and with receive_batch()."""

    async def test(front: Front) -> None:
        async with mpsr.AsyncReceiver(address) as receiver:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                client.sendall(b"connected\n")
                assert await receiver.receive(5) == b"connected"
                for _ in range(50):
                    client.sendall(b"one\n")
                    await asyncio.sleep(pause)
                    assert await asyncio.wait_for(receiver.receive(), SHORT) == b"one"
                    client.sendall(b"two\n")
                    await asyncio.sleep(pause)
                    batch = await asyncio.wait_for(receiver.receive_batch(), SHORT)
                    assert list(batch) == [b"two"]

    front.run(test)


def test_send_and_flush_end_within_any_time_out(front: Front, address: str) -> None:
    """A message that is taken is not reported as timed out; flush() returns if all is accepted."""

    async def test(_: Front) -> None:
        async with (
            mpsr.AsyncReceiver(address) as receiver,
            mpsr.AsyncProducer(address, linger=0) as producer,
        ):
            for number in range(50):
                await asyncio.wait_for(producer.send(b"%d" % number), SHORT)
                await asyncio.sleep(0)
                await asyncio.wait_for(producer.send_many([bytes(100_000)]), SHORT)
                got = [await receiver.receive(5) for _ in range(2)]
                assert got == [b"%d" % number, bytes(100_000)]
                receiver.acknowledge()
                await producer.flush(5)
                await asyncio.sleep(0)
                await asyncio.wait_for(producer.flush(), SHORT)

    front.run(test)


def test_calls_that_never_wait_let_other_tasks_run(front: Front, address: str) -> None:
    """A task that receives, sends or polls without a pause starves no other task."""

    async def test(_: Front) -> None:
        ran = 0

        async def other() -> None:
            nonlocal ran
            while True:
                await asyncio.sleep(0)
                ran += 1

        async with mpsr.AsyncReceiver(address) as receiver, mpsr.AsyncProducer(address) as producer:
            task = asyncio.ensure_future(other())
            for call in (producer.flush, _no_message(receiver)):
                before = ran
                with anyio.fail_after(20):
                    while ran < before + 5:
                        await call()
            task.cancel()

    front.run(test)


def _no_message(receiver: mpsr.AsyncReceiver) -> Callable[[], Awaitable[None]]:
    async def receive() -> None:
        with pytest.raises(mpsr.TimedOut):
            await receiver.receive(0)

    return receive
