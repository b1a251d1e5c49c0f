"""The standard library's connections between processes."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Listener
from typing import Any

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.work import Work


class Connections(Peer):
    """A multiprocessing.connection Listener, and a Client in every producer."""

    settings = (
        "AF_UNIX; the receiver reads one message from each ready connection, found with `epoll`; "
        "`send_bytes` and `recv_bytes`, which do not pickle; for lists `send` and `recv`, which do"
    )

    def produce(self, work: Work) -> None:
        with Client(self.path, "AF_UNIX") as connection:
            pickled = self.spec.interface == "list"
            work.drive(connection.send if pickled else connection.send_bytes)

    def receive(self, sink: Sink) -> None:
        with Listener(self.path, "AF_UNIX", backlog=4096) as listener:
            pull = sink.pull_batches if self.spec.interface == "list" else sink.pull
            pull(self._received(listener))

    def _received(self, listener: Listener) -> Iterator[Any]:
        pickled = self.spec.interface == "list"
        receives: dict[int, Callable[[], Any]] = {}
        epoll = select.epoll()
        for _ in range(self.spec.producers):
            connection = listener.accept()
            receives[connection.fileno()] = connection.recv if pickled else connection.recv_bytes
            epoll.register(connection, select.EPOLLIN)
        while True:
            for descriptor, _ in epoll.poll():
                yield receives[descriptor]()
