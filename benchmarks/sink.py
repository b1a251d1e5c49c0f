"""Be the receiver: count and check what comes, and take the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from resource import getpagesize
from statistics import quantiles
from time import monotonic_ns
from typing import Any, Final

from benchmarks.gates import Gates
from benchmarks.spec import Spec
from benchmarks.work import CLOCK, STAMP, cpu_seconds, pool_size

MIB: Final = 1024 * 1024


class WrongCount(Exception):
    """Messages are missing, came twice, or are not what was sent."""


class Sink:
    """Where a peer's receiver puts what it gets.

    A receiver that can be iterated hands its iterator to ``pull`` or ``pull_batches``; one that
    calls back calls ``listen`` once and then ``take``, until that returns True.

    Before the clock starts, every connection has sent one message. What is done with a message
    is the same for every peer: one that comes by itself has its length added to the sum of its
    producer, which its first byte names; those of a batch have their lengths added up.
    """

    def __init__(self, spec: Spec, gates: Gates) -> None:
        self._spec = spec
        self._gates = gates
        self._left = spec.producers
        self._running = False
        self._sums = [0] * 256  # bytes of each producer (modulo 256)
        self._nbytes = 0
        self._next = [0] * spec.processes  # audit: the sequence number to come
        self._arrivals: list[int] = []
        self._timed: list[bytes] = []
        self._cpu = 0.0
        self._rss = 0.0
        self.ended = 0
        self._count = self._choose()

    def listen(self) -> None:
        """Let the producers connect."""
        self._gates.connect.open()

    def pull(self, messages: Iterable[Any]) -> None:
        """Take messages, one at a time, until all have come."""
        self.listen()
        iterator = iter(messages)
        self._count(islice(iterator, self._left))
        self._begin()
        self._count(islice(iterator, self._left))
        self._end()

    def pull_batches(self, batches: Iterable[Any]) -> None:
        """Take batches until all messages have come."""
        self.listen()
        for batch in batches:
            if self.take(batch):
                return

    def take(self, batch: Any) -> bool:
        """Take a batch; True once all messages have come."""
        self._count(batch)
        self._left -= len(batch)
        if self._left > 0:
            return False
        if self._left < 0:
            raise WrongCount(f"{-self._left} messages more than were sent")
        if self._running:
            self._end()
            return True
        self._begin()
        return False

    def result(self) -> dict[str, Any]:
        """Return what was measured; raise WrongCount unless every message came, once."""
        spec = self._spec
        result: dict[str, Any] = {
            "messages": spec.total,
            "nbytes": spec.total * spec.size,
            "receiver_cpu": self._cpu,
        }
        if spec.rate:
            self._nbytes = sum(map(len, self._timed))
            result |= self._latencies()
        elif spec.kind == "audit" and spec.interface != "bytes":
            self._check("sequence numbers", [spec.share] * spec.processes, self._next)
        elif spec.kind == "throughput" and spec.interface == "message":
            expected = [0] * 256
            for index in range(spec.processes):
                expected[index % 256] += spec.share * spec.size
            if expected != self._sums:
                raise WrongCount("some producers' messages came twice or not at all")
            self._nbytes = sum(self._sums)
        self._check("bytes", result["nbytes"], self._nbytes)
        if spec.kind == "idle":
            result["rss_mib"] = self._rss
        return result

    def _check(self, what: str, expected: object, found: object) -> None:
        if expected != found:
            raise WrongCount(f"{what}: {expected} were sent, {found} came")

    def _begin(self) -> None:
        self._left = self._spec.total
        self._running = True
        self._sums = [0] * 256
        self._nbytes = 0
        self._arrivals.clear()
        self._timed.clear()
        self._rss = resident_mib()
        self._cpu = cpu_seconds()
        self._gates.start.open()

    def _end(self) -> None:
        self.ended = monotonic_ns()
        self._cpu = cpu_seconds() - self._cpu
        self._rss = max(self._rss, resident_mib())
        self._gates.done.open()

    # -- what is done with messages ---------------------------------------------------------

    def _choose(self) -> Callable[[Any], None]:
        if self._spec.rate:
            return self._time
        if self._spec.interface == "bytes":
            return self._add_untouched
        if self._spec.kind == "audit":
            return self._audit
        if self._spec.interface == "message":
            return self._add_each
        if self._spec.interface == "untouched":
            return self._add_untouched
        return self._add_up

    def _add_each(self, messages: Iterable[bytes]) -> None:
        sums = self._sums
        for message in messages:
            sums[message[0]] += len(message)

    def _add_up(self, batch: Sequence[bytes]) -> None:
        self._nbytes += sum(map(len, batch))

    def _add_untouched(self, batch: Any) -> None:
        self._nbytes += batch.nbytes

    def _time(self, messages: Iterable[bytes]) -> None:
        arrived, keep = self._arrivals.append, self._timed.append
        for message in messages:
            arrived(monotonic_ns())
            keep(message)

    def _audit(self, messages: Iterable[bytes]) -> None:
        """Check that every producer's messages come once, whole and in order."""
        size, pool = self._spec.size, pool_size(self._spec)
        for message in messages:
            producer, _, sequence = STAMP.unpack_from(message)
            if not self._running:
                continue
            self._check("length of a message", size, len(message))
            self._check("message", self._next[producer] % pool, sequence)
            self._next[producer] += 1
            self._nbytes += len(message)

    def _latencies(self) -> dict[str, float]:
        """Return percentiles of the one-way latency, in microseconds."""
        latencies = [
            (arrival - CLOCK.unpack_from(message)[0]) / 1000
            for arrival, message in zip(self._arrivals, self._timed, strict=True)
        ]
        return percentiles(latencies)


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return the percentiles that the tables show."""
    cuts = quantiles(latencies, n=1000, method="inclusive")
    return {"p50": cuts[499], "p99": cuts[989], "p99.9": cuts[998]}


def resident_mib() -> float:
    """Return the memory of this process that is in RAM, in MiB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * getpagesize() / MIB
