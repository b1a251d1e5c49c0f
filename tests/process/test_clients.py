"""What real clients get through, all at once."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
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

    from tests.process.workers import Start


def installed(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


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


@installed("nc")
@installed("socat")
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


@installed("socat")
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
