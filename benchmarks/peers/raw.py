"""The floor: bytes through connected sockets, that nobody divides into messages."""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from typing import Final

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.work import BLOCK_BYTES, Work

READ_SIZE: Final = 262_144  # bytes: about what a socket buffer holds
SMALL_READ: Final = 65_536  # bytes: recv allocates what it is asked for


class Piece:
    """What one read brought, as a batch that cannot be looked into."""

    def __init__(self, nbytes: int, messages: int) -> None:
        self.nbytes = nbytes
        self._messages = messages

    def __len__(self) -> int:
        return self._messages


class RawSocket(Peer):
    """What the kernel alone takes: no messages, no checks, nobody told."""

    settings = (
        f"`sendall` of ready-made blocks of {BLOCK_BYTES // 1024} KiB (or one message, if it is "
        f"longer), `recv_into` one buffer of {READ_SIZE // 1024} KiB, one receiver with `epoll`; "
        "default socket buffers; for latency one `sendall` and one `recv` a message"
    )

    def produce(self, work: Work) -> None:
        with connected(self.path) as sock:
            work.drive(sock.sendall)

    def receive(self, sink: Sink) -> None:
        with listening(self.path) as listener:
            if self.spec.rate:
                sink.pull(self._messages(listener))
            else:
                sink.pull_batches(self._pieces(listener))

    def hold(self, work: Work) -> None:
        hold_sockets(self.path, work, b"")

    def _pieces(self, listener: socket.socket) -> Iterator[Piece]:
        buffer = memoryview(bytearray(READ_SIZE))
        size, rest = self.spec.size, 0
        for sock in ready(listener):
            nbytes = sock.recv_into(buffer)
            messages, rest = divmod(rest + nbytes, size)
            yield Piece(nbytes, messages)

    def _messages(self, listener: socket.socket) -> Iterator[bytes]:
        """At a fixed rate every read brings whole messages, nearly always one."""
        size = self.spec.size
        for sock in ready(listener):
            data = sock.recv(SMALL_READ)
            for begin in range(0, len(data), size):
                yield data[begin : begin + size]


def connected(path: str) -> socket.socket:
    """Return a blocking socket, connected."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def hold_sockets(path: str, work: Work, prefix: bytes) -> None:
    """Hold idle connections, and send from any of them, each message behind a prefix."""
    socks = [connected(path) for _ in range(work.connections)]
    for sock in socks:
        sock.sendall(prefix + work.warm_up)
    work.run(lambda message: random.choice(socks).sendall(prefix + message))


def listening(path: str) -> socket.socket:
    """Return a listening socket with a long backlog."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4096)
    return listener


def ready(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield connections that have something to read, for ever."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    socks: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                sock, _ = listener.accept()
                socks[sock.fileno()] = sock
                epoll.register(sock, select.EPOLLIN)
            else:
                yield socks[descriptor]
