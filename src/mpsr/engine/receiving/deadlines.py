"""Keep the deadlines of connections, on a clock that stops while nothing is read.

Nothing is read while the caller handles a batch, or comes back later than it was asked to. So a
peer that waits for the receiver meanwhile is not late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from mpsr.limits import (
    FRAME_DEADLINE,
    HELLO_DEADLINE,
    OBSERVER_REFUSAL,
    REPLY_DEADLINE,
    SILENT_START,
)
from mpsr.wire.frames import RejectCode
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from mpsr.engine.receiving.connection import Connection

Debt = Literal["hello", "frame", "reply", "end"]
"""What a connection owes.

Its introduction, the rest of a frame, to read what it was sent, or its end: an observer that has no
place is rejected late, so that one that connects again at once costs the receiver little.
"""

_CHECK_INTERVAL: Final = 0.25  # seconds
_TIMED: Final = frozenset({"native", "length", "length-le", "octet-counted"})  # framings
_WHY: Final[dict[Debt, tuple[str, RejectCode]]] = {
    "hello": ("its hello did not come in time", RejectCode.DEADLINE),
    "frame": ("its frame did not come in time", RejectCode.DEADLINE),
    "reply": ("it does not read its acknowledgements", RejectCode.DEADLINE),
    "end": ("too many observe the receiver already", RejectCode.BUSY),
}


class Deadlines:
    """The deadlines of all connections of a receiver.

    Attributes:
        now: the time on the clock that stops (seconds).
        handed_at: since when a batch is in hand, on the monotonic clock; None if none is.
        due: until when each owes what.

    """

    def __init__(self) -> None:
        self.now: float = 0.0
        self._away = 0.0  # seconds that the clock was stopped
        self._asked_at = 0.0
        self.handed_at: float | None = None
        self.due: dict[tuple[Connection, Debt], float] = {}
        self._check_at = 0.0

    def set_clock(self, now: float, *, waits: bool) -> None:
        """Set the clock to the monotonic clock's time, less what the caller was away.

        ``waits`` says that something else than a deadline waits for the clock.
        """
        if self.handed_at is not None:
            self._away += now - self.handed_at
            self.handed_at = None
        elif self.due or waits:
            self._away += max(0.0, now - self._asked_at - _CHECK_INTERVAL)
        self._asked_at = now
        self.now = now - self._away

    def monotonic(self, seconds: float = 0.0) -> float:
        """Return the monotonic clock's time, so many seconds from now."""
        return self.now + self._away + seconds

    def follow(self, connection: Connection, size: int) -> None:
        """Note what a connection owes, and until when, after ``size`` bytes were read from it."""
        session = connection.session
        if session.refusal is not None:
            self.due.setdefault((connection, "hello"), self.now + SILENT_START)
        if session.framing not in _TIMED:
            return
        if session.state in (State.PREFACE, State.HELLO):
            self.due.setdefault((connection, "hello"), self.now + HELLO_DEADLINE)
        else:
            self.due.pop((connection, "hello"), None)
        pending = session.pending
        if 0 < pending <= size:  # it began in this read
            self.due[connection, "frame"] = self.now + FRAME_DEADLINE
        elif not pending:
            self.due.pop((connection, "frame"), None)

    def reject_late(self, connection: Connection) -> None:
        """Note that an observer has no place, and when to reject it."""
        self.due[connection, "end"] = self.now + OBSERVER_REFUSAL

    def follow_reply(self, connection: Connection) -> None:
        """Note whether a connection owes to read what it was sent."""
        if connection.out:
            self.due.setdefault((connection, "reply"), self.now + REPLY_DEADLINE)
        else:
            self.due.pop((connection, "reply"), None)

    def forget(self, connection: Connection) -> None:
        """Forget what a connection owes: it is closed."""
        for debt in _WHY:
            self.due.pop((connection, debt), None)

    def excuse(self, connection: Connection) -> None:
        """Forget what a connection owes to send: it is not read for now."""
        self.due.pop((connection, "hello"), None)
        self.due.pop((connection, "frame"), None)

    def missed(self) -> list[tuple[Connection, str, RejectCode]]:
        """Return the connections that have missed a deadline, and why; checked at intervals."""
        if not self.due or self.now < self._check_at:
            return []
        self._check_at = self.now + _CHECK_INTERVAL
        return [(each, *_WHY[debt]) for (each, debt), due in self.due.items() if due < self.now]

    def seconds_to(self, when: float, now: float) -> float:
        """Return the seconds until a time on the clock that stops."""
        return when - (now - self._away)

    def wait_time(self, now: float) -> float:
        """Return the seconds until ``missed`` checks again."""
        return self.seconds_to(self._check_at, now)
