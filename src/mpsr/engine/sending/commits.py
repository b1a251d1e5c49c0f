"""Decide what is committed to a spool, and when."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mpsr.errors import JournalError, JournalFull, MpsrError
from mpsr.limits import FULL_DISK_PAUSE, GROUP_SIZE, SPOOL_SETTLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpsr.engine.sending.batches import SendBatch
    from mpsr.engine.sending.spool import Spool
    from mpsr.engine.sending.window import Window


class Commits:
    """The commits of a window's messages to a spool, one at a time.

    Attributes:
        obstacle: why the last one has found no room; None if it has.
        failure: why there will be none any more.

    """

    def __init__(self, spool: Spool, window: Window) -> None:
        self._spool = spool
        self._window = window
        self._not_before = 0.0  # on the monotonic clock (seconds)
        self.obstacle: JournalFull | None = None
        self.failure: MpsrError | None = None

    def due_at(self) -> float | None:
        """Return when the next is due, on the monotonic clock; None if none is."""
        window = self._window
        if self.failure is not None:
            return None
        if window.unspooled:
            return self._not_before
        if window.gathering:
            return max(window.due_at, self._not_before)
        if window.accepted_seq > self._spool.accepted_seq:
            return self._not_before + SPOOL_SETTLE
        return None

    def begin(self, now: float) -> Callable[[], MpsrError | None] | None:
        """Choose what to commit now; return what commits it, if there is anything.

        That can be called without the lock, and returns the error, if there was one; ``end`` must
        follow.
        """
        due_at = self.due_at()
        if due_at is None or now < due_at:
            return None
        group = self._window.group(now, GROUP_SIZE)
        return partial(_commit, self._spool, group, self._window.accepted_seq)

    def end(self, error: MpsrError | None, now: float) -> None:
        """Record the result of a commit."""
        self._not_before, self.obstacle = now, None
        if isinstance(error, JournalFull):
            self._not_before += FULL_DISK_PAUSE
            self.obstacle = error
        else:
            self.failure = error
        self._window.end_commit(self._spool.next_seq if error is None else 0)

    def close(self) -> None:
        """Write up to where all is accepted, and part with the spool."""
        try:
            self._spool.close(self._window.accepted_seq)
        except JournalError:
            pass  # what was accepted is sent again some day, and dropped there


def _commit(spool: Spool, group: Sequence[SendBatch], accepted_seq: int) -> MpsrError | None:
    try:
        spool.commit(group, accepted_seq)
    except MpsrError as exc:
        return exc
    return None
