"""What every front promises, each promise tested once for all of them."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mpsr
from mpsr.limits import CLOSE_TIMEOUT
from tests.conformance.fronts import FRONTS, Front


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    """Give one front after the other."""
    given = request.param
    assert isinstance(given, Front)
    return given


def connect(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(address)
    return sock


def test_messages_arrive_whole_and_in_order(front: Front, address: str) -> None:
    """Bytes go in at one end and come out at the other, empty and large ones too."""
    sent = [b"", b"a", b"\0\n\r\xff", bytes(10_000_000), *(b"%d" % i for i in range(5000))]

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:

            async def produce() -> None:
                async with front.producer(address) as producer:
                    for message in sent:
                        await producer.send(message)

            async with front.beside(produce):
                got = [await receiver.receive(10) for _ in sent]
                with pytest.raises(mpsr.TimedOut):  # coming back acknowledges the last
                    await receiver.receive(0)
            assert got == sent

    front.run(test)


def test_messages_sent_one_by_one_are_all_accepted(front: Front, address: str) -> None:
    """However many acknowledgements nobody has read, none is lost when the receiver ends."""

    async def test(front: Front) -> None:
        async with (
            front.receiver(address) as receiver,
            front.producer(address, linger=0) as producer,
        ):
            for number in range(600):
                await producer.send(b"%d" % number)
                assert await receiver.receive(10) == b"%d" % number
            receiver.acknowledge()
            await receiver.close()
            await producer.flush(10)
            assert producer.stats().accepted == 600

    front.run(test)


@pytest.mark.parametrize("on_full", ["raise", "drop_newest", "drop_oldest"])
def test_accepted_messages_fill_no_buffer(front: Front, address: str, on_full: str) -> None:
    """What the receiver has accepted takes no room, whether or not anybody asked for that."""

    async def test(front: Front) -> None:
        options = {"buffer": 1000, "on_full": on_full}
        async with (
            front.receiver(address) as receiver,
            front.producer(address, **options) as producer,
        ):
            await producer.send(b"first")
            assert await receiver.receive(10) == b"first"
            for number in range(40):
                receiver.acknowledge()
                await producer.send(b"%100d" % number)
                assert await receiver.receive(10) == b"%100d" % number
            receiver.acknowledge()
            assert producer.stats().lost == 0

    front.run(test)


def test_bytes_like_messages_are_copied_when_taken(front: Front, address: str) -> None:
    """What the caller does to a buffer after send() does not change the message."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            buffer = bytearray(b"before")
            await producer.send(buffer)
            buffer[:] = b"after!"
            await producer.send(memoryview(b"view")[1:])
            async with front.receiver(address) as receiver:
                assert await receiver.receive(5) == b"before"
                assert await receiver.receive(5) == b"iew"

    front.run(test)


@pytest.mark.parametrize("message", ["text", 5, None, [b"a"]])
def test_a_message_that_is_not_bytes_is_refused(
    front: Front, address: str, message: object
) -> None:
    """send() of anything but bytes-like is a TypeError that says what to do."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            with pytest.raises(TypeError, match="encode"):
                await producer.send(message)

    front.run(test)


def test_a_batch_knows_its_sender(front: Front, address: str) -> None:
    """A batch carries the kernel's word, the producer's own, numbers and sizes."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            async with front.producer(address, label="worker") as producer:
                await producer.send_many([b"ab", b"", b"cde"])
                batch = await receiver.receive_batch(5)
                assert list(batch) == [b"ab", b"", b"cde"]
                assert (len(batch), batch.nbytes, batch.first_seq, batch.lost) == (3, 5, 0, 0)
                assert batch.peer == mpsr.Peer(os.getpid(), os.getuid(), os.getgid())
                assert batch.producer == mpsr.ProducerIdentity(producer.id, "worker")
                assert batch[-1] == b"cde"
                assert batch[:2] == [b"ab", b""]
                receiver.acknowledge()

    front.run(test)


def test_receive_keeps_its_time_out(front: Front, address: str) -> None:
    """With nothing there, receive() raises TimedOut, which says where it waited."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            assert receiver.try_receive_batch() is None
            for timeout in (0, 0.02):
                with pytest.raises(mpsr.TimedOut, match="no message came"):
                    await receiver.receive(timeout)

    front.run(test)


def test_a_time_out_may_be_longer_than_the_system_can_wait(front: Front, address: str) -> None:
    """Years are a time-out like any other."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver, front.producer(address) as producer:
            await producer.send(b"x")
            assert await receiver.receive(1e9) == b"x"
            receiver.acknowledge()
            await producer.flush(1e9)

    front.run(test)


