"""Simulate hosts that forward to one stream, second by second.

What is assumed:

- Streams do not disturb each other, so one stands for all that are laid out alike.
- A stream's leader spends a fixed time on a batch, and more on each of its messages. Connected
  hosts take turns, a batch each.
- A message costs a fixed number of bytes in a journal. A full journal holds producers back.
- Where the stream cannot be reached, an attempt fails after a fixed time, and the next follows the
  back-off of the sinks (`mpsr.limits`). The nodes take a limited number of connections a second.
- When a host loses the stream, its last batch may have been stored without an answer. The sink asks
  the stream which message it has last; a publisher with message ids sends the batch again, and the
  stream stores it a second time once the duplicate window is over.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mpsr.limits import SINK_BACKOFF_FIRST, SINK_BACKOFF_MOST

BATCH: Final = 1000  # messages: what a server takes in one
STORED_UNANSWERED: Final = 0.5  # of the batches under way when a host loses the stream

Arrivals = Callable[[float], float]
"""Messages a second of a host, at a time in seconds."""
Backoff = Callable[[int, random.Random], float]
"""Seconds until the next attempt, after so many failures."""


@dataclass(frozen=True)
class Outage:
    """A time in which hosts cannot reach the stream, or the stream is slower."""

    begin: float
    end: float
    hosts: float = 1.0
    """The share of the hosts that it concerns."""
    capacity: float = 0.0
    """The share of the leader's time that is left."""
    attempt: float = 0.0
    """Seconds until an attempt fails: 0 where it is refused, a time-out where a link is cut."""


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    hosts: int
    arrivals: Arrivals
    seconds: int
    outage: Outage | None = None
    journal: int = 10_000_000
    """Messages that a host's journal holds."""
    batch_cost: float = 0.0004
    """Seconds of the leader for a batch."""
    message_cost: float = 0.00002
    """Seconds of the leader for a message."""
    forwarder: float = 50_000.0
    """Messages a second that one host forwards at most."""
    connects: float = 1000.0
    """Connections a second that the cluster's nodes take for this stream's hosts."""
    duplicate_window: float = 120.0
    backoff: Backoff | None = None
    """None for that of the sinks."""
    seed: int = 1


@dataclass
class Host:
    """What one host has, in messages."""

    journal: int = 0
    held: int = 0
    """Not accepted: producers wait."""
    sent: int = 0
    fraction: float = 0.0
    """Of a message that is arriving."""
    connected: bool = True
    failures: int = 0
    unanswered: int = 0
    """Stored, while the host does not know."""
    lost_at: float = 0.0


@dataclass(frozen=True)
class Second:
    """The state of all at the end of a second."""

    lag: int
    held: int
    connected: int
    attempts: int
    stored: int


@dataclass
class Outcome:
    """What came of it."""

    arrived: int = 0
    stored: int = 0
    """Of the messages that arrived, each counted once."""
    doubled_with_ids: int = 0
    """What a publisher with message ids would have stored a second time."""
    seconds: list[Second] = field(default_factory=list)
    held_since: float | None = None
    """When the first journal was full; None if none ever was."""

    def most_lag(self) -> int:
        return max(each.lag for each in self.seconds)

    def most_attempts(self, begin: float, end: float) -> int:
        """Return the most attempts to connect in a second of that time."""
        return max((each.attempts for each in self.seconds[int(begin) : int(end)]), default=0)

    def caught_up(self, after: float, usual: int) -> int | None:
        """Return the seconds from ``after`` until the lag is usual again; None if it never is."""
        for second, each in enumerate(self.seconds[int(after) :]):
            if each.lag + each.held <= usual:
                return second
        return None


def sink_backoff(failures: int, chance: random.Random) -> float:
    """Return the pause of a sink: doubled each time, and of that a random half left out."""
    doubled: float = SINK_BACKOFF_FIRST * 2.0 ** min(failures - 1, 16)
    return min(doubled, SINK_BACKOFF_MOST) * chance.uniform(0.5, 1.0)


def fixed_backoff(seconds: float) -> Backoff:
    """Return a back-off without jitter, to compare."""
    return lambda failures, chance: seconds  # noqa: ARG005 - as a Backoff is called


