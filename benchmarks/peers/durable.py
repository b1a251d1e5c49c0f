"""What reaches the disk: mpsr with a journal, its store alone, and a plain file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from tempfile import TemporaryDirectory
from time import monotonic_ns
from typing import Any, Final
from zlib import crc32

import mpsr
from benchmarks.peers.base import Peer
from benchmarks.peers.ours import Mpsr
from benchmarks.results import ROOT
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import Work, cpu_seconds
from mpsr._speedups.codec_py import pack_batch
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import Entry
from mpsr.wire.frames import HEADER

GROUP: Final = 1_048_576  # bytes written, then synced, at once
BATCH: Final = 262_144  # bytes of a batch, at most,
MESSAGES: Final = 1000  # and messages
GROUPS: Final = 5  # distinct ones
LIMIT: Final = 4 * 1024**3  # bytes that a journal may take


class Journaled(Mpsr):
    """The same, through a journal: acknowledged once it is on the disk, handed out after."""

    settings = (
        "as mpsr, with a journal of 1 GiB on the disk of the checkout: what came within a "
        "millisecond, or 4 MiB, is written and synced before it is acknowledged"
    )

    def __init__(self, spec: Spec, folder: str) -> None:
        super().__init__(spec, folder)
        self._disk = TemporaryDirectory(prefix=".bench-", dir=ROOT)

    def receive(self, sink: Sink) -> None:
        journal = os.path.join(self._disk.name, "events.journal")
        with self._disk, mpsr.Receiver(self.path, journal=journal) as receiver:
            if self.spec.interface == "message":
                sink.pull(receiver)
            else:
                sink.pull_batches(receiver.batches())


class _Disk(Peer):
    """Works on the disk, by itself."""

    def produce(self, work: Work) -> None:
        raise NotImplementedError

    def receive(self, sink: Sink) -> None:
        raise NotImplementedError

    @classmethod
    def measure(cls, spec: Spec, folder: str) -> dict[str, Any]:  # noqa: ARG003 - not on the disk
        with TemporaryDirectory(prefix=".bench-", dir=ROOT) as disk:
            return cls.work(spec, os.path.join(disk, "file"))

    @classmethod
    def work(cls, spec: Spec, path: str) -> dict[str, Any]:
        """Do the work; return its figures."""
        raise NotImplementedError


def groups_of(spec: Spec) -> list[list[Entry]]:
    """Return a few groups of batches, with their checksums."""
    count = max(1, min(MESSAGES, BATCH // spec.size))
    each = max(1, GROUP // (count * spec.size))
    messages = [b"%08d" % index + b"x" * (spec.size - 8) for index in range(count)]
    groups = []
    for _ in range(GROUPS):
        payloads = [pack_batch(messages, 0)[HEADER.size :] for _ in range(each)]
        groups.append(
            [
                Entry(payload, count, count * spec.size, checksum=crc32(payload))
                for payload in payloads
            ]
        )
    return groups


class _Writer(_Disk):
    """Writes groups of batches, and syncs each."""

    @classmethod
    def work(cls, spec: Spec, path: str) -> dict[str, Any]:
        groups = groups_of(spec)
        group_messages = sum(entry.length for entry in groups[0])
        count = max(1, spec.total // group_messages)
        write, close = cls.open(path)
        cpu, began = cpu_seconds(), monotonic_ns()
        for group in islice(cycle(groups), count):
            write(group)
        seconds = (monotonic_ns() - began) / 1e9
        close()
        return {
            "seconds": seconds,
            "messages": count * group_messages,
            "nbytes": count * group_messages * spec.size,
            "producer_cpu": 0.0,
            "receiver_cpu": cpu_seconds() - cpu,
        }

    @staticmethod
    def open(path: str) -> tuple[Callable[[Sequence[Entry]], object], Callable[[], object]]:
        """Return what writes a group, and what ends it."""
        raise NotImplementedError


class Store(_Writer):
    """mpsr's journal, without sockets."""

    settings = (
        "groups of 1 MiB of batches (of 1,000 messages, or 256 KiB); their checksums, which a "
        "receiver makes while the group before syncs, are made beforehand; a cursor follows"
    )

    @staticmethod
    def open(path: str) -> tuple[Callable[[Sequence[Entry]], object], Callable[[], object]]:
        journal = Journal(path)

        def write(group: Sequence[Entry]) -> None:
            journal.move("reader", journal.append(group)[-1])

        return write, journal.close


class File(_Writer):
    """The least that makes bytes durable."""

    settings = "the same batches appended to a file, `fdatasync` after each group of 1 MiB"

    @staticmethod
    def open(path: str) -> tuple[Callable[[Sequence[Entry]], object], Callable[[], object]]:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def write(group: Sequence[Entry]) -> None:
            os.writev(file, [entry.payload for entry in group])
            os.fdatasync(file)

        return write, lambda: os.close(file)


class Reading(_Disk):
    """A journal that is opened, and read back from its start."""

    settings = (
        "a closed journal, opened by its receiver, then read in batches from the start; all "
        "checksums are compared, and the file cache holds it"
    )

    @classmethod
    def work(cls, spec: Spec, path: str) -> dict[str, Any]:
        with Journal(path, limit=LIMIT) as journal:
            groups = groups_of(spec)
            for group in cycle(groups):
                if journal.append(group)[-1] >= spec.total:
                    break
        began = monotonic_ns()
        Journal(path, limit=LIMIT).close()
        opening = (monotonic_ns() - began) / 1e9
        messages = nbytes = 0
        cpu, began = cpu_seconds(), monotonic_ns()
        with Reader(path) as reader:
            while records := reader.read(messages):
                nbytes += sum(entry.batch().nbytes for _, entry in records)
                messages = records[-1].position
        return {
            "seconds": (monotonic_ns() - began) / 1e9,
            "messages": messages,
            "nbytes": nbytes,
            "opening": opening,
            "producer_cpu": 0.0,
            "receiver_cpu": cpu_seconds() - cpu,
        }
