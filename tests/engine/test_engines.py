"""What the two engines do with real sockets and a clock that the test holds."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr._speedups import codec
from mpsr.batch import payload_of
from mpsr.engine.receiving.inbox import Inbox
from mpsr.engine.sending.outbox import Outbox
from mpsr.engine.sending.states import WriteState
from mpsr.limits import ACK_READ_BATCHES, FRAME_DEADLINE, HELLO_DEADLINE
from mpsr.system.address import parse_address
from mpsr.system.endpoint import claim
from mpsr.wire.frames import HEADER, PREFACE, Ack, Hello, Reject, RejectCode, Welcome, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = bytes(16)


@pytest.fixture
def inbox(address: str) -> Iterator[Inbox]:
    engine = Inbox([(claim(parse_address(address)), "auto")])
    yield engine
    engine.close()


def connect(address: str, *, greeting: bytes = b"") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(address)
    sock.settimeout(5)
    sock.sendall(greeting)
    return sock


def hello(seq: int = 0) -> bytes:
    return PREFACE + encode(Hello(ID, seq, "test"))


def answer(sock: socket.socket) -> tuple[int, int]:
    """Return the last frame's type and, of a REJECT, its code."""
    data, kind, code = b"", 0, 0
    while piece := sock.recv(65536):
        data += piece
    while data:
        length, kind, _, _ = HEADER.unpack_from(data)
        code = int.from_bytes(data[HEADER.size : HEADER.size + 4], "little")
        data = data[HEADER.size + length :]
    return kind, code


def take(inbox: Inbox, now: float = 0) -> mpsr.Batch | None:
    """Give the inbox a few rounds: it accepts in one and reads in the next."""
    for _ in range(10):
        batch = inbox.next_batch(now)
        if batch is not None:
            return batch
    return None


@pytest.mark.parametrize("piece", [3_000, 50_000, 700_000])
def test_long_messages_come_whole_in_any_pieces(inbox: Inbox, address: str, piece: int) -> None:
    """Long messages are read into their places, short ones between them are not disturbed."""
    batches = [[bytes([n]) * 40_000 for n in range(20)], [b"short"], [b"x" * 300_000], [b"y"] * 9]
    data, seq = hello(), 0
    for batch in batches * 2:
        data += codec.pack_batch(batch, seq)
        seq += len(batch)
    got: list[bytes] = []
    with connect(address) as sock:
        sock.setblocking(False)
        while len(got) < seq:
            with suppress(BlockingIOError):
                data = data[sock.send(data[:piece]) :] if data else data
            taken = take(inbox)
            if taken is not None:
                assert taken.nbytes == sum(map(len, taken))
                got += taken
    assert got == [message for batch in batches * 2 for message in batch]


def test_short_messages_may_follow_long_ones_for_ever(inbox: Inbox, address: str) -> None:
    """However they fall into reads, one read does not lead to the next."""
    data, count = hello() + codec.pack_batch([b"long" * 20_000], 0), 20_000
    data += b"".join(codec.pack_batch([b"x" * 32], seq) for seq in range(1, count))  # 64 bytes each
    got = 0
    with connect(address) as sock, connect(address, greeting=PREFACE[:3]):  # who owes something
        sock.setblocking(False)
        while got < count:
            with suppress(BlockingIOError):
                data = data[sock.send(data) :] if data else data
            batch = take(inbox)
            got += len(batch or ())


def test_traffic_without_news_does_not_hold_the_caller(inbox: Inbox, address: str) -> None:
    """Who sends the same again and again keeps nobody else waiting."""
    batch = codec.pack_batch([b"again" * 20], 0)
    with connect(address, greeting=hello() + batch) as sock:
        assert take(inbox) is not None
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.send(batch * 100)
        assert inbox.next_batch(0) is None
        with pytest.raises(BlockingIOError):  # most of it is not read yet
            sock.send(bytes(1 << 20))
            sock.send(bytes(1 << 20))


def test_kept_batch_keeps_little_else(inbox: Inbox, address: str) -> None:
    """A small batch shares no memory with what was read together with it."""
    data = hello() + b"".join(codec.pack_batch([b"x" * 1000], n) for n in range(40))
    with connect(address, greeting=data):
        batches = [take(inbox) for _ in range(40)]
    payloads = [memoryview(payload_of(batch) or b"") for batch in batches if batch is not None]
    assert len(payloads) == 40
    assert all(memoryview(payload.obj).nbytes < 8 * payload.nbytes for payload in payloads)


def test_watcher_with_more_to_come_is_no_endless_round(inbox: Inbox) -> None:
    """A descriptor that is readable to tell the caller something does not keep the inbox busy."""
    inbox.watch()
    inbox.signal(more=True)
    assert inbox.next_batch(0) is None