def test_flush_waits_until_the_receiver_came_back_for_more(front: Front, address: str) -> None:
    """A message that is being handled is not accepted yet; coming back accepts it."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver, front.producer(address) as producer:
            await producer.send(b"one")
            assert await receiver.receive(5) == b"one"
            with pytest.raises(mpsr.TimedOut, match="waits for itself"):
                await producer.flush(0.05)
            assert receiver.try_receive_batch() is None
            await producer.flush(5)
            assert producer.stats().accepted == 1

    front.run(test)


def test_messages_sent_before_the_receiver_starts_are_delivered(front: Front, address: str) -> None:
    """A producer waits for its receiver on its own."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send(b"early")
            with pytest.raises(mpsr.TimedOut, match="nothing is there"):
                await producer.flush(0.05)
            async with front.receiver(address) as receiver:
                assert await receiver.receive(5) == b"early"

    front.run(test)


def test_what_a_failed_handler_had_in_hand_is_sent_again(front: Front, address: str) -> None:
    """An exception in the loop leaves the message in hand for the next receiver."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send_many([b"0", b"1", b"2", b"3"])
            with pytest.raises(ZeroDivisionError):
                async with front.receiver(address) as receiver:
                    async for message in receiver:
                        if message == b"2":
                            raise ZeroDivisionError
            async with front.receiver(address) as receiver:
                assert [await receiver.receive(5) for _ in range(2)] == [b"2", b"3"]

    front.run(test)


def test_close_acknowledges_exactly_what_was_handed_out(front: Front, address: str) -> None:
    """What was not handed out goes to the next receiver, what was does not."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send_many([b"0", b"1", b"2"])
            async with front.receiver(address) as receiver:
                assert await receiver.receive(5) == b"0"
            async with front.receiver(address) as receiver:
                batch = await receiver.receive_batch(5)
                assert (list(batch), batch.first_seq) == ([b"1", b"2"], 1)
                receiver.acknowledge(1)
            async with front.receiver(address) as receiver:
                assert await receiver.receive(5) == b"2"
        assert producer.stats() == producer.stats()._replace(sent=3, accepted=3, lost=0)

    front.run(test)


def test_acknowledging_between_messages_keeps_the_rest_of_the_batch(
    front: Front, address: str
) -> None:
    """acknowledge() accepts what was handed out so far; coming back accepts the rest."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver, front.producer(address) as producer:
            await producer.send_many([b"0", b"1"])
            assert await receiver.receive(5) == b"0"
            receiver.acknowledge()
            with pytest.raises(mpsr.TimedOut):
                await producer.flush(0.05)
            assert producer.stats().accepted == 1
            assert await receiver.receive(5) == b"1"
            receiver.acknowledge()
            await producer.flush(5)

    front.run(test)


def test_a_batch_left_by_an_exception_is_sent_again_whole(front: Front, address: str) -> None:
    """Batches are accepted or sent again as a whole."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send_many([b"0", b"1"])
            with pytest.raises(ZeroDivisionError):
                async with front.receiver(address) as receiver:
                    async for _ in receiver.batches():
                        raise ZeroDivisionError
            async with front.receiver(address) as receiver:
                assert list(await receiver.receive_batch(5)) == [b"0", b"1"]

    front.run(test)


def test_encode_and_decode_carry_objects(front: Front, address: str) -> None:
    """encode= and decode= take any callables, for messages and for batches."""
    encode, decode = msgspec.json.encode, msgspec.json.decode

    async def test(front: Front) -> None:
        async with (
            front.receiver(address, decode=decode) as receiver,
            front.producer(address, encode=encode) as producer,
        ):
            await producer.send({"n": 1})
            assert await receiver.receive(5) == {"n": 1}
            await producer.send_many([[1], "two"])
            batch = await receiver.receive_batch(5)
            assert (list(batch), batch[0], batch[:1]) == ([[1], "two"], [1], [[1]])
            assert batch.raw == [b"[1]", b'"two"']
            receiver.acknowledge()

    front.run(test)


def test_a_message_that_cannot_be_decoded_is_given_back_and_passed(
    front: Front, address: str
) -> None:
    """DecodeError carries the bytes; the next receive() goes on behind them."""

    async def test(front: Front) -> None:
        async with front.receiver(address, decode=int) as receiver:
            async with front.producer(address) as producer:
                await producer.send_many([b"1", b"x", b"3"])
                assert await receiver.receive(5) == 1
                with pytest.raises(mpsr.DecodeError) as caught:
                    await receiver.receive(5)
                assert caught.value.body == b"x"
                assert await receiver.receive(5) == 3
                receiver.acknowledge()

    front.run(test)


