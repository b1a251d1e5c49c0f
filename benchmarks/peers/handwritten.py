"""A sender that needs no library: append each message to a list, join it, ``sendall``."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from benchmarks.peers.base import Peer
from benchmarks.peers.raw import READ_SIZE, connected, listening, ready
from benchmarks.sink import Sink
from benchmarks.work import BLOCK_BYTES, Work


class HandWritten(Peer):
    """All messages are as long as one another, so that none needs a length."""

    settings = (
        f"each message is appended to a list, which at {BLOCK_BYTES // 1024} KiB is joined and "
        f"sent with `sendall`; the receiver reads {READ_SIZE // 1024} KiB and cuts out the "
        "messages, all of one length; no lengths, no checks, nobody told"
    )

    def produce(self, work: Work) -> None:
        gathered: list[bytes] = []
        most, left = max(1, BLOCK_BYTES // self.spec.size), self.spec.share

        def send(message: bytes) -> None:
            nonlocal left
            gathered.append(message)
            left -= 1
            if len(gathered) == most or not left:
                sock.sendall(b"".join(gathered))
                gathered.clear()

        with connected(self.path) as sock:
            sock.sendall(work.warm_up)
            work.run(send)

    def receive(self, sink: Sink) -> None:
        with listening(self.path) as listener:
            sink.pull_batches(self._messages(listener))

    def _messages(self, listener: socket.socket) -> Iterator[list[bytes]]:
        size = self.spec.size
        rests: dict[socket.socket, bytes] = {}
        for sock in ready(listener):
            data = rests.get(sock, b"") + sock.recv(READ_SIZE)
            whole = len(data) - len(data) % size
            rests[sock] = data[whole:]
            yield [data[at : at + size] for at in range(0, whole, size)]
