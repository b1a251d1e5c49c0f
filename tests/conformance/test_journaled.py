"""What every front promises of a receiver with a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


def words(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def test_flush_returns_once_the_journal_has_it(front: Front, address: str, tmp_path: Path) -> None:
    """Nobody needs to handle it first; and it is still there for the next receiver."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            async with front.receiver(address, journal=tmp_path / "events.journal"):
                await producer.send_many(words(1, 10))
                await producer.flush(5)
                assert producer.stats().accepted == 10
            async with front.receiver(address, journal=tmp_path / "events.journal") as receiver:
                assert [await receiver.receive(5) for _ in range(4)] == words(1, 4)
            async with front.receiver(address, journal=tmp_path / "events.journal") as receiver:
                batch = await receiver.receive_batch(5)
                assert (list(batch), batch.position, batch.first_seq) == (words(5, 10), 10, 4)

    front.run(test)


def test_stop_hands_out_all_that_had_come(front: Front, address: str, tmp_path: Path) -> None:
    """Iteration ends behind it; each message came once."""

    async def test(front: Front) -> None:
        came: list[bytes] = []
        async with front.receiver(address, journal=tmp_path / "events.journal") as receiver:

            async def produce() -> None:
                async with front.producer(address) as producer:
                    for number in range(500):
                        await producer.send(b"%d" % number)
                receiver.stop()

            async with front.beside(produce):
                came += [message async for message in receiver]
        assert came == words(0, 499)

    front.run(test)


def test_cursors_and_positions_are_followed(front: Front, address: str, tmp_path: Path) -> None:
    """Apart from the receiver's own cursor, each from its own place."""

    async def test(front: Front) -> None:
        async with front.receiver(address, journal=tmp_path / "events.journal") as receiver:
            async with front.producer(address) as producer:
                await producer.send_many(words(1, 10))
            receiver.stop()
            archived = [list(batch) async for batch in receiver.batches(cursor="archive")]
            assert archived == [words(1, 10)]
            again = [list(batch) async for batch in receiver.batches(cursor="archive")]
            assert again == []
            behind = [list(batch) async for batch in receiver.batches(after=3)]
            assert behind == [words(4, 10)]
            with pytest.raises(mpsr.ConfigurationError, match="after=11"):
                async for _ in receiver.batches(after=11):
                    pass

    front.run(test)


def test_failed_handler_leaves_its_batch_to_the_next(
    front: Front, address: str, tmp_path: Path
) -> None:
    """An exception in the loop leaves the cursor before the batch in hand."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    async with front.receiver(
                        address, journal=tmp_path / "events.journal"
                    ) as receiver:
                        if not producer.stats().sent:
                            await producer.send_many(words(1, 3))
                        async for batch in receiver.batches():
                            assert list(batch) == words(1, 3)
                            raise ZeroDivisionError
            async with front.receiver(address, journal=tmp_path / "events.journal") as receiver:
                assert await receiver.receive(5) == b"1"

    front.run(test)


@pytest.mark.parametrize("front", FRONTS[1:], ids=lambda front: front.name)
def test_cancelled_receive_has_passed_nothing(front: Front, address: str, tmp_path: Path) -> None:
    """Whenever it is cancelled, the next one gets the message; a cursor's reader too."""

    async def test(front: Front) -> None:
        got: list[bytes] = []
        archived: list[bytes] = []
        async with (
            front.receiver(address, journal=tmp_path / "events.journal") as receiver,
            front.producer(address, linger=0) as producer,
        ):

            async def receive() -> None:
                while len(got) < 100:
                    with anyio.move_on_after(0.002):
                        got.append(await receiver.receive())

            async def archive() -> None:
                while len(archived) < 100:
                    with anyio.move_on_after(0.01):
                        async for batch in receiver.batches(cursor="archive"):
                            archived.extend(batch)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                tasks.start_soon(archive)
                for message in words(1, 100):
                    await producer.send(message)
                    await anyio.sleep(0.0005)
        assert (got, archived) == (words(1, 100), words(1, 100))

    front.run(test)