def test_newer_connection_fences_the_older(inbox: Inbox, address: str) -> None:
    """The older one hears FENCED and is closed; the newer one goes on."""
    with connect(address, greeting=hello()) as older:
        assert take(inbox) is None
        assert older.recv(100)
        with connect(address, greeting=hello() + codec.pack_batch([b"x"], 0)):
            batch = take(inbox)
            assert batch is not None
            assert list(batch) == [b"x"]
            assert answer(older) == (6, RejectCode.FENCED)
    assert inbox.stats().rejected == 1


def test_introduction_and_frame_have_deadlines(inbox: Inbox, address: str) -> None:
    """A native connection that begins and does not go on is closed, with a word."""
    with (
        connect(address, greeting=PREFACE[:3]) as silent,
        connect(address, greeting=hello() + codec.pack_batch([bytes(1000)], 0)[:-1]) as slow,
    ):
        for now in (0.0, 0.1):
            assert inbox.next_batch(now) is None
        assert inbox.wait_time(0.2) is not None
        inbox.next_batch(HELLO_DEADLINE + 1)
        for step in range(60):
            inbox.next_batch(HELLO_DEADLINE + 1 + step * 0.25)
        assert answer(silent) == (6, RejectCode.DEADLINE)
        assert FRAME_DEADLINE < 15
        assert answer(slow)[1] == RejectCode.DEADLINE


def test_full_receiver_lets_newcomers_wait(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond max_connections the backlog waits; one that leaves makes room."""
    inbox = Inbox([(claim(parse_address(address)), "auto")], max_connections=1)
    with connect(address), connect(address, greeting=b"late\n"), caplog.at_level(logging.WARNING):
        assert inbox.next_batch(0) is None
        assert inbox.next_batch(0) is None
        assert inbox.stats().paused
    assert "the most allowed" in caplog.text
    got = None
    while got is None:
        got = inbox.next_batch(1)
    assert list(got) == [b"late"]
    inbox.close()


def test_broken_format_is_answered_and_told(
    inbox: Inbox, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Good messages before the bad frame count; the connection hears why it is closed."""
    with connect(
        address, greeting=hello() + codec.pack_batch([b"good"], 0) + b"\xff" * 8
    ) as client:
        with caplog.at_level(logging.WARNING, logger="mpsr"):
            batch = take(inbox)
        assert batch is not None
        assert list(batch) == [b"good"]
        assert "malformed" in caplog.text
        assert answer(client) == (6, RejectCode.MALFORMED)
    assert inbox.stats().rejected == 1


def test_truncated_foreign_message_is_counted(inbox: Inbox, address: str) -> None:
    """A length-delimited connection that ends inside a message is a broken one."""
    with connect(address, greeting=b"\0\0\0\x05ab"):
        pass
    assert take(inbox) is None
    assert inbox.stats().rejected == 1


def test_closing_counts_what_foreign_connections_lose(
    inbox: Inbox, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was read or lies in the kernel is in ``discarded``, and in a warning."""
    with connect(address, greeting=b"one\n\n"), connect(address, greeting=b"unfinished"):
        assert take(inbox) is not None
        assert take(inbox) is None
        with caplog.at_level(logging.WARNING, logger="mpsr"):
            inbox.close()
    assert inbox.stats().discarded == len(b"unfinished")
    assert "10 bytes" in caplog.text


def test_oversized_datagram_is_discarded_and_counted(address: str) -> None:
    """A datagram over the limit is never cut: it is left out, and told."""
    with mpsr.Receiver(address, type="dgram", framing="packet", max_message=100) as receiver:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(address)
            client.send(bytes(101))
            client.send(bytes(100))
        assert receiver.receive(5) == bytes(100)
        assert receiver.stats().rejected == 1


class Server:
    """The other end of an outbox, played by the test."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen()

    def accept(self, reply: bytes = b"") -> socket.socket:
        peer, _ = self.listener.accept()
        peer.settimeout(5)
        peer.sendall(reply)
        return peer


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    server = Server(address)
    yield server
    server.listener.close()


def turn(outbox: Outbox, now: float) -> None:
    """Do what is to be done at this time."""
    outbox.service(now)
    while write := outbox.begin_write(now):
        outbox.end_write(write, write(), now)


def send(outbox: Outbox, message: bytes, now: float) -> None:
    """Send as a front does on an idle producer."""
    outbox.allow_direct(now)
    if not outbox.window.direct.write(message):
        assert outbox.window.offer(message, now)
        turn(outbox, now)


WELCOME = encode(Welcome(1, 0, 1 << 24))


def test_message_that_leaves_at_once_waits_for_no_room(address: str, server: Server) -> None:
    """Where the socket is full, what was to leave at once goes when there is room again."""
    outbox = Outbox(parse_address(address), linger=0)
    turn(outbox, 0)
    with server.accept(WELCOME) as receiver:
        turn(outbox, 0.1)
        sent = 0
        while outbox.state is not WriteState.FULL:
            send(outbox, b"%04d" % sent * 500, 1)
            sent += 1
        outbox.allow_direct(1)
        assert not outbox.window.direct.write(b"more")  # it has to wait behind the others
        data = receiver.recv(1 << 20)
        while outbox.window.unsent:
            turn(outbox, 2)
            data += receiver.recv(1 << 20)
    frames = [codec.pack_batch([b"%04d" % n * 500], n) for n in range(sent)]
    assert data.endswith(b"".join(frames))
    outbox.close()


def test_unread_acknowledgements_stay_few(address: str, server: Server) -> None:
    """A producer that nobody flushes reads them now and then, so that they never fill a socket."""
    outbox = Outbox(parse_address(address), linger=0)
    turn(outbox, 0)
    with server.accept(WELCOME) as receiver:
        turn(outbox, 0.1)
        receiver.setblocking(True)  # with a time-out it would ask for three quarters of a buffer
        for number in range(1000):
            send(outbox, b"message", 1)
            receiver.recv(1000)
            receiver.sendall(encode(Ack(number + 1)))
        assert outbox.stats().buffered <= ACK_READ_BATCHES + 2
    outbox.close()


def test_interrupted_write_is_sent_again(address: str, server: Server) -> None:
    """Nobody knows how much went: the connection is given up, and nothing is lost."""
    outbox = Outbox(parse_address(address))
    turn(outbox, 0)
    with server.accept(WELCOME):
        turn(outbox, 0.1)
        outbox.window.offer(b"message", 1)
        write = outbox.begin_write(1)
        assert write
        other = threading.Thread(target=outbox.interrupt)
        other.start()
        other.join()
        outbox.service(1)
        assert outbox.state is WriteState.TORN  # as long as the write goes on
        outbox.end_write(write, write(), 1)
        assert outbox.state is WriteState.INTERRUPTED  # type: ignore[comparison-overlap]  # it has changed
        assert outbox.wait_time(1) == 0
        assert not outbox.due(1)
    turn(outbox, 2)
    turn(outbox, 3)
    with server.accept(WELCOME) as again:
        turn(outbox, 4)
        turn(outbox, 5)
        data = again.recv(1000)
        while b"message" not in data:
            data += again.recv(1000)
    assert outbox.window.unaccepted() == [b"message"]
    outbox.close()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (encode(Reject(RejectCode.FENCED, "go")), mpsr.Rejected),
        (encode(Welcome(1, 9, 1 << 24)), mpsr.RemoteProtocolError),
        (b"HTTP/1.1 400 Bad Request\r\n", mpsr.RemoteProtocolError),
        (WELCOME + encode(Ack(5)), mpsr.RemoteProtocolError),
    ],
)
def test_receiver_that_makes_no_sense_is_given_up(
    address: str, server: Server, reply: bytes, error: type[Exception]
) -> None:
    """The failure stays, and no new connection is tried."""
    outbox = Outbox(parse_address(address))
    turn(outbox, 0)
    with server.accept(reply):
        turn(outbox, 1)
    assert isinstance(outbox.failure, error)
    assert outbox.wait_time(100) is None
    outbox.close()


