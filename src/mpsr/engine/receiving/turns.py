"""Have users take turns: of those with something to read, who was served least comes next.

What counts is bytes, so that a user with many connections, or with long messages, gets no more
than one with few. Who had nothing to read for a while may catch up on TURN_CREDIT, not on more.
This is start-time fair queueing (Goyal, Vin and Cheng, 1996) with one flow a user.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from mpsr.limits import TURN_COST, TURN_CREDIT

if TYPE_CHECKING:
    from collections.abc import Hashable

S = TypeVar("S")


class Turns(Generic[S]):
    """What is ready, by user.

    Attributes:
        waiting: a heap of the users who have something ready: what each was served, in bytes, a
            number that tells equals apart, and the user.

    """

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, Hashable]] = []
        self._numbers = count()
        self._queues: dict[Hashable, deque[S]] = {}
        self._events: dict[S, int] = {}
        self._served: dict[Hashable, int] = {}
        self._level = 0  # what was served to the user whose turn was last

    def add(self, user: Hashable, source: S, events: int) -> None:
        """Note that a source is ready, and for what; it is noted once."""
        if source in self._events:
            self._events[source] |= events
            return
        self._events[source] = events
        queue = self._queues.get(user)
        if queue is None:
            queue = self._queues[user] = deque()
            served = self._served.get(user, self._level)
            self._served[user] = max(served, self._level - TURN_CREDIT)
            self._wait(user)
        queue.append(source)

    def take(self) -> tuple[Hashable, S, int]:
        """Return the user whose turn it is, a source, and for what it is ready; then ``charge``."""
        served, _, user = heappop(self.waiting)
        self._level = max(self._level, served)
        source = self._queues[user].popleft()
        return user, source, self._events.pop(source)

    def charge(self, user: Hashable, size: int) -> None:
        """Note how many bytes were read in the turn of a user."""
        self._served[user] += max(size, TURN_COST)
        if self._queues[user]:
            self._wait(user)
        else:
            del self._queues[user]

    def _wait(self, user: Hashable) -> None:
        heappush(self.waiting, (self._served[user], next(self._numbers), user))

    def forget(self, user: Hashable) -> None:
        """Forget what a user was served: it has no connection any more."""
        if user not in self._queues:
            self._served.pop(user, None)
