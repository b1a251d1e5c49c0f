"""What real clients get through, all at once."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import mpsr
from tests.process import roles
from tests.process.stamps import Tally
from tests.process.workers import PATIENCE, beside, receive_beside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.wire.framing import Framing
    from tests.process.workers import Start


class Client:
    """A program that is fed some bytes, and what is to come of them."""

    def __init__(self, command: list[str], data: bytes, messages: list[bytes]) -> None:
        self.messages = messages
        self._data = data
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.pid = self._process.pid

    def run(self) -> None:
        self._process.communicate(self._data, timeout=PATIENCE)
        assert self._process.returncode == 0


def lines(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


CAFE = "café\r\n".encode("latin-1")
BLOCK = bytes(range(11, 256)) * 21_400  # 5 MB in one line


@pytest.mark.needs("nc", "socat")
def test_real_clients_all_at_once_lose_and_mix_nothing(start: Start, address: str) -> None:
    """What each client sends arrives, in order, under its process id; so do native messages."""
    nc = ["nc", "-U", "-N", address]
    socat = ["socat", "-", f"UNIX-CONNECT:{address}"]
    came: dict[int | None, list[bytes]] = defaultdict(list)
    native = Tally()

    def take(batch: mpsr.Batch) -> None:
        if batch.producer is not None:
            native.take(batch)
        else:
            came[batch.peer.pid] += batch

    def work() -> None:
        with ExitStack() as threads:
            for client in clients:
                threads.enter_context(beside(client.run))
            threads.enter_context(beside(lambda: connect_and_say_nothing(address, 200)))
            threads.enter_context(beside(lambda: send_length_delimited(address, bodies)))
            assert swarm.wait() == 0

    with mpsr.Receiver(address) as receiver:
        swarm = start(roles.swarm, address, processes=50, messages=100)
        clients = [
            Client(nc, b"no newline", [b"no newline"]),
            Client(socat, lines(100_000), lines(100_000).splitlines()),
            Client(nc, BLOCK, [BLOCK]),
            Client(nc, CAFE * 2 + b"\xff\xfe", [CAFE[:-2], CAFE[:-2], b"\xff\xfe"]),
            Client(socat, b"", []),
        ]
        bodies = [b"%d" % number * (number % 500) for number in range(2000)]
        receive_beside(receiver, take, work)
        stats = receiver.stats()
    expected = {client.pid: client.messages for client in clients if client.messages}
    assert came == {**expected, os.getpid(): bodies}
    assert list(native.counts.values()) == [100] * 50
    assert (stats.rejected, stats.discarded, stats.connections) == (0, 0, 0)
    assert stats.accepted == len(clients) + 50 + 200 + 1


def connect_and_say_nothing(address: str, times: int) -> None:
    for _ in range(times):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address)


def send_length_delimited(address: str, bodies: list[bytes]) -> None:
    """Send as tokio's LengthDelimitedCodec does, in pieces that end anywhere."""
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        for begin in range(0, len(stream), 4099):
            sock.sendall(stream[begin : begin + 4099])


@pytest.fixture
def datagram_receiver(address: str) -> Iterator[mpsr.Receiver]:
    with mpsr.Receiver(address, type="dgram") as receiver:
        yield receiver


@pytest.mark.needs("socat")
def test_socat_sends_datagrams(datagram_receiver: mpsr.Receiver, address: str) -> None:
    """A client that sends datagrams is heard, whole, under its process ids."""
    command = ["socat", "-b", "1000", "-", f"UNIX-SENDTO:{address}"]
    data = bytes(range(256)) * 20
    clients = [Client(command, data, []) for _ in range(3)]
    came: dict[int | None, list[bytes]] = defaultdict(list)

    def take(batch: mpsr.Batch) -> None:
        came[batch.peer.pid] += batch

    def work() -> None:
        for client in clients:
            client.run()

    receive_beside(datagram_receiver, take, work)
    assert set(came) == {client.pid for client in clients}
    for datagrams in came.values():
        assert b"".join(datagrams) == data
        assert max(map(len, datagrams)) == 1000