def test_busy_receiver_is_tried_again(address: str, server: Server) -> None:
    """BUSY is no failure: the producer comes back."""
    outbox = Outbox(parse_address(address))
    turn(outbox, 0)
    with server.accept(encode(Reject(RejectCode.BUSY, "later"))):
        turn(outbox, 1)
    assert outbox.failure is None
    assert outbox.wait_time(1) is not None
    turn(outbox, 100)
    with server.accept(WELCOME):
        turn(outbox, 101)
    assert outbox.stats().connected
    outbox.close()


def test_partly_written_lines_go_on_at_a_message(address: str, server: Server) -> None:
    """What went whole is not sent again; the message that was cut is, whole."""
    outbox = Outbox(parse_address(address), framing="lines", linger=0)
    for i in range(400):
        outbox.window.offer(b"%d" % (i % 10) * 10_000, 0)
    turn(outbox, 0)
    with server.accept() as first:
        received = first.recv(25_000)
    turn(outbox, 1)
    whole = outbox.window.accepted
    assert 1 <= whole < 400
    turn(outbox, 10)
    with server.accept() as second:
        assert second.recv(1) == b"%d" % (whole % 10)
    assert received.startswith(b"0" * 10_000)
    outbox.close()


def test_write_error_after_the_end_tells_what_the_receiver_said(
    address: str, server: Server
) -> None:
    """EPIPE does not hide the REJECT that came before it."""
    outbox = Outbox(parse_address(address))
    turn(outbox, 0)
    with server.accept(WELCOME) as peer:
        turn(outbox, 1)
        peer.sendall(encode(Reject(RejectCode.FENCED, "gone")))
    outbox.window.offer(b"x", 2)
    write = outbox.begin_write(2)
    assert write is not None
    result = write()
    assert isinstance(result, OSError)
    assert result.errno in (errno.EPIPE, errno.ECONNRESET)
    outbox.end_write(write, result, 2)
    assert isinstance(outbox.failure, mpsr.Rejected)
    outbox.close()
