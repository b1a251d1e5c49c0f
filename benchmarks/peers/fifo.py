"""faster-fifo: a ring buffer in shared memory, behind one lock."""

from __future__ import annotations

from itertools import chain, repeat, starmap
from typing import Final

import faster_fifo
import faster_fifo_reduction  # noqa: F401 - its documentation asks for it

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import Work

BUFFER: Final = 8_000_000  # bytes
LONGEST: Final = 64_000_000  # bytes: room for a few of the largest messages


class FasterFifo(Peer):
    """One faster_fifo.Queue, inherited by every producer."""

    distribution = "faster-fifo"
    settings = (
        f"a buffer of {BUFFER // 1_000_000} MB ({LONGEST // 1_000_000} MB for 16 MB messages); "
        "`bytes` instead of pickle at both ends; per message `put` and, at the receiver, "
        "`get_many` iterated; for batches `put_many` and `get_many`"
    )

    def __init__(self, spec: Spec, folder: str) -> None:
        super().__init__(spec, folder)
        size = BUFFER if spec.size * 10 < BUFFER else LONGEST
        self._queue = faster_fifo.Queue(max_size_bytes=size, loads=bytes, dumps=bytes)

    def produce(self, work: Work) -> None:
        work.drive(self._queue.put_many if self.spec.interface == "batch" else self._queue.put)

    def receive(self, sink: Sink) -> None:
        batches = starmap(self._queue.get_many, repeat(()))
        if self.spec.interface == "batch":
            sink.pull_batches(batches)
        else:
            sink.pull(chain.from_iterable(batches))
