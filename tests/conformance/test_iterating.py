"""What every front promises of going on where somebody has stopped."""

from __future__ import annotations

import os
from contextlib import aclosing, closing, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LETTERS = [b"a", b"b", b"c", b"d", b"e", b"f"]


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


@pytest.fixture
def receiver(address: str) -> Iterator[mpsr.Receiver[bytes]]:
    """Give a receiver to which two batches of three messages are on their way."""
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[bytes](address, linger=60) as producer,
    ):
        for half in (LETTERS[:3], LETTERS[3:]):
            producer.send_many(half)
            with suppress(mpsr.TimedOut):
                producer.flush(0)  # one batch
        yield receiver
        receiver.acknowledge()


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("way", ["receive_batch", "try_receive_batch", "batches"])
def test_the_rest_of_a_batch_comes_before_the_next(
    front: Front, address: str, tmp_path: Path, way: str, journaled: bool
) -> None:
    """Who has had its first messages one by one, and then asks for batches, misses none."""
    journal = tmp_path / "events.journal" if journaled else None

    async def test(front: Front) -> None:
        async with (
            front.receiver(address, journal=journal) as receiver,
            front.producer(address, label="label") as producer,
        ):
            await producer.send_many(LETTERS)
            got = [await receiver.receive(5), await receiver.receive(5)]
            if way == "receive_batch":
                rest = await receiver.receive_batch(5)
            elif way == "try_receive_batch":
                rest = receiver.try_receive_batch()
            else:
                rest = await anext(aiter(receiver.batches()))
            assert got + list(rest) == LETTERS
            assert (len(rest), rest.nbytes, rest.first_seq, rest.end_seq) == (4, 4, 2, 6)
            assert (rest.peer.pid, rest.producer.label) == (os.getpid(), "label")
            assert rest.position == (6 if journaled else None)
            assert receiver.stats().messages == 6
            receiver.acknowledge()
            await producer.flush(5)

    front.run(test)


@pytest.mark.parametrize("journaled", [False, True])
def test_only_what_was_handed_out_of_a_batch_is_acknowledged(
    front: Front, address: str, tmp_path: Path, journaled: bool
) -> None:
    """The rest of a batch is counted from its own first message."""
    journal = tmp_path / "events.journal" if journaled else None

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            async with front.receiver(address, journal=journal) as receiver:
                await producer.send_many(LETTERS)
                assert await receiver.receive(5) == b"a"
                assert list(await receiver.receive_batch(5)) == LETTERS[1:]
                receiver.acknowledge(2)
            async with front.receiver(address, journal=journal) as receiver:
                assert list(await receiver.receive_batch(5)) == LETTERS[3:]
                receiver.acknowledge()
                await producer.flush(5)

    front.run(test)


def test_the_rest_goes_on_behind_what_could_not_be_decoded(front: Front, address: str) -> None:
    """The bad message was handed out, by its DecodeError."""

    async def test(front: Front) -> None:
        async with (
            front.receiver(address, decode=msgspec.json.decode) as receiver,
            front.producer(address) as producer,
        ):
            await producer.send_many([b"1", b"x", b"3", b"4"])
            assert await receiver.receive(5) == 1
            with pytest.raises(mpsr.DecodeError):
                await receiver.receive(5)
            assert list(await receiver.receive_batch(5)) == [3, 4]
            receiver.acknowledge()

    front.run(test)


def test_next_gives_the_next_message(receiver: mpsr.Receiver[bytes]) -> None:
    assert next(receiver) == b"a"
    assert [next(receiver) for _ in range(3)] == [b"b", b"c", b"d"]
    receiver.stop()
    assert list(receiver) == [b"e", b"f"]
    assert next(receiver, None) is None
    with pytest.raises(StopIteration):
        next(receiver)


def test_a_loop_goes_on_where_another_has_stopped(receiver: mpsr.Receiver[bytes]) -> None:
    for message in receiver:
        if message == b"b":
            break
    assert list(islice(receiver, 2)) == [b"c", b"d"]
    assert list(zip([1, 2], receiver, strict=False)) == [(1, b"e"), (2, b"f")]


def test_iterators_share_the_receivers_place(receiver: mpsr.Receiver[bytes]) -> None:
    """Wherever they change over, in a batch or between two, each message comes once."""
    first, second = iter(receiver), iter(receiver)
    got = [next(first), next(second), receiver.receive(5), next(first), next(receiver)]
    got.append(next(second))
    assert got == LETTERS


def test_an_iterator_goes_on_behind_a_batch_that_came_otherwise(
    receiver: mpsr.Receiver[bytes],
) -> None:
    iterator = iter(receiver)
    assert next(iterator) == b"a"
    assert list(receiver.receive_batch(5)) == [b"b", b"c"]
    assert next(iterator) == b"d"
    assert [next(receiver), next(iterator)] == [b"e", b"f"]


def test_coming_back_for_more_acknowledges_as_in_a_loop(address: str) -> None:
    with mpsr.Producer[bytes](address) as producer:
        producer.send_many(LETTERS)
        with pytest.raises(ZeroDivisionError), mpsr.Receiver(address) as receiver:
            for _ in range(3):
                next(receiver)
            raise ZeroDivisionError  # with the third in hand
        with mpsr.Receiver(address) as receiver:
            assert [next(receiver) for _ in range(4)] == LETTERS[2:]
            receiver.acknowledge()
            producer.flush(5)


def test_a_receiver_is_closed_by_the_standard_librarys_closing(address: str) -> None:
    with closing(mpsr.Receiver(address)) as receiver, closing(mpsr.Producer(address)) as producer:
        producer.send(b"message")
        assert next(receiver) == b"message"
        receiver.acknowledge()
    with pytest.raises(mpsr.Closed):
        receiver.fileno()


@pytest.mark.parametrize("front", FRONTS[1:], ids=lambda front: front.name)
def test_async_fronts_are_closed_by_the_standard_librarys_aclosing(
    front: Any, address: str
) -> None:
    async def test(front: Front) -> None:
        async with aclosing(mpsr.AsyncReceiver(address)) as receiver:
            async with mpsr.AsyncProducer[bytes](address) as entered:
                async with aclosing(entered) as producer:
                    await producer.send(b"message")
                    assert await anext(receiver) == b"message"
                    receiver.acknowledge()
                with pytest.raises(mpsr.Closed):
                    await producer.send(b"more")
        with pytest.raises(mpsr.Closed):
            receiver.fileno()

    front.run(test)


def test_waiting_in_next_ends_with_the_receiver(address: str) -> None:
    """stop() in another thread ends the wait, as in a loop."""

    async def main() -> None:
        with mpsr.Receiver(address) as receiver:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, expect_end, receiver)
                receiver.stop()

    anyio.run(main)


def expect_end(receiver: mpsr.Receiver[bytes]) -> None:
    with pytest.raises(StopIteration):
        next(receiver)
