"""Decide whose connection gives way, where there are too many or too much is unfinished.

Nobody is sent away without need. Where there is, it is the user who holds most that gives way, and
of this user's connections the one that has been silent longest, or that holds most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from mpsr.limits import MAX_UNFINISHED, SILENCE, SILENT_START

if TYPE_CHECKING:
    from mpsr.engine.receiving.connection import Connection


class Holder(Protocol):
    """What is asked of a connection."""

    @property
    def uid(self) -> int | None:
        """The user at the other end."""

    heard_at: float
    """When it last brought something whole, or else when it came."""
    heard: bool
    """Whether it has brought something whole."""
    unfinished: int
    """Bytes of a foreign message that is not whole."""

    @property
    def native(self) -> bool:
        """Whether it is a producer's of ours, which comes back if it is sent away."""


H = TypeVar("H", bound=Holder)


def silent(holder: Holder, now: float) -> bool:
    """Tell whether a connection says nothing, or nothing whole."""
    return now - holder.heard_at >= (SILENCE if holder.heard else SILENT_START)


def gives_way(holders: Collection[H], uid: int | None, now: float) -> H | None:
    """Return the connection that gives way to a newcomer of that uid; None if none does.

    It is the longest silent one of the user who has most, and not fewer than the newcomer's. To a
    user who has fewer than theirs, connections that have said nothing give way at once, and so do
    producers that are idle.
    """
    counts = Counter(holder.uid for holder in holders)
    found: H | None = None
    best = (0, -1.0)
    for holder in holders:
        count = counts[holder.uid]
        has_more = count > counts[uid] + 1
        idle_producer = holder.native and holder.heard
        if count < counts[uid] or (idle_producer and not has_more):
            continue
        rank = (count, now - holder.heard_at)
        if rank > best and (silent(holder, now) or (has_more and not holder.heard)):
            found, best = holder, rank
    return found


class Unfinished:
    """The bytes of foreign messages that are not whole; their sum is kept within a bound."""

    def __init__(self, max_message: int) -> None:
        self._most = max(MAX_UNFINISHED, max_message)
        self._holders: set[Connection] = set()
        self._sum = 0

    def count(self, connection: Connection, size: int) -> Iterator[Connection]:
        """Note what a connection has unfinished; yield those to close, until it is within bounds.

        Each is closed, and forgotten, before the next is asked for.
        """
        self._sum += size - connection.unfinished
        connection.unfinished = size
        if size:
            self._holders.add(connection)
        else:
            self._holders.discard(connection)
        while self._sum > self._most:
            yield holds_most(self._holders)

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer: it is closed."""
        self._sum -= connection.unfinished
        self._holders.discard(connection)


def holds_most(holders: Collection[H]) -> H:
    """Return the connection with most unfinished bytes, of the user who has most of them."""
    sizes: Counter[int | None] = Counter()
    for holder in holders:
        sizes[holder.uid] += holder.unfinished
    uid = max(sizes, key=lambda each: sizes[each])
    return max(
        (holder for holder in holders if holder.uid == uid), key=lambda each: each.unfinished
    )
