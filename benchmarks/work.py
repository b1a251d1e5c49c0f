"""Be a producer: make the messages ready, wait for the start, send, report."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle, islice
from resource import RUSAGE_SELF, getrusage
from time import monotonic, monotonic_ns, sleep
from typing import Any, Final

from benchmarks.gates import Gates
from benchmarks.spec import Spec

STAMP: Final = struct.Struct("<HHI")  # producer, zero, sequence number: each message opens with it
CLOCK: Final = struct.Struct("<q")  # or, where latency is measured, CLOCK_MONOTONIC in ns
REPORT: Final = struct.Struct("<qd")  # when the first send began (ns), CPU seconds

POOL_MESSAGES: Final = 1024  # distinct messages, sent round and round
POOL_BYTES: Final = 8_000_000
BATCH_BYTES: Final = 131_072  # what is given to send_many at once …
BATCH_MESSAGES: Final = 1000  # … but no more messages than so many
BLOCK_BYTES: Final = 262_144  # what the raw socket is given at once


def pool_size(spec: Spec) -> int:
    """Return how many distinct messages each producer has."""
    return min(spec.share, POOL_MESSAGES, max(2, POOL_BYTES // spec.size))


def batch_size(spec: Spec) -> int:
    """Return how many messages make a batch."""
    return min(BATCH_MESSAGES, max(1, BATCH_BYTES // spec.size))


def cpu_seconds() -> float:
    """Return the CPU time of this process, all threads, in the kernel and out of it."""
    usage = getrusage(RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Work:
    """What one producing process sends, and when.

    A peer calls ``drive`` (or ``drive_async``) with its way of sending one message; in the
    batch interfaces, one list of messages. The process closes only after everybody's messages
    have arrived, so that nobody is charged for a slow goodbye or gains by a lossy one.
    """

    def __init__(self, spec: Spec, index: int, gates: Gates, reports: int) -> None:
        self.spec = spec
        self.connections = spec.producers // spec.processes + (
            index < spec.producers % spec.processes
        )
        self._index = index
        self._gates = gates
        self._reports = reports
        filler = b"x" * (spec.size - STAMP.size)
        self._pool = [STAMP.pack(index, 0, i) + filler for i in range(pool_size(spec))]
        self.warm_up: Any = self._pool[0]
        if spec.interface not in ("message", "bytes"):
            self.warm_up = [self._pool[0]]
        self._items = self._choose()

    def drive(self, send: Callable[[Any], object]) -> None:
        """Send one item before the clock starts, then everything."""
        send(self.warm_up)
        self.run(send)

    async def drive_async(self, send: Callable[[Any], Awaitable[object]]) -> None:
        """Send one item before the clock starts, then everything."""
        await send(self.warm_up)
        await self.run_async(send)

    def run(self, send: Callable[[Any], object]) -> None:
        """Wait for the start, then send everything."""
        self._gates.start.wait()
        cpu, began = cpu_seconds(), monotonic_ns()
        for item in self._items:
            send(item)
        self._gates.done.wait()
        self._report(began, cpu)

    async def run_async(self, send: Callable[[Any], Awaitable[object]]) -> None:
        """Wait for the start, then send everything; the event loop runs while it waits."""
        await asyncio.to_thread(self._gates.start.wait)
        cpu, began = cpu_seconds(), monotonic_ns()
        for item in self._items:
            await send(item)
        await asyncio.to_thread(self._gates.done.wait)
        self._report(began, cpu)

    def _report(self, began: int, cpu: float) -> None:
        os.write(self._reports, REPORT.pack(began, cpu_seconds() - cpu))

    def _choose(self) -> Iterator[Any]:
        if self.spec.rate:
            return self._paced()
        match self.spec.interface:
            case "message":
                return islice(cycle(self._pool), self.spec.share)
            case "bytes":
                return self._blocks()
            case _:
                return self._batches()

    def _batches(self) -> Iterator[list[bytes]]:
        messages = islice(cycle(self._pool), self.spec.share)
        size = batch_size(self.spec)
        while batch := list(islice(messages, size)):
            yield batch

    def _blocks(self) -> Iterator[memoryview]:
        """Yield the bytes of all messages, end to end, in blocks that are made beforehand.

        They are the same messages, from as much memory, as the other peers send.
        """
        each = max(1, BLOCK_BYTES // self.spec.size)
        pool = self._pool
        blocks = [memoryview(b"".join(pool[at : at + each])) for at in range(0, len(pool), each)]
        left = self.spec.share * self.spec.size
        for block in cycle(blocks):
            if left <= 0:
                return
            yield block[:left]
            left -= len(block)

    def _paced(self) -> Iterator[bytes]:
        """Yield messages that say when they were made, each when it is due.

        Between them the process sleeps; one that wakes late sends at once and keeps to the
        timetable, so that the rate holds and no core is burnt.
        """
        interval = self.spec.processes / self.spec.rate
        filler = b"x" * (self.spec.size - CLOCK.size)
        due = monotonic() + interval * self._index / self.spec.processes
        for _ in range(self.spec.share):
            due += interval
            wait = due - monotonic()
            if wait > 0:
                sleep(wait)
            yield CLOCK.pack(monotonic_ns()) + filler
