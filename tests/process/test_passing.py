"""Descriptors that nobody asked for stop neither a receiver nor a producer."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.engine.sending.states import Carrier
from mpsr.system import passing, ring
from mpsr.wire.frames import PREFACE, Ack, Hello, Ring, Welcome, encode
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINGER = 10  # seconds that the last close of a descriptor takes, until its peer closes
PATIENCE = 3.0  # seconds within which others are served, even on a busy machine
AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: the close discards the unsent data


@pytest.fixture(params=["refused by the kernel", "on an older kernel"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have descriptors refused by the kernel, or go without that."""
    kernel: str = request.param
    if kernel == "on an older kernel":
        monkeypatch.setattr(passing, "AVAILABLE", False)
    else:
        with socket.socket(socket.AF_UNIX) as probe:
            if not passing.refuse(probe):
                pytest.skip("this kernel refuses no descriptors")
    return kernel


@pytest.fixture
def lingering() -> Iterator[Callable[[], socket.socket]]:
    """Return a function that makes a TCP socket whose last close sleeps until its peer closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peers = []

        def make() -> socket.socket:
            sock = socket.create_connection(server.getsockname())
            peers.append(server.accept()[0])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
            sock.setblocking(False)
            try:
                while True:
                    sock.send(bytes(1 << 16))
            except BlockingIOError:
                return sock

        yield make
        for peer in peers:
            peer.close()


def pass_on(sock: socket.socket, data: bytes, what: socket.socket, count: int = 1) -> bool:
    """Pass a descriptor, and close the test's own; return whether the kernel let it through."""
    with what:
        try:
            socket.send_fds(sock, [data], [what.fileno()] * count)
        except PermissionError:  # the test has the last descriptor: its close must not linger
            what.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            return False
        return True


def served_within(receiver: mpsr.Receiver, producer: mpsr.Producer[bytes], seconds: float) -> float:
    """Return the longest time in which an honest producer's message came, for some time."""
    worst = 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        since = time.monotonic()
        producer.send(b"honest")
        while receiver.receive(10) != b"honest":
            pass
        worst = max(worst, time.monotonic() - since)
    return worst


@pytest.mark.parametrize("first", [b"", b"line\n", b"text", PREFACE])
@pytest.mark.parametrize("count", [1, 253])
def test_lingering_descriptor_holds_up_no_receiver(
    address: str, kernel: str, first: bytes, count: int, lingering: Callable[[], socket.socket]
) -> None:
    """Whatever its connection speaks, and whether it is read or not."""
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[bytes](address) as producer,
        socket.socket(socket.AF_UNIX) as hostile,
    ):
        hostile.connect(address)
        if first:
            hostile.sendall(first)
        served_within(receiver, producer, 0.02)
        let_through = pass_on(hostile, b"x", lingering(), count)
        hostile.close()
        assert let_through == (kernel == "on an older kernel")
        assert served_within(receiver, producer, 0.1) < PATIENCE
        receiver.acknowledge()


def test_whoever_passes_a_descriptor_is_sent_away_on_an_older_kernel(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted as rejected, and the messages before it are kept."""
    monkeypatch.setattr(passing, "AVAILABLE", False)
    with mpsr.Receiver(address) as receiver, socket.socket(socket.AF_UNIX) as hostile:
        hostile.connect(address)
        hostile.sendall(b"before\n")
        assert receiver.receive(10) == b"before"
        reader, writer = os.pipe()
        socket.send_fds(hostile, [b"after\n"], [writer])
        os.close(writer)
        eventually(lambda: receiver.try_receive_batch() or receiver.stats().rejected == 1)
        assert receiver.stats().messages == 1
        assert hostile.recv(1) == b""
        assert os.read(reader, 1) == b""  # the receiver's copy is closed
        os.close(reader)


def test_lingering_descriptor_with_a_datagram_holds_up_no_receiver(
    address: str, kernel: str, lingering: Callable[[], socket.socket]
) -> None:
    with (
        mpsr.Receiver(address, type="dgram") as receiver,
        mpsr.Producer[bytes](address, type="dgram") as producer,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hostile,
    ):
        hostile.connect(address)
        assert pass_on(hostile, b"x", lingering(), 2) == (kernel == "on an older kernel")
        assert served_within(receiver, producer, 0.1) < PATIENCE


@pytest.mark.parametrize("when", ["before WELCOME", "with a RING", "later"])
def test_lingering_descriptor_holds_up_no_producer(
    address: str, kernel: str, when: str, lingering: Callable[[], socket.socket]
) -> None:
    """A receiver that passes what is no ring stops neither send() nor the background thread."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        producer: mpsr.Producer = mpsr.Producer(address)
        connection, _ = server.accept()
        with closing(connection):
            connection.settimeout(10)
            connection.recv(1 << 16)
            welcome = encode(Welcome(1, 0, 1 << 20)) + encode(Ack(0))
            if when == "before WELCOME":
                pass_on(connection, welcome, lingering(), 3)
            else:
                connection.sendall(welcome)
                pass_on(
                    connection,
                    encode(Ring(1 << 20)) if when == "with a RING" else encode(Ack(0)),
                    lingering(),
                    3,
                )
            since = time.monotonic()
            answered = threading.Thread(target=answer, args=(connection,))
            answered.start()
            producer.send(b"message")
            producer.flush(10)
            producer.close(10)
            assert time.monotonic() - since < PATIENCE
            answered.join()


def answer(connection: socket.socket) -> None:
    """Accept the one message, and wait for the end."""
    data = b""
    while b"message" not in data:
        data += connection.recv(1 << 16)
    connection.sendall(encode(Ack(1)))
    while connection.recv(1 << 16):
        pass


def test_producer_takes_its_ring_although_descriptors_are_refused(address: str) -> None:
    """A ring travels from the receiver to the producer alone."""
    if not ring.AVAILABLE:
        pytest.skip("there are no rings")
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address) as producer:
        sending = threading.Thread(target=producer.send_many, args=([bytes(1 << 16)] * 320,))
        sending.start()
        got = 0
        while got < 320:
            got += len(receiver.receive_batch(10))
        sending.join()
        receiver.acknowledge()
        connection = producer._outbox._connection
        assert connection is not None
        assert connection.carrier is Carrier.RING
        assert encode(Hello(bytes(16), 0, "", takes_ring=True))[5] == 1