class Simulation:
    """Runs one setting."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._hosts = [Host() for _ in range(setting.hosts)]
        self._chance = random.Random(setting.seed)
        self._due: list[tuple[float, int]] = []  # attempts, and whose
        self._outcome = Outcome()
        self._turn = 0
        self._free_at = 0.0  # when the nodes have time for a connection

    def run(self) -> Outcome:
        for second in range(self._setting.seconds):
            outage = self._setting.outage
            self._arrive(second)
            if outage is not None and int(outage.begin) == second and outage.hosts:
                self._lose(outage)
            attempts = self._connect(second + 1)
            self._forward(self._share(second))
            self._look(attempts)
        return self._outcome

    def _share(self, second: float) -> float:
        outage = self._setting.outage
        if outage is None or not outage.begin <= second < outage.end:
            return 1.0
        return outage.capacity if outage.capacity or outage.hosts == 1.0 else 1.0

    def _lose(self, outage: Outage) -> None:
        for number in range(math.ceil(outage.hosts * len(self._hosts))):
            host = self._hosts[number]
            host.connected, host.lost_at = False, outage.begin
            if self._chance.random() < STORED_UNANSWERED:
                host.unanswered = min(host.journal, BATCH)
            self._fail(number, outage.begin + self._chance.random() + outage.attempt)

    def _fail(self, number: int, at: float) -> None:
        host = self._hosts[number]
        host.failures += 1
        pause = (self._setting.backoff or sink_backoff)(host.failures, self._chance)
        heapq.heappush(self._due, (at + pause, number))

    def _connect(self, until: float) -> int:
        """Let those attempt to connect whose time has come; return how many they are."""
        attempts, outage = 0, self._setting.outage
        while self._due and self._due[0][0] < until:
            at, number = heapq.heappop(self._due)
            attempts += 1
            if outage is not None and at < outage.end:
                self._fail(number, at + outage.attempt)
                continue
            self._free_at = max(self._free_at, at) + 1 / self._setting.connects
            self._welcome(self._hosts[number], self._free_at)
        return attempts

    def _welcome(self, host: Host, at: float) -> None:
        host.connected, host.failures = True, 0
        if at - host.lost_at > self._setting.duplicate_window:
            self._outcome.doubled_with_ids += host.unanswered
        self._store(host, host.unanswered)  # the stream says that it has them
        host.unanswered = 0

    def _arrive(self, second: int) -> None:
        rate = self._setting.arrivals(second)
        for host in self._hosts:
            exact = rate + host.fraction
            count = int(exact)
            host.fraction = exact - count
            self._outcome.arrived += count
            host.held += count
            taken = min(host.held, self._setting.journal - host.journal)
            host.held -= taken
            host.journal += taken
            if host.held and self._outcome.held_since is None:
                self._outcome.held_since = second
            host.sent = 0

    def _forward(self, time: float) -> None:
        """Give the hosts turns, a batch each, while the leader has time in this second."""
        setting = self._setting
        count = len(self._hosts)
        waiting = [self._hosts[(self._turn + each) % count] for each in range(count)]
        self._turn += 1
        while waiting:
            again = []
            for host in waiting:
                batch = min(BATCH, host.journal, int(setting.forwarder) - host.sent)
                if not host.connected or batch <= 0:
                    continue
                batch = min(batch, int((time - setting.batch_cost) / setting.message_cost))
                if batch <= 0:
                    return
                time -= setting.batch_cost + batch * setting.message_cost
                host.sent += batch
                self._store(host, batch)
                if host.journal:
                    again.append(host)
            waiting = again

    def _store(self, host: Host, count: int) -> None:
        host.journal -= count
        self._outcome.stored += count

    def _look(self, attempts: int) -> None:
        self._outcome.seconds.append(
            Second(
                lag=sum(host.journal for host in self._hosts),
                held=sum(host.held for host in self._hosts),
                connected=sum(host.connected for host in self._hosts),
                attempts=attempts,
                stored=self._outcome.stored,
            )
        )
