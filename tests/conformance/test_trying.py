"""What never waits does as much as can be done now, on every front."""

from __future__ import annotations

import pytest

import mpsr
from tests.conformance.fronts import FRONTS, Front

MESSAGES = [b"%d" % number + bytes(9) for number in range(10)]  # each takes 18 bytes of buffer


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


@pytest.mark.parametrize("on_full", ["block", "raise"])
def test_trying_takes_what_there_is_room_for(front: Front, address: str, on_full: str) -> None:
    """It says how many that were; the others can be tried again, and all arrive once."""

    async def test(front: Front) -> None:
        async with front.producer(address, buffer=100, on_full=on_full) as producer:
            assert producer.try_send_many(MESSAGES) == 5
            assert producer.try_send_many(MESSAGES[5:]) == 0
            assert not producer.try_send(MESSAGES[5])
            assert producer.stats().sent == 5
            async with front.receiver(address) as receiver:
                got = [await receiver.receive(10) for _ in range(5)]
                receiver.acknowledge()
                await producer.flush(10)
                assert producer.try_send_many(iter(MESSAGES[5:])) == 5
                got += [await receiver.receive(10) for _ in range(5)]
                receiver.acknowledge()
                await producer.flush(10)
            assert got == MESSAGES

    front.run(test)


def test_trying_takes_none_of_messages_of_which_one_is_too_large(
    front: Front, address: str
) -> None:
    """Nobody has to find out which were taken."""

    async def test(front: Front) -> None:
        async with front.producer(address, max_message=10) as producer:
            with pytest.raises(mpsr.MessageTooLarge):
                producer.try_send_many([b"short", bytes(11)])
            with pytest.raises(mpsr.MessageTooLarge):
                producer.try_send(bytes(11))
            assert producer.try_send_many([]) == 0
            assert producer.stats().sent == 0

    front.run(test)


def test_trying_receives_what_has_arrived(front: Front, address: str) -> None:
    """None is the answer where nothing has, and acknowledges what was handed out before."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver, front.producer(address) as producer:
            assert receiver.try_receive() is None
            await producer.send_many([b"first", b"second"])
            assert await receiver.receive(10) == b"first"
            assert receiver.try_receive() == b"second"
            assert receiver.try_receive() is None
            await producer.flush(10)
            receiver.stop()
            with pytest.raises(mpsr.Closed):
                while True:
                    assert receiver.try_receive() is None

    front.run(test)


def test_trying_goes_on_behind_what_cannot_be_decoded(front: Front, address: str) -> None:
    """The error names the one message; the next call gives the next."""

    async def test(front: Front) -> None:
        async with (
            front.receiver(address, decode=int) as receiver,
            front.producer(address) as producer,
        ):
            await producer.send_many([b"1", b"two", b"3"])
            assert await receiver.receive(10) == 1
            with pytest.raises(mpsr.DecodeError):
                receiver.try_receive()
            assert receiver.try_receive() == 3
            receiver.acknowledge()

    front.run(test)