PATIENT_LOGGER = """
import logging, logging.handlers, sys
logger = logging.getLogger("program")
logger.addHandler(logging.handlers.SysLogHandler(address=sys.argv[1]))
for number in range(3):
    logger.warning("message %d, größer%s", number, "\\nand longer" * number)
print("logged", flush=True)
sys.stdin.read()
"""


def test_syslog_handler_is_heard_while_it_is_connected(address: str) -> None:
    """Python's own handler falls back to a stream, and ends its records with NUL."""
    with mpsr.Receiver(address) as receiver:
        with subprocess.Popen(
            [sys.executable, "-c", PATIENT_LOGGER, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as program:
            came = [receiver.receive(timeout=PATIENCE) for _ in range(3)]
            assert program.stdout is not None
            assert program.stdout.readline() == b"logged\n"
            program.communicate(timeout=PATIENCE)
        expected = [f"<12>message {n}, größer" + "\nand longer" * n for n in range(3)]
        assert [message.decode() for message in came] == expected
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(timeout=0.05)
        assert receiver.stats().rejected == 0


@pytest.mark.needs("logger")
@pytest.mark.parametrize("framing", ["auto", "octet-counted"])
@pytest.mark.parametrize("form", ["--rfc3164", "--rfc5424"])
def test_logger_counts_octets_and_each_message_is_one(
    address: str, framing: Framing, form: str
) -> None:
    """What util-linux's logger counts comes whole, without the counts."""
    text = [b"<34>is no priority here", b"12 <34>nor is this", b"last"]
    command = ["logger", "--socket", address, "--octet-count", form, "--tag", "me"]
    with mpsr.Receiver(address, framing=framing) as receiver:
        subprocess.run(command, input=b"\n".join(text), check=True, timeout=PATIENCE)
        came = [receiver.receive(timeout=PATIENCE) for _ in text]
        assert receiver.stats().rejected == 0
    assert all(re.match(rb"<13>.*\bme\b", message) for message in came)
    assert [message[-len(body) :] for message, body in zip(came, text, strict=True)] == text


@pytest.mark.needs("logger")
def test_logger_is_heard_without_octet_counts(address: str) -> None:
    """Its lines are lines."""
    command = ["logger", "--socket", address, "--tag", "me"]
    with mpsr.Receiver(address) as receiver:
        subprocess.run(command, input=b"one\ntwo\n", check=True, timeout=PATIENCE)
        came = [receiver.receive(timeout=PATIENCE) for _ in range(2)]
    assert [message[-3:] for message in came] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("framing", "first"),
    [("length", bytes(range(10))), ("auto", b"hello"), ("auto", b"0123456789")],
)
def test_little_endian_lengths_are_told_and_can_be_asked_for(
    address: str, framing: Framing, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the framing, and with it the same bytes are messages."""
    stream = b"".join(struct.pack("<I", len(body)) + body for body in (first, b"", b"second"))

    def speak() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address)
            sock.sendall(stream)

    with mpsr.Receiver(address, framing=framing) as receiver:
        speak()
        with pytest.raises(mpsr.TimedOut):
            while receiver.receive(timeout=0.2) == b"":
                pass
        assert receiver.stats().rejected == 1
    assert caplog.messages[0].endswith(
        f"read little-endian it would be {len(first)} bytes: choose framing length-le"
    )
    with mpsr.Receiver(address, framing="length-le") as receiver:
        speak()
        assert [receiver.receive(timeout=PATIENCE) for _ in range(3)] == [first, b"", b"second"]


@pytest.mark.parametrize("framing", ["lines", "null", "length", "length-le", "octet-counted"])
def test_producer_and_receiver_of_a_foreign_framing_understand_each_other(
    address: str, framing: Framing
) -> None:
    """What one end is told the other can be told, too."""
    messages = [b"<34>first", b"x" * 70_000, b"last"]
    with mpsr.Receiver(address, framing=framing) as receiver:
        with mpsr.Producer(address, framing=framing) as producer:
            producer.send_many(messages)
            assert [receiver.receive(timeout=PATIENCE) for _ in messages] == messages
