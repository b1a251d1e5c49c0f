"""What a producer does when no receiver answers as it should, as docs/protocol.md says."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.engine.sending.outbox import Outbox
from mpsr.system.address import parse_address
from mpsr.wire.frames import Ack, Hello, Reject, RejectCode, Welcome, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

WELCOME = encode(Welcome(1, 0, 1 << 24)) + encode(Ack(0))
BELOW = encode(Welcome(1, 0, 1 << 24))
BEYOND = encode(Welcome(1, 9, 1 << 24))


@pytest.fixture
def listener(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(address)
        sock.listen()
        yield sock


@pytest.fixture
def outbox(address: str) -> Iterator[Outbox]:
    with closing(Outbox(parse_address(address))) as outbox:
        yield outbox


def turn(outbox: Outbox, now: float) -> None:
    """Do what is to be done at this time."""
    outbox.service(now)
    while write := outbox.begin_write(now):
        outbox.end_write(write, write(), now)


def answer(listener: socket.socket, reply: bytes = b"") -> socket.socket:
    peer, _ = listener.accept()
    peer.sendall(reply)
    return peer


@pytest.mark.parametrize(
    ("there", "error"),
    [
        ("nothing", mpsr.NoReceiver),
        ("nobody", mpsr.NoReceiver),
        ("a-full-backlog", mpsr.ReceiverBusy),
        ("a-file", mpsr.AddressError),
    ],
)
def test_failed_connect_is_tried_again_and_its_reason_kept(
    address: str, outbox: Outbox, there: str, error: type[Exception]
) -> None:
    """Whatever connect says, the next one may find a receiver."""
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        if there == "a-file":
            open(address, "w").close()
        elif there != "nothing":
            sock.bind(address)
        if there == "a-full-backlog":
            sock.listen(0)
            client.connect(address)
        for now in (0, 100, 10_000):
            turn(outbox, now)
            assert isinstance(outbox.obstacle, error)
            wait = outbox.wait_time(now)
            assert wait is not None
            assert 0 < wait <= 1.5
        assert outbox.failure is None


def test_missing_welcome_is_waited_for(outbox: Outbox, listener: socket.socket) -> None:
    """A receiver that answers late is no failure, and there is one connection."""
    turn(outbox, 0)
    with answer(listener) as peer:
        for now in (1, 100, 10_000):
            turn(outbox, now)
        assert outbox.failure is None
        assert isinstance(outbox.obstacle, mpsr.ReceiverBusy)
        peer.sendall(WELCOME)
        turn(outbox, 10_001)
        assert outbox.obstacle is None
        stats = outbox.stats()
        assert (stats.connects, stats.connected) == (1, True)


def test_connection_that_ends_before_welcome_is_made_again(
    outbox: Outbox, listener: socket.socket
) -> None:
    """It says no more than that the receiver is gone."""
    turn(outbox, 0)
    answer(listener).close()
    turn(outbox, 1)
    assert outbox.failure is None
    assert isinstance(outbox.obstacle, mpsr.NoReceiver)
    turn(outbox, 100)
    with answer(listener, WELCOME):
        turn(outbox, 101)
    assert outbox.stats().connects == 2


def test_welcome_below_what_was_accepted_is_given_up(
    outbox: Outbox, listener: socket.socket
) -> None:
    """What it wants is not there any more; no new connection is tried."""
    turn(outbox, 0)
    with answer(listener, WELCOME) as peer:
        assert outbox.window.offer(b"message", 1)
        turn(outbox, 2)
        peer.sendall(encode(Ack(1)))
        turn(outbox, 3)
        assert outbox.stats().accepted == 1
    turn(outbox, 4)
    turn(outbox, 100)
    with answer(listener, BELOW):
        turn(outbox, 101)
    assert isinstance(outbox.failure, mpsr.RemoteProtocolError)
    assert outbox.failure.code == RejectCode.MALFORMED
    assert outbox.wait_time(200) is None


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (encode(Reject(RejectCode.MALFORMED, "no such frame")), mpsr.Rejected, "no such frame"),
        (BEYOND, mpsr.RemoteProtocolError, "expects message 9"),
        (encode(Hello(bytes(16), 0, "")), mpsr.RemoteProtocolError, "HELLO"),
        (b"220 mail.example ESMTP\r\n", mpsr.RemoteProtocolError, "malformed frame"),
    ],
    ids=["malformed", "beyond", "producer", "smtp"],
)
def test_program_is_told_at_once_why_a_receiver_is_given_up(
    address: str, listener: socket.socket, reply: bytes, error: type[Exception], text: str
) -> None:
    """No time-out is waited for, and what was not accepted is given back."""
    producer = mpsr.Producer(address)
    producer.send(b"message")
    with answer(listener, reply):
        with pytest.raises(error, match=text):
            producer.flush(timeout=10)
        with pytest.raises(error, match=text):
            producer.send(b"more")
    with pytest.raises(mpsr.Undelivered) as caught:
        producer.close()
    assert caught.value.messages == [b"message"]


def test_producer_that_its_receiver_has_forgotten_says_so(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An epoch of 1 from a process that has welcomed it: what it sends again may be known."""
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address) as producer:
        producer.send(b"first")
        assert receiver.receive(10) == b"first"
        receiver.acknowledge()
        producer.flush(10)
        assert not caplog.records
        inbox: Any = receiver._inbox
        (connection,) = inbox._connections.open
        producer.send(b"second")
        assert receiver.receive(10) == b"second"
        connection.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(0)
        for uid in list(inbox.ledger._gone):
            inbox.ledger._forget_oldest(uid)
        assert receiver.receive(10) == b"second"
        receiver.acknowledge()
        producer.flush(10)
    assert "has forgotten this producer" in caplog.text


@pytest.mark.parametrize(("rest", "left"), [(0, []), (3, [b"two"])])
def test_what_the_kernel_took_counts_though_the_receiver_is_seen_to_leave_first(
    address: str, listener: socket.socket, rest: int, left: list[bytes]
) -> None:
    """In a foreign framing it would else be sent again, or be waited for."""
    with closing(Outbox(parse_address(address), framing="lines")) as outbox:
        outbox.window.offer(b"one", 0)
        outbox.window.offer(b"two", 0)
        outbox.window.seal()
        outbox.service(0)
        write = outbox.begin_write(0)
        assert write is not None
        size = write()
        assert size == 8
        with answer(listener):
            pass
        outbox.read(0)  # as another thread does before the result is noted
        outbox.end_write(write, size - rest, 0)
        assert not outbox.ready()
        assert outbox.window.unaccepted() == left
