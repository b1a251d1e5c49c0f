"""What a producer drops although nobody asked for it is reported once, and it continues."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.engine.sending.drops import Drops
from mpsr.limits import KIB, MESSAGE_COST, MIB
from mpsr.wire.frames import LostReason
from tests.conformance.fronts import FRONTS, Front

if TYPE_CHECKING:
    from pathlib import Path

MOST = 8 * KIB
LARGE = [bytes(MOST + 1), b"x" * (MOST + 1)]


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


CASES: dict[str, dict[str, Any]] = {
    "stream": {},
    "seqpacket": {"type": "seqpacket"},
    "spool": {"spool": "spool"},
    "small buffer": {"buffer": MOST},
    "drop_newest": {"on_full": "drop_newest"},
    "raise": {"on_full": "raise"},
    "journal": {},
}


@pytest.mark.parametrize("case", CASES)
def test_flush_reports_messages_that_the_receiver_does_not_take_once(
    front: Front, address: str, tmp_path: Path, case: str
) -> None:
    """They were taken before it was known; the others arrive, and the producer continues."""
    options = CASES[case] | ({"spool": tmp_path / "spool"} if case == "spool" else {})
    kept: dict[str, Any] = {"max_message": MOST, "type": options.get("type", "stream")}
    large = LARGE
    if case == "journal":  # a message takes a fourth of it at most
        kept = {"journal": tmp_path / "journal", "journal_limit": 2 * MIB}
        large = [bytes(600_000), b"x" * (600_000)]
    sent = [b"first", large[0], b"middle", large[1], b"last"]
    if case == "small buffer":
        sent = [large[0]]

    async def test(front: Front) -> None:
        async with front.producer(address, **options) as producer:
            for message in sent:
                await producer.send(message)
            got: list[bytes] = []
            async with front.receiver(address, **kept) as receiver:

                async def receive() -> None:
                    async for batch in receiver.batches():
                        got.extend(batch)
                        if b"end" in got:
                            receiver.stop()

                async with front.beside(receive):
                    with pytest.raises(mpsr.Undelivered) as caught:
                        await producer.flush(20)
                    await producer.flush(20)
                    with pytest.raises(mpsr.MessageTooLarge):
                        await producer.send(large[0])
                    await producer.send(b"end")
                    await producer.flush(20)
            dropped = [message for message in sent if message in large]
            assert caught.value.messages == dropped
            assert caught.value.count == producer.stats().lost == len(dropped)
            assert "dropped: the receiver takes " in str(caught.value)
            assert got == [*(message for message in sent if message not in large), b"end"]

    front.run(test)


def test_close_reports_what_no_flush_has(front: Front, address: str) -> None:
    """Also if a receiver with a smaller limit comes after one that has not accepted it."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send(LARGE[0])
            with suppress(ZeroDivisionError):
                async with front.receiver(address) as receiver:
                    assert await receiver.receive(20) == LARGE[0]
                    raise ZeroDivisionError  # it ends without having accepted the message
            async with front.receiver(address, max_message=MOST) as receiver:

                async def receive() -> None:
                    async for batch in receiver.batches():
                        if batch:
                            receiver.stop()

                async with front.beside(receive):
                    await producer.send(b"end")
                    with pytest.raises(mpsr.Undelivered) as caught:
                        await producer.close(20)
        assert caught.value.messages == [LARGE[0]]

    front.run(test)


@pytest.mark.parametrize(
    ("framing", "limit"), [("native", 4072), ("native", 4096), ("null", 1), ("length", 1000)]
)
def test_limit_of_a_receiver_is_exact(front: Front, address: str, framing: str, limit: int) -> None:
    """The smallest that is allowed, too: a message of one byte more never arrives."""

    async def test(front: Front) -> None:
        async with (
            front.receiver(address, framing=framing, max_message=limit) as receiver,
            front.producer(address, framing=framing) as large,
        ):
            await large.send(b"x" * (limit + 1))
            async with front.producer(address, framing=framing) as producer:
                await producer.send(b"x" * limit)
                got = await receiver.receive_batch(20)
                while not got:
                    got = await receiver.receive_batch(20)
                assert list(got) == [b"x" * limit]
                receiver.acknowledge()
            with suppress(mpsr.Undelivered):
                await large.close(20)

    front.run(test)


def test_messages_to_report_take_a_bounded_memory() -> None:
    """Beyond it they are counted; each reason is reported by itself."""
    large, files = LostReason.TOO_LARGE, LostReason.FILE_REFUSED
    drops = Drops(3 * (10 + MESSAGE_COST))
    drops.add(files, [b"f" * 10])
    drops.add(large, [b"%d" % i * 10 for i in range(5)])
    assert drops.take(large) == (5, [b"0" * 10, b"1" * 10])
    assert drops.take(large) == (0, [])
    drops.add(large, [bytes(1000)])
    assert drops.take(large) == (1, [])
    assert drops.take(files) == (1, [b"f" * 10])
    drops.add(large, [bytes(1000)])
    assert drops.take(large) == (1, [bytes(1000)])
