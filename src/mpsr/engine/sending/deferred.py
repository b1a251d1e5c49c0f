"""Set messages aside that a call cannot take because it has interrupted another one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mpsr.limits import MESSAGE_COST

if TYPE_CHECKING:
    from mpsr.engine.sending.window import OnFull, Window


class Deferred(deque[bytes | None]):
    """The messages that were set aside, in order; None stands for one that was dropped."""

    def __init__(self, buffer: int, on_full: OnFull) -> None:
        super().__init__()
        self._buffer = buffer
        self._refuses = on_full in ("block", "raise")
        self._cost = 0

    def add(self, body: bytes) -> bool:
        """Set a message aside; return False if there is no room, and it is not to be dropped."""
        cost = len(body) + MESSAGE_COST
        if self and self._cost + cost > self._buffer:
            if self._refuses:
                return False
            self.append(None)
            return True
        self._cost += cost
        self.append(body)
        return True

    def move_to(self, window: Window, now: float) -> None:
        """Have the window take them all; none is refused for want of room."""
        while self:
            body = self.popleft()
            end_seq = window.next_seq
            try:
                if body is None:
                    window.lose(1)
                else:
                    window.offer(body, now, may_wait=False)
            except BaseException:
                if window.next_seq == end_seq:
                    self.appendleft(body)
                raise
        self._cost = 0
