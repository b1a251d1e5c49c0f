"""The standard library's queue between processes."""

from __future__ import annotations

import multiprocessing
from itertools import repeat, starmap

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import Work


class Queue(Peer):
    """One multiprocessing.Queue, inherited by every producer."""

    settings = "unbounded"

    def __init__(self, spec: Spec, folder: str) -> None:
        super().__init__(spec, folder)
        self._queue = multiprocessing.get_context("fork").Queue()

    def produce(self, work: Work) -> None:
        work.drive(self._queue.put)
        self._queue.close()
        self._queue.join_thread()

    def receive(self, sink: Sink) -> None:
        pull = sink.pull_batches if self.spec.interface == "list" else sink.pull
        pull(starmap(self._queue.get, repeat(())))
