"""Open files, through every front."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.limits import MAX_FILES
from tests.conformance.fronts import FRONTS, Front

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    front: Front = request.param
    return front


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("what it holds")
    return path


def test_files_come_with_their_messages_in_order(front: Front, address: str, path: Path) -> None:
    """By path, by descriptor and as an open file; what is not taken is closed."""

    async def test(front: Front) -> None:
        received: list[tuple[bytes, list[bytes]]] = []
        async with (
            front.receiver(address, accept_files=True) as receiver,
            front.producer(address) as producer,
        ):

            async def receive() -> None:
                async for batch in receiver.batches():
                    held = [os.pread(each, 100, 0) for each in batch.files]
                    received.extend((message, held) for message in batch)
                    if received[-1][0] == b"end":
                        receiver.stop()

            async with front.beside(receive):
                await producer.send(b"first")
                await producer.send_file(path, b"path")
                with path.open() as opened:
                    await producer.send_file(opened.fileno(), b"descriptor")
                    assert producer.try_send_file(opened, b"open file")
                await producer.send(b"end")
                await producer.flush(20)
        held = [b"what it holds"]
        assert received == [
            (b"first", []),
            (b"path", held),
            (b"descriptor", held),
            (b"open file", held),
            (b"end", []),
        ]

    front.run(test)


def test_files_wait_for_room(front: Front, address: str, path: Path) -> None:
    """More than may wait are sent all the same, as the receiver accepts them."""

    async def test(front: Front) -> None:
        count = 0
        async with (
            front.receiver(address, accept_files=True) as receiver,
            front.producer(address) as producer,
        ):

            async def receive() -> None:
                nonlocal count
                async for batch in receiver.batches():
                    count += len(batch.files)
                    if count == 2 * MAX_FILES:
                        receiver.stop()

            async with front.beside(receive):
                for _ in range(2 * MAX_FILES):
                    await producer.send_file(path, timeout=20)
                await producer.flush(20)

    front.run(test)


def test_refused_files_are_told_of(front: Front, address: str, path: Path) -> None:
    """By the next flush, and by the next call once the receiver has answered."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send_file(path, b"dropped")
            async with front.receiver(address) as receiver:

                async def receive() -> None:
                    async for batch in receiver.batches():
                        if batch:  # the first may be empty, and only report the loss
                            receiver.stop()

                async with front.beside(receive):
                    await producer.send(b"end")
                    with pytest.raises(mpsr.FilesRefused) as caught:
                        await producer.flush(20)
                    assert caught.value.messages == [b"dropped"]
                    assert producer.stats().lost == 1

    front.run(test)


def test_path_that_cannot_be_opened_raises_what_the_system_says(
    front: Front, address: str, path: Path
) -> None:
    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            with pytest.raises(NotADirectoryError):
                await producer.send_file(path / "below")
            assert producer.stats().sent == 0

    front.run(test)