def test_a_full_buffer_raises_if_asked_to(front: Front, address: str) -> None:
    """on_full="raise" gives the messages back that were not taken."""

    async def test(front: Front) -> None:
        producer = front.producer(address, on_full="raise", buffer=3000)
        with pytest.raises(mpsr.Undelivered) as undelivered:
            async with producer:
                with pytest.raises(mpsr.BufferFull) as full:
                    await producer.send_many([bytes(900) + b"%d" % i for i in range(5)])
                assert [m[-1:] for m in full.value.messages] == [b"3", b"4"]
                assert not producer.try_send(bytes(900))
                await producer.close(0)
                await producer.close(0)
        assert undelivered.value.count == 3

    front.run(test)


def test_a_full_buffer_blocks_until_the_time_out(front: Front, address: str) -> None:
    """on_full="block" waits for room, and gives the message back when none comes."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            async with front.producer(address, buffer=2000, timeout=0.05) as producer:
                await producer.send(bytes(1500))
                for timeout in ((), (0.02,)):
                    with pytest.raises(mpsr.SendTimedOut) as caught:
                        await producer.send(b"x" * 1000, *timeout)
                    assert caught.value.messages == [b"x" * 1000]

                async def receive() -> None:
                    assert await receiver.receive(5) == bytes(1500)
                    assert await receiver.receive(5) == b"y" * 1000
                    receiver.acknowledge()

                async with front.beside(receive):
                    await producer.send(b"y" * 1000, 5)

    front.run(test)


def test_a_block_that_ends_for_want_of_a_receiver_does_not_wait_again(
    front: Front, address: str
) -> None:
    """What timed out is told at once, with what is not delivered."""

    async def test(front: Front) -> None:
        for wait in ("flush", "send"):
            since = time.monotonic()
            with pytest.raises(mpsr.TimedOut) as caught:
                async with front.producer(address, buffer=1000) as producer:
                    await producer.send(bytes(1000))
                    if wait == "flush":
                        await producer.flush(0.05)
                    else:
                        await producer.send(bytes(1000), 0.05)
            assert time.monotonic() - since < 0.9 * CLOSE_TIMEOUT
            assert "1 message to" in caught.value.__notes__[0]
            assert "not delivered" in caught.value.__notes__[0]

    front.run(test)


def test_a_block_that_a_time_out_ends_delivers_to_a_receiver_that_is_there(
    front: Front, address: str
) -> None:
    """Who did not wait longer for a slow receiver loses nothing by it."""

    async def test(front: Front) -> None:
        sent = [bytes(100_000)] * 100
        errors: list[mpsr.TimedOut] = []

        async def produce() -> None:
            try:
                async with front.producer(address) as producer:
                    for message in sent:
                        assert producer.try_send(message)
                    await producer.flush(0)
            except mpsr.TimedOut as exc:
                errors.append(exc)

        async with front.receiver(address) as receiver:
            async with front.producer(address) as first:
                await first.send(b"first")
                await receiver.receive(5)  # so that it is there
                receiver.acknowledge()
            got: list[bytes] = []
            async with front.beside(produce):
                while len(got) < len(sent):
                    got.extend(await receiver.receive_batch(5))
                receiver.acknowledge()
            assert got == sent
            assert [hasattr(error, "__notes__") for error in errors] == [False]

    front.run(test)


@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest"])
def test_every_dropped_message_is_counted_on_both_ends(
    front: Front, address: str, on_full: str
) -> None:
    """Sent = accepted + lost, and the receiver is told the same number."""

    async def test(front: Front) -> None:
        async with front.producer(address, on_full=on_full, buffer=10_000) as producer:
            for i in range(1000):
                await producer.send(b"%5d" % i * 10)
            lost = producer.stats().lost
            assert lost > 0
            async with front.receiver(address) as receiver:
                got: list[int] = []
                told = 0
                while len(got) + told < 1000:
                    batch = await receiver.receive_batch(5)
                    told += batch.lost
                    got += [int(message[:5]) for message in batch]
                assert (told, receiver.stats().lost) == (lost, lost)
                assert got == sorted(got)
                assert got[0] == (0 if on_full == "drop_newest" else lost)
                assert receiver.try_receive_batch() is None
                await producer.flush(5)
                stats = producer.stats()
                assert (stats.sent, stats.accepted + stats.lost) == (1000, 1000)

    front.run(test)


def test_what_cannot_be_delivered_is_raised_at_the_end(front: Front, address: str) -> None:
    """close() raises Undelivered, which carries the messages."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send_many([b"a", b"b"])
            with pytest.raises(mpsr.Undelivered, match="2 messages") as caught:
                await producer.close(0.05)
            assert caught.value.messages == [b"a", b"b"]
            with pytest.raises(mpsr.Closed):
                await producer.send(b"c")

    front.run(test)


