"""How a receiver ends."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, closing
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.engine.sending.outbox import Outbox
from mpsr.system.address import parse_address
from tests.process import roles
from tests.process.stamps import Source, Tally, stamp_of
from tests.process.workers import PATIENCE, beside, receive_all, receive_beside

if TYPE_CHECKING:
    from tests.process.workers import Start


def test_stop_drains_all_that_had_arrived(address: str) -> None:
    """Nothing that clients had sent before stop() is lost, however many they are."""
    came: list[bytes] = []
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        for number in range(300):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(address)
            client.sendall(b"%d first\n%d second\n" % (number, number))
            if number % 2:
                client.sendall(b"%d last" % number)
                client.close()
        receiver.stop()
        for batch in receiver.batches():
            came += batch
        assert receiver.stats().discarded == 0
    whole = [b"%d %b" % (n, word) for n in range(300) for word in (b"first", b"second")]
    cut = [b"%d last" % number for number in range(1, 300, 2)]
    assert sorted(came) == sorted(whole + cut)


def test_stop_drains_the_datagrams_that_had_arrived(address: str) -> None:
    """Datagrams that the kernel holds at stop() are handed out."""
    with (
        mpsr.Receiver(address, type="dgram") as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.setblocking(False)
        client.connect(address)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                client.send(b"%d" % sent)
                sent += 1
        receiver.stop()
        assert list(receiver) == [b"%d" % number for number in range(sent)]


def test_stop_of_a_full_receiver_ends(address: str) -> None:
    """A receiver that rests from accepting, because it is full, stops like any other."""
    with ExitStack() as clients, mpsr.Receiver(address, max_connections=2) as receiver:
        for number in range(5):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(address)
            client.sendall(b"%d\n" % number)
        assert [receiver.receive(timeout=PATIENCE) for _ in range(2)] == [b"0", b"1"]
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(timeout=0.1)
        assert receiver.stats().paused
        receiver.stop()
        assert set(receiver) <= {b"2", b"3", b"4"}


def test_stop_ends_though_producers_never_do(start: Start, address: str) -> None:
    """It ends in bounded time; the next receiver goes on where it left, with no repeat."""
    workers = [start(roles.flood, address, size=1000) for _ in range(3)]
    tally = Tally()
    for _ in range(3):
        with mpsr.Receiver(address) as receiver:
            for _ in range(5):
                tally.take(receiver.receive_batch(timeout=PATIENCE))
            before = time.monotonic()
            receiver.stop()
            for batch in receiver.batches():
                tally.take(batch)
            assert time.monotonic() - before < 10
    sent: dict[Source, int] = {}

    def end() -> None:
        for worker in workers:
            assert worker.hear() == "sending"
            sent[Source(worker.pid, 0)] = worker.ask("end")
            assert worker.wait() == 0

    with mpsr.Receiver(address) as receiver:
        receive_beside(receiver, tally.take, end)
    assert tally.counts == sent


def test_last_acknowledgement_is_heard_even_if_a_write_finds_the_receiver_gone(
    address: str,
) -> None:
    """What a receiver accepted right before it closed is not sent again."""
    with closing(Outbox(parse_address(address))) as outbox:

        def write(*messages: bytes) -> None:
            outbox.window.offer_many(messages, 0, 0.0, enough=False)
            outbox.window.seal()
            due = outbox.begin_write(0.0)
            assert due is not None
            outbox.end_write(due, due(), 0.0)

        with mpsr.Receiver(address) as receiver:
            outbox.service(0.0)
            write()  # the greeting
            while not outbox.stats().connected:
                assert receiver.try_receive_batch() is None
                outbox.service(0.0)
            write(b"accepted")
            assert list(receiver.receive_batch(timeout=PATIENCE)) == [b"accepted"]
            write(b"unread")
        write(b"unsent")
        assert not outbox.stats().connected
        assert outbox.window.unaccepted() == [b"unread", b"unsent"]


def test_close_amid_a_batch_accepts_just_what_was_handed_out(start: Start, address: str) -> None:
    """The next receiver begins with the first message that nobody was given."""
    sender = start(roles.send_on_demand, address)
    assert sender.hear() == "ready"
    sender.tell(100)
    numbers: list[int] = []
    for stop_at in (0, 1, 37, 99):
        with mpsr.Receiver(address) as receiver:
            while len(numbers) <= stop_at:
                numbers.append(stamp_of(receiver.receive(timeout=PATIENCE)).number)
    assert sender.hear() == "flushed"
    sender.tell(None)
    assert sender.wait() == 0
    assert numbers == list(range(100))


def test_exception_in_the_handler_leaves_its_message_to_the_next(
    start: Start, address: str
) -> None:
    """What was in hand is given out again, and nothing before it."""
    sender = start(roles.send_on_demand, address)
    assert sender.hear() == "ready"
    sender.tell(100)
    numbers: list[int] = []

    def handle_until(stop_at: int) -> None:
        with mpsr.Receiver(address) as receiver:
            for message in receiver:
                numbers.append(stamp_of(message).number)
                if numbers[-1] == stop_at:
                    raise RuntimeError("the handler failed")

    for stop_at in (0, 1, 37, 99):
        with pytest.raises(RuntimeError, match="the handler failed"):
            handle_until(stop_at)
    with mpsr.Receiver(address) as receiver:
        assert stamp_of(receiver.receive(timeout=PATIENCE)).number == 99
    assert sender.hear() == "flushed"
    assert numbers == [0, 0, 1, *range(1, 38), *range(37, 100)]


def test_exception_in_the_handler_leaves_its_batch_to_the_next(start: Start, address: str) -> None:
    """A batch in hand is given out again, whole."""
    sender = start(roles.send_on_demand, address)
    assert sender.hear() == "ready"
    sender.tell(100)
    batches: list[list[int]] = []

    def fail_at_once() -> None:
        with mpsr.Receiver(address) as receiver:
            for batch in receiver.batches():
                batches.append([stamp_of(message).number for message in batch])
                raise RuntimeError("the handler failed")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="the handler failed"):
            fail_at_once()
    tally = Tally()
    with mpsr.Receiver(address) as receiver:
        sender.tell(None)
        receive_all(receiver, tally.take, [sender])
    assert batches[0][0] == 0
    assert all(earlier == later for earlier, later in pairwise(batches))
    assert tally.counts == {Source(sender.pid, 0): 100}


def test_stopped_receiver_finishes_with_what_it_was_given(start: Start, address: str) -> None:
    """Native messages that stop() leaves behind are not lost: the next receiver has them."""
    tally = Tally()
    sender = start(roles.send, address, 20_000, size=500)
    with mpsr.Receiver(address) as receiver, beside(receiver.stop):
        for batch in receiver.batches():
            tally.take(batch)
    with mpsr.Receiver(address) as receiver:
        receive_all(receiver, tally.take, [sender])
    assert tally.counts == {Source(sender.pid, 0): 20_000}
