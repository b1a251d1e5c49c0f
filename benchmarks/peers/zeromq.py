"""ZeroMQ, through pyzmq."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter
from typing import Any, Final

import zmq

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.work import Work

HIGH_WATER_MARK: Final = 1_000  # messages
ZERO_COPY: Final = 1_000_000  # bytes: from here on copying costs more than tracking


class ZeroMQ(Peer):
    """PUSH sockets, one PULL socket."""

    distribution = "pyzmq"
    settings = (
        f"PUSH and PULL over `ipc://`; high-water mark {HIGH_WATER_MARK:,} messages at both ends, "
        "at which PUSH waits and nothing is dropped; one I/O thread a process; `copy=True` below "
        f"{ZERO_COPY:,} bytes, else `copy=False`; batches are multipart "
        "messages; lists go through `send_pyobj` and `recv_pyobj`"
    )

    @classmethod
    def version(cls) -> str:
        return f"{zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}"

    @property
    def _copy(self) -> bool:
        return self.spec.size < ZERO_COPY

    def produce(self, work: Work) -> None:
        with zmq.Context() as context, self._pushing(context) as sock:
            if self.spec.interface == "batch":
                work.drive(partial(sock.send_multipart, copy=self._copy))
            elif self.spec.interface == "list":
                work.drive(sock.send_pyobj)
            elif self._copy:
                work.drive(sock.send)
            else:
                work.drive(partial(sock.send, copy=False))

    def receive(self, sink: Sink) -> None:
        with zmq.Context() as context, context.socket(zmq.PULL) as sock:
            if self.spec.kind == "idle":
                context.set(zmq.MAX_SOCKETS, 100)
            sock.set_hwm(HIGH_WATER_MARK)
            sock.setsockopt(zmq.BACKLOG, 4096)
            sock.bind(f"ipc://{self.path}")
            if self.spec.interface == "batch":
                receive = partial(sock.recv_multipart, copy=self._copy)
                sink.pull_batches(starmap(receive, repeat(())))
            elif self.spec.interface == "list":
                sink.pull_batches(starmap(sock.recv_pyobj, repeat(())))
            elif self._copy:
                sink.pull(starmap(sock.recv, repeat(())))
            else:
                sink.pull(_frames(sock))

    def hold(self, work: Work) -> None:
        with zmq.Context() as context:
            context.set(zmq.MAX_SOCKETS, work.connections + 10)
            socks = [self._pushing(context) for _ in range(work.connections)]
            for sock in socks:
                sock.send(work.warm_up)
            work.run(lambda message: random.choice(socks).send(message))
            for sock in socks:
                sock.close()

    def _pushing(self, context: Any) -> Any:
        sock = context.socket(zmq.PUSH)
        sock.set_hwm(HIGH_WATER_MARK)
        sock.connect(f"ipc://{self.path}")
        return sock


def _frames(sock: Any) -> Iterator[memoryview]:
    return map(attrgetter("buffer"), starmap(partial(sock.recv, copy=False), repeat(())))