def test_stop_ends_the_iteration_after_what_has_arrived(front: Front, address: str) -> None:
    """stop() lets the loop finish what is there, then ends it; nothing waits for more."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            with connect(address) as client:
                client.sendall(b"one\ntwo\n")
                receiver.stop()
                assert [message async for message in receiver] == [b"one", b"two"]
                assert [batch async for batch in receiver.batches()] == []
                with pytest.raises(mpsr.Closed, match="stopped"):
                    await receiver.receive()

    front.run(test)


@pytest.mark.parametrize("journaled", [False, True])
def test_stop_may_be_called_at_any_time_and_any_number_of_times(
    front: Front, address: str, tmp_path: Path, *, journaled: bool
) -> None:
    """Before, during and after the iteration, and once the receiver is closed."""

    async def test(front: Front) -> None:
        journal = tmp_path / "journal" if journaled else None
        async with front.receiver(address, journal=journal) as receiver:
            async with front.producer(address) as producer:
                await producer.send_many([b"one", b"two"])
                async for message in receiver:
                    receiver.stop()
                    receiver.stop()
                    assert message in {b"one", b"two"}
            receiver.stop()
        receiver.stop()
        await receiver.close()
        receiver.stop()

    front.run(test)


def test_foreign_clients_are_told_apart_by_their_first_byte(front: Front, address: str) -> None:
    """Lines, length-delimited and native connections meet in one receiver."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            with connect(address) as client:
                client.sendall(b"line\r\nrest")
            with connect(address) as client:
                client.sendall(b"\0\0\0\x03\n\n\n")
            async with front.producer(address) as producer:
                await producer.send(b"native")
                got = {await receiver.receive(5) for _ in range(4)}
                assert got == {b"line", b"rest", b"\n\n\n", b"native"}
                receiver.acknowledge()

    front.run(test)


@pytest.mark.parametrize("framing", ["lines", "null", "length", "eof"])
def test_a_producer_speaks_foreign_framings(front: Front, address: str, framing: str) -> None:
    """What a producer sends in a foreign framing comes out whole."""

    async def test(front: Front) -> None:
        async with front.receiver(address, framing=framing) as receiver:
            async with front.producer(address, framing=framing) as producer:
                await producer.send_many([b"a", b"bc"])
                await producer.flush(5)
            got = sorted([await receiver.receive(5), await receiver.receive(5)])
            assert got == [b"a", b"bc"]

    front.run(test)


def test_a_message_that_a_framing_cannot_carry_is_refused(front: Front, address: str) -> None:
    """A newline inside a line would be a boundary; nothing of that call is taken."""

    async def test(front: Front) -> None:
        async with front.producer(address, framing="lines") as producer:
            with pytest.raises(mpsr.UnframeableMessage, match="another framing"):
                await producer.send_many([b"good", b"a\nb"])
            assert producer.stats().sent == 0

    front.run(test)


def test_a_message_over_the_limit_is_refused_at_the_producer(front: Front, address: str) -> None:
    """MessageTooLarge comes before anything of that call is taken."""

    async def test(front: Front) -> None:
        async with front.producer(address, max_message=10) as producer:
            with pytest.raises(mpsr.MessageTooLarge, match="11 bytes"):
                await producer.send_many([b"good", bytes(11)])
            assert producer.stats().sent == 0

    front.run(test)


def test_batches_stay_within_a_small_limit_of_both_ends(front: Front, address: str) -> None:
    """A producer with the receiver's own small limit sends no frame that it refuses."""

    async def test(front: Front) -> None:
        async with (
            front.producer(address, max_message=5000) as producer,
            front.receiver(address, max_message=5000) as receiver,
        ):
            await producer.send_many([bytes(1000)] * 100)
            count = 0
            while count < 100:
                count += len(await receiver.receive_batch(5))

    front.run(test)


