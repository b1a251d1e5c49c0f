"""Choose the connection to evict, or to wait, if there are too many or too much is unfinished.

No connection is evicted without need. The receiver takes the user that holds most, and evicts the
connection of this user that has been silent longest, or that holds most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from mpsr.limits import FIRST_READ, MAX_UNFINISHED, SILENCE, SILENT_START

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
    """Bytes of an unfinished message or frame."""

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
    """The bytes of all unfinished messages and frames, whose sum is kept within a bound.

    Near the bound they are scarce: of the user that has most, only one native connection is read
    at a time where a frame has begun, so that it finishes and makes room; the others wait. Beyond
    the bound the largest connection of the user that has most is closed.

    Attributes:
        scarce: whether connections may have to wait.

    """

    def __init__(self, max_message: int) -> None:
        self._most = max(MAX_UNFINISHED, max_message)
        # The remainder is for the rest of one long message, and for frames that begin meanwhile.
        self._near = max(self._most // 2, self._most - 2 * max_message)
        self._holders: set[Connection] = set()
        self._users: Counter[int | None] = Counter()  # bytes
        self._sum = 0
        self.scarce: bool = False
        self._going: Connection | None = None  # is read, while others wait
        self._brought = 0  # bytes, since its turn or its last SILENT_START began
        self._since = 0.0
        self._waiting: dict[Connection, None] = {}
        self._latest = False
        self._bound = True

    def count(self, connection: Connection, size: int, now: float) -> Iterator[Connection]:
        """Note what a connection has unfinished; yield those to close, until it is within bounds.

        Each is closed, and forgotten, before the next is asked for.
        """
        if connection is self._going:
            self._brought += max(0, size - connection.unfinished)
            if self._brought >= FIRST_READ:
                self._brought, self._since = 0, now
        self._set(connection, size)
        while self._sum > self._most and (found := self._largest()) is not None:
            yield found

    def _largest(self) -> Connection | None:
        """Return the connection to close: any but the only one that is sure to finish."""
        return holds_most(self._holders - {self._going}) if len(self._holders) > 1 else None

    def _set(self, connection: Connection, size: int) -> None:
        change = size - connection.unfinished
        self._sum += change
        self._users[connection.uid] += change
        if not self._users[connection.uid]:
            del self._users[connection.uid]
        connection.unfinished = size
        if size:
            self._holders.add(connection)
        else:
            self._holders.discard(connection)
            if connection is self._going:
                self._going = None
        self.scarce = self._bound and self._sum > self._near

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer: it is closed."""
        self._waiting.pop(connection, None)
        self._set(connection, 0)

    def waits(self, connection: Connection, now: float) -> bool:
        """Return whether a connection that has something to read must wait; it is then noted."""
        if not (self.scarce and connection.unfinished and connection.native):
            return False
        if connection is self._going:
            return False
        if self._users[connection.uid] < max(self._users.values()):
            return False
        if self._going is None or self._stalls(now):
            self._going, self._brought, self._since = connection, 0, now
            return False
        self._waiting[connection] = None
        return True

    def _stalls(self, now: float) -> bool:
        return now - self._since >= SILENT_START

    def resume(self, now: float) -> list[Connection]:
        """Return the connections that wait no longer: all, or the next one to be read."""
        if not self.scarce:
            resumed = list(self._waiting)
        elif self._waiting and (self._going is None or self._stalls(now)):
            # By turns the longest and the latest: many that stall must not hold up a newcomer.
            self._latest = not self._latest
            resumed = [next(reversed(self._waiting) if self._latest else iter(self._waiting))]
        else:
            return []
        for each in resumed:
            del self._waiting[each]
        return resumed

    def unbound(self, now: float) -> list[Connection]:
        """Have no connection wait from now on; return those that did."""
        self._bound = self.scarce = False
        return self.resume(now)

    @property
    def waiting(self) -> bool:
        """Whether a connection waits."""
        return bool(self._waiting)


def holds_most(holders: Collection[H]) -> H:
    """Return the connection with most unfinished bytes, of the user who has most of them."""
    sizes: Counter[int | None] = Counter()
    for holder in holders:
        sizes[holder.uid] += holder.unfinished
    uid = max(sizes, key=lambda each: sizes[each])
    return max(
        (holder for holder in holders if holder.uid == uid), key=lambda each: each.unfinished
    )
