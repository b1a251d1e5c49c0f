"""Wake those who wait for room in a window, or for its messages to be safe, once they can go on.

Who waits costs the others nothing: a change wakes only those that it lets go on, those for room
in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from mpsr.engine.sending.window import Window

Until = Literal["room", "accepted", "spooled", "changed"]
"""What is waited for: room for a message, everything below a sequence number accepted or in the
spool, or any change."""


class Waiter:
    """One caller that waits; ``wake`` is called once, when it can go on."""

    __slots__ = ("need", "order", "until", "wake", "writes")

    def __init__(
        self,
        until: Until,
        need: int,
        wake: Callable[[], object],
        order: int,
        writes: bool,  # noqa: FBT001
    ) -> None:
        self.until = until
        self.need: int = need  # bytes of buffer, or a sequence number
        self.wake: Callable[[], object] | None = wake  # None once it was called, or has no use
        self.order: int = order
        self.writes: bool = writes  # whether it writes, once it is awake

    def __lt__(self, other: Waiter) -> bool:
        return (self.need, self.order) < (other.need, other.order)


class Waiters:
    """Those who wait on a window. It is not thread-safe: a front calls it with its lock held."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._order: Final = count()
        self._room: deque[Waiter] = deque()
        self._accepted: list[Waiter] = []  # heaps: the lowest sequence number first
        self._spooled: list[Waiter] = []
        self._changed: list[Waiter] = []

    def __bool__(self) -> bool:
        return bool(self._room or self._accepted or self._spooled or self._changed)

    def add(
        self, until: Until, need: int, wake: Callable[[], object], *, writes: bool = False
    ) -> Waiter:
        """Have ``wake`` called once there is what is waited for."""
        waiter = Waiter(until, need, wake, next(self._order), writes)
        if until == "room":
            self._room.append(waiter)
        elif until == "changed":
            self._changed.append(waiter)
        else:
            heappush(self._accepted if until == "accepted" else self._spooled, waiter)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Have it called no more, as nobody waits any longer."""
        if waiter.wake is None:
            return
        waiter.wake = None
        queue = getattr(self, f"_{waiter.until}")
        queue.remove(waiter)
        if waiter.until in ("accepted", "spooled"):
            heapify(queue)

    def wake(self) -> bool:
        """Wake who can go on by now; tell whether somebody has room."""
        window, promised = self._window, 0
        while self._room and window.has_room(self._room[0].need, promised):
            waiter = self._room.popleft()
            promised += waiter.need
            _wake(waiter)
        while self._accepted and self._accepted[0].need <= window.accepted_seq:
            _wake(heappop(self._accepted))
        while self._spooled and self._spooled[0].need <= window.spooled_seq:
            _wake(heappop(self._spooled))
        while self._changed:
            _wake(self._changed.pop())
        return promised > 0

    def wake_writer(self) -> bool:
        """Wake the first of those for room, if it writes then; tell whether it does."""
        if not self._room or not self._room[0].writes:
            return False
        _wake(self._room.popleft())
        return True

    def wake_all(self) -> None:
        """Wake everybody: what they wait for will not come."""
        for queue in (self._room, self._accepted, self._spooled, self._changed):
            while queue:
                _wake(queue.pop())


def _wake(waiter: Waiter) -> None:
    wake, waiter.wake = waiter.wake, None
    if wake is not None:
        wake()
