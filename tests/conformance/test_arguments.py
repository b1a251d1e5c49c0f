"""What every front refuses of its methods' arguments, and what None means to them."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = "pass a number of seconds, 0 or more, or None"


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


@pytest.mark.parametrize("timeout", [-1, -0.5, nan, inf, "5", True, b"1"])
def test_a_wrong_time_out_is_refused_at_once(front: Front, address: str, timeout: Any) -> None:
    """Also where nothing would have been waited for; and nothing is taken."""
    shown = f"timeout={timeout!r}: {SECONDS}"

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            async with front.producer(address) as producer:
                for method, *arguments in (
                    (producer.send, b"message"),
                    (producer.send_many, [b"message"]),
                    (producer.flush,),
                    (producer.close,),
                    (receiver.receive,),
                    (receiver.receive_batch,),
                ):
                    with pytest.raises(mpsr.ConfigurationError) as caught:
                        await method(*arguments, timeout=timeout)
                    assert str(caught.value) == shown
                assert producer.stats().sent == 0
                await producer.send(b"message", timeout=0)
                await receiver.receive(5)
                receiver.acknowledge()

    front.run(test)


def test_no_time_out_waits_for_ever_whatever_the_producers_own(front: Front, address: str) -> None:
    """send(timeout=None) is not the producer's own time-out: it waits until there is room."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            async with front.producer(address, buffer=2000, timeout=0) as producer:
                await producer.send(bytes(1500))
                with pytest.raises(mpsr.SendTimedOut):
                    await producer.send(bytes(1000))
                with pytest.raises(mpsr.SendTimedOut):
                    await producer.send_many([bytes(1000)])

                async def receive() -> None:
                    for size in (1500, 1001, 1002):
                        assert len(await receiver.receive(5)) == size
                    receiver.acknowledge()

                async with front.beside(receive):
                    await producer.send(bytes(1001), timeout=None)
                    await producer.send_many([bytes(1002)], timeout=None)

    front.run(test)


@pytest.mark.parametrize("single", ["text", b"bytes", bytearray(b"array"), memoryview(b"view")])
def test_one_message_is_not_taken_for_several(front: Front, address: str, single: Any) -> None:
    """send_many(b"...") would send its bytes one by one."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            with pytest.raises(mpsr.WrongType) as caught:
                await producer.send_many(single)
            assert str(caught.value) == (
                f"messages is a single {type(single).__name__}: pass a list of messages, or use "
                "send()"
            )
            assert producer.stats().sent == 0

    front.run(test)


def test_text_is_refused_with_the_way_to_encode_it(front: Front, address: str) -> None:
    """A newcomer's commonest slip, on every way in, also where encode= returns text."""
    sentence = (
        "a message is bytes-like, not str: encode it, as text.encode() does, or give the producer "
        "an encode= that returns bytes"
    )

    async def test(front: Front) -> None:
        text: Any = "text"
        async with (
            front.producer(address) as producer,
            front.producer(address, encode=str.strip) as encoding,
        ):
            for each in (producer, encoding):
                for method, message in ((each.send, text), (each.send_many, [text])):
                    with pytest.raises(TypeError) as caught:
                        await method(message)
                    assert str(caught.value) == sentence
                with pytest.raises(TypeError) as caught:
                    each.try_send(text)
                assert str(caught.value) == sentence
                assert each.stats().sent == 0

    front.run(test)


@pytest.mark.parametrize("journaled", [False, True])
def test_no_more_is_acknowledged_than_was_handed_out(
    front: Front, address: str, tmp_path: Path, journaled: bool
) -> None:
    """A count beyond the batch is refused: it would accept messages that nobody has seen."""
    journal = tmp_path / "events.journal" if journaled else None

    async def test(front: Front) -> None:
        async with front.receiver(address, journal=journal) as receiver:
            async with front.producer(address) as producer:
                await producer.send_many([b"a", b"b", b"c"])
                batch = await receiver.receive_batch(5)
                assert len(batch) == 3
                for count in (-1, 4):
                    with pytest.raises(mpsr.ConfigurationError) as caught:
                        receiver.acknowledge(count)
                    assert str(caught.value) == f"count={count}: pass 0 to 3 messages"
                with pytest.raises(mpsr.WrongType, match=r"^count='2': pass a whole number"):
                    receiver.acknowledge("2")
                receiver.acknowledge(3)
                await producer.flush(5)

    front.run(test)


def test_a_readers_arguments_are_checked(front: Front, address: str, tmp_path: Path) -> None:
    """By what the journal holds, too."""

    async def test(front: Front) -> None:
        async with front.receiver(address, journal=tmp_path / "events.journal") as receiver:
            with pytest.raises(mpsr.WrongType, match=r"^after='5': pass a whole number"):
                await anext(receiver.batches(after="5"))
            with pytest.raises(mpsr.ConfigurationError, match=r"^after=-5: .* holds"):
                await anext(receiver.batches(after=-5))
            with pytest.raises(mpsr.WrongType, match=r"^cursor=5: pass text"):
                await anext(receiver.batches(cursor=5))

    front.run(test)
