"""What reaches the disk: mpsr with a journal, its store alone, and a plain file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from tempfile import TemporaryDirectory
from time import monotonic_ns
from typing import Any, Final

import mpsr
from benchmarks.peers.base import Peer
from benchmarks.peers.ours import Mpsr
from benchmarks.results import ROOT
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import Work, cpu_seconds
from mpsr.journal import Entry, Journal
from mpsr.wire.codec import pack_batch
from mpsr.wire.frames import HEADER

GROUP: Final = 1_048_576  # bytes written, then synced, at once
BATCH: Final = 1000  # messages
MESSAGES: Final = 50_000  # distinct ones: a few groups


class Journaled(Mpsr):
    """The same, through a journal: acknowledged once it is on the disk, handed out after."""

    settings = (
        "as mpsr, with a journal of 1 GiB on the disk of the checkout: one commit about every "
        "5 ms or MiB, synced before it is acknowledged"
    )

    def __init__(self, spec: Spec, folder: str) -> None:
        super().__init__(spec, folder)
        self._disk = TemporaryDirectory(prefix=".bench-", dir=ROOT)

    def receive(self, sink: Sink) -> None:
        journal = os.path.join(self._disk.name, "journal.db")
        with self._disk, mpsr.Receiver(self.path, journal=journal) as receiver:
            if self.spec.interface == "message":
                sink.pull(receiver)
            else:
                sink.pull_batches(receiver.batches())


class _Writer(Peer):
    """Writes groups of batches, by itself, and syncs each."""

    def produce(self, work: Work) -> None:
        raise NotImplementedError

    def receive(self, sink: Sink) -> None:
        raise NotImplementedError

    @classmethod
    def measure(cls, spec: Spec, folder: str) -> dict[str, Any]:  # noqa: ARG003 - not on the disk
        messages = [b"%08d" % index + b"x" * (spec.size - 8) for index in range(MESSAGES)]
        batches = [
            pack_batch(messages[at : at + BATCH], at)[HEADER.size :]
            for at in range(0, MESSAGES, BATCH)
        ]
        each = max(1, GROUP // len(batches[0]))
        groups = [batches[at : at + each] for at in range(0, len(batches), each)]
        count = max(1, spec.total // (each * BATCH))
        with TemporaryDirectory(prefix=".bench-", dir=ROOT) as disk:
            cpu, began, nbytes = cpu_seconds(), monotonic_ns(), 0
            write, close = cls.open(os.path.join(disk, "file"))
            for group in islice(cycle(groups), count):
                write(group)
                nbytes += sum(map(len, group))
            seconds = (monotonic_ns() - began) / 1e9
            close()
        return {
            "seconds": seconds,
            "messages": nbytes // (len(batches[0]) // BATCH),
            "nbytes": nbytes,
            "producer_cpu": 0.0,
            "receiver_cpu": cpu_seconds() - cpu,
        }

    @staticmethod
    def open(path: str) -> tuple[Callable[[Sequence[bytes]], object], Callable[[], object]]:
        """Return what writes a group, and what ends it."""
        raise NotImplementedError


class Store(_Writer):
    """mpsr's journal, without sockets."""

    settings = "one row a batch of 1,000 messages, one commit a group of 1 MiB, as the receiver"

    @staticmethod
    def open(path: str) -> tuple[Callable[[Sequence[bytes]], object], Callable[[], object]]:
        journal = Journal(path)

        def write(group: Sequence[bytes]) -> None:
            entries = [Entry(payload, BATCH, len(payload)) for payload in group]
            journal.move("reader", journal.append(entries)[-1])

        return write, journal.close


class File(_Writer):
    """The least that makes bytes durable."""

    settings = "the same bytes appended to a file, `fdatasync` after each group of 1 MiB"

    @staticmethod
    def open(path: str) -> tuple[Callable[[Sequence[bytes]], object], Callable[[], object]]:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def write(group: Sequence[bytes]) -> None:
            os.writev(file, group)
            os.fdatasync(file)

        return write, lambda: os.close(file)
