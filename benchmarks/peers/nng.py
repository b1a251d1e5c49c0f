"""nng, through pynng."""

from __future__ import annotations

from itertools import repeat, starmap
from typing import Final

import pynng

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.work import Work

BUFFER: Final = 8192  # messages: the most there is
SMALL: Final = 65_536  # bytes: so many larger messages would not fit in memory


class Nng(Peer):
    """Push sockets, one Pull socket."""

    distribution = "pynng"
    settings = (
        f"Push0 and Pull0 over `ipc://`; buffers of {BUFFER:,} messages at both ends, the most "
        "there is (of 8 from 64 kB on); no limit on a message's size"
    )

    @property
    def _buffer(self) -> int:
        return BUFFER if self.spec.size < SMALL else 8

    def produce(self, work: Work) -> None:
        address = f"ipc://{self.path}"
        with pynng.Push0(send_buffer_size=self._buffer) as sock:
            sock.dial(address, block=True)
            work.drive(sock.send)

    def receive(self, sink: Sink) -> None:
        with pynng.Pull0(recv_buffer_size=self._buffer, recv_max_size=0) as sock:
            sock.listen(f"ipc://{self.path}")
            sink.pull(starmap(sock.recv, repeat(())))