def test_a_message_over_the_receivers_limit_is_counted_as_lost(front: Front, address: str) -> None:
    """A producer that learns of a smaller limit drops what cannot pass, and says so."""

    async def test(front: Front) -> None:
        async with front.producer(address) as producer:
            await producer.send_many([b"before", bytes(6000), b"after"])
            async with front.receiver(address, max_message=5000) as receiver:
                got: list[bytes] = []
                lost = 0
                while len(got) + lost < 3:
                    batch = await receiver.receive_batch(5)
                    lost += batch.lost
                    got += batch
                assert (got, lost) == ([b"before", b"after"], 1)
                with pytest.raises(mpsr.MessageTooLarge):
                    await producer.send(bytes(6000))
                receiver.acknowledge()
                with pytest.raises(mpsr.Undelivered):
                    await producer.close()

    front.run(test)


def test_datagrams_keep_their_boundaries(front: Front, address: str) -> None:
    """A datagram is a message, an empty one too, and its sender is known."""
    sent = [b"", b"a\n", bytes(100_000), b"z"]

    async def test(front: Front) -> None:
        async with front.receiver(address, type="dgram") as receiver:
            async with front.producer(address, type="dgram") as producer:
                await producer.send_many(sent)
                await producer.flush(5)
                got: list[bytes] = []
                while len(got) < len(sent):
                    batch = await receiver.receive_batch(5)
                    assert batch.peer.pid == os.getpid()
                    got += batch
                assert got == sent
                with pytest.raises(mpsr.MessageTooLarge):
                    await producer.send(bytes(1_000_000))

    front.run(test)


def test_the_wrong_socket_type_is_named(front: Front, address: str) -> None:
    """A stream producer at a datagram receiver says what to change."""

    async def test(front: Front) -> None:
        async with front.receiver(address, type="dgram"), front.producer(address) as producer:
            await producer.send(b"x")
            with pytest.raises(mpsr.TimedOut, match="dgram"):
                await producer.flush(0.05)
            with pytest.raises(mpsr.Undelivered):
                await producer.close(0)

    front.run(test)


def test_the_descriptor_is_readable_while_batches_wait(front: Front, address: str) -> None:
    """A receiver sits in anyone's select, also when it has read more than it handed out."""

    async def test(front: Front) -> None:
        async with front.receiver(address) as receiver:
            poll = select.poll()
            poll.register(receiver.fileno(), select.POLLIN)
            assert poll.poll(0) == []
            with connect(address) as client:
                client.sendall(b"\0\0\0\1a")
            with connect(address) as other:
                other.sendall(b"b\n")
            got: list[bytes] = []
            while len(got) < 2:
                assert poll.poll(5000)
                batch = receiver.try_receive_batch()
                got += batch or []
            while poll.poll(0):
                assert receiver.try_receive_batch() is None
            assert sorted(got) == [b"a", b"b"]

    front.run(test)


def test_a_closed_receiver_says_so(front: Front, address: str) -> None:
    """Use after close is one clear error, and closing twice is none."""

    async def test(front: Front) -> None:
        receiver = front.receiver(address)
        await receiver.close()
        await receiver.close()
        with pytest.raises(mpsr.Closed, match="is closed"):
            await receiver.receive(1)
        assert receiver.stats().messages == 0

    front.run(test)


def test_an_exception_is_not_hidden_by_what_was_not_delivered(front: Front, address: str) -> None:
    """The block's own exception comes out; a note says what was not delivered."""

    async def test(front: Front) -> None:
        async with front.receiver(address):
            with pytest.raises(ZeroDivisionError) as caught:
                async with front.producer(address) as producer:
                    await producer.send(b"x")
                    with pytest.raises(mpsr.Undelivered):
                        await producer.close(0.01)
                    raise ZeroDivisionError
            assert caught.value.__context__ is None

    front.run(test)


@pytest.mark.parametrize(
    "options",
    [
        {"framing": "auto"},
        {"type": "tcp"},
        {"on_full": "drop"},
        {"buffer": 0},
        {"linger": -1},
        {"max_message": 0},
        {"max_message": 1 << 32},
    ],
)
def test_a_producer_refuses_arguments_that_make_no_sense(
    front: Front, address: str, options: dict[str, Any]
) -> None:
    """The error names the argument and what it can be."""
    with pytest.raises(mpsr.ConfigurationError, match=next(iter(options))):
        front.producer(address, **options)


@pytest.mark.parametrize(
    "options",
    [{"framing": "xml"}, {"type": "tcp"}, {"max_connections": 0}, {"max_message": 1 << 40}],
)
def test_a_receiver_refuses_arguments_that_make_no_sense(
    front: Front, address: str, options: dict[str, Any]
) -> None:
    """The error names the argument, and the address stays free."""
    with pytest.raises(mpsr.ConfigurationError, match=next(iter(options))):
        front.receiver(address, **options)
    assert not os.path.exists(address)
