"""Hand a journal's batches out, in order, with a cursor behind them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mpsr.batch import Batch
from mpsr.engine.receiving.group import weight
from mpsr.errors import ConfigurationError
from mpsr.limits import MIB, READ_AHEAD
from mpsr.system import primitives
from mpsr.system.clock import monotonic
from mpsr.system.poller import wait_readable
from mpsr.system.threads import are_stopped
from mpsr.system.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpsr.store.journal import Journal
    from mpsr.store.reader import Reader


class Source(Protocol):
    """What a follower asks of who writes the journal."""

    journal: Journal
    decode: Callable[[bytes], Any] | None
    closed: bool
    ended: bool
    """Whether nothing is written any more."""

    @property
    def handed_over(self) -> bool:
        """Whether another receiver goes on with the journal."""

    failure: BaseException | None
    """What ended the writing."""

    def moved(self) -> None:
        """Have the moved cursors committed."""

    def part_with(self, follower: Follower) -> None:
        """Offer nothing more to a follower."""


class Follower:
    """Hands a journal's batches out, in order, and keeps a cursor behind them.

    ``after`` is the position after which a handler that keeps its own position resumes. The cursor
    is set to it, even back, so that no later message is trimmed before the handler has it.
    """

    def __init__(self, source: Source, name: str, after: int | None) -> None:
        self._source = source
        self._journal = source.journal
        self._name = name
        position = self._journal.cursor(name) if after is None else after
        if after is not None and not self._journal.resume(name, after):
            error = (
                f"after={position}: {self._journal.path} holds what comes after "
                f"{self._journal.trimmed} to {self._journal.last}"
            )
            raise ConfigurationError(error)
        self._lock = primitives.Lock()
        self._log: Reader | None = None  # once it has fallen behind
        self._ahead: deque[Batch[Any]] = deque()  # to be handed out next
        self._ahead_bytes = 0
        self._ahead_to = position  # the last position in there
        self._handed: Batch[Any] | None = None
        self._left = False
        self.wakeup: Wakeup = Wakeup()
        self.changed_at: float = monotonic()  # when a batch was handed out, or none was left

    @property
    def finished(self) -> bool:
        """Whether there is no more to come."""
        if self._source.ended and self._source.handed_over:
            return True
        return self._source.ended and not self._ahead and self._ahead_to == self._journal.last

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``next_batch`` may have something."""
        return self.wakeup.fileno()

    def wait(self, seconds: float | None) -> None:
        """Wait until ``next_batch`` may have something."""
        wait_readable(self.wakeup, seconds)

    def next_batch(self) -> Batch[Any] | None:
        """Move the cursor past the batch handed out before; return the next, or None for now.

        Raises JournalDamaged where the journal cannot be read, and, once all that was committed
        is handed out, what ended the committing.
        """
        handed = self._handed is not None
        self.acknowledge()
        batch = self._next()
        if batch is None:  # one that only tells of lost messages is false
            batch = self._next_after_clearing()
        if batch is None:
            if self._source.failure is not None and self.finished:
                raise self._source.failure.with_traceback(None)
            if handed:
                self.changed_at = monotonic()
            return None
        self.changed_at = monotonic()  # first, for whoever looks from another thread
        self._handed = batch
        return batch

    def _next_after_clearing(self) -> Batch[Any] | None:
        self.wakeup.clear()
        batch = self._next()
        if batch is not None or self._source.ended:
            self.wakeup.set()
        return batch

    def _next(self) -> Batch[Any] | None:
        if self._source.ended and self._source.handed_over:
            return None
        with self._lock:
            if not self._ahead and self._ahead_to < self._journal.last:
                self._log = self._log or self._journal.reader()
                for position, entry in self._log.read(self._ahead_to, max_bytes=MIB):
                    batch = entry.batch(self._source.decode)
                    batch.position = position
                    self._keep(batch)
            if not self._ahead:
                return None
            batch = self._ahead.popleft()
            self._ahead_bytes -= weight(batch)
            return batch

    def offer(self, batches: Sequence[Batch[Any]]) -> None:
        """Take batches that were committed, if they come next and there is memory for them."""
        with self._lock:
            for batch in batches:
                begins = (batch.position or 0) - (len(batch) or 1)
                if begins != self._ahead_to or self._ahead_bytes > READ_AHEAD:
                    break
                self._keep(batch)
        self.wake()

    def wake(self) -> None:
        """Wake the caller that waits; in any thread, also after ``leave``."""
        with self._lock:
            if not self._left:
                self.wakeup.set()

    def _keep(self, batch: Batch[Any]) -> None:
        self._ahead.append(batch)
        self._ahead_bytes += weight(batch)
        self._ahead_to = batch.position or 0

    @property
    def in_hand(self) -> Batch[Any] | None:
        """The batch handed out last; see Inbox.in_hand."""
        return self._handed

    @in_hand.setter
    def in_hand(self, batch: Batch[Any]) -> None:
        self._handed = batch

    def acknowledge(self, count: int | None = None, *, more: bool = False) -> None:
        """Move the cursor past the batch handed out last, or past its first ``count`` messages."""
        batch = self._handed
        if not more:
            self._handed = None
        if batch is None:
            return
        position = batch.position or 0
        if count is not None:
            position -= len(batch) - count
        if position > self._journal.cursor(self._name):
            self._journal.move(self._name, position)
            self._source.moved()

    def disown(self) -> None:
        """Leave the cursor before the batch handed out last."""
        self._handed = None

    def leave(self, *, handled: bool) -> None:
        """Stop following, and close the descriptors; a ``handled`` batch moves the cursor.

        The thread that follows calls it, also once the receiver is closed: until then, it may
        wait for the descriptor.
        """
        if handled and not self._source.closed:
            self.acknowledge()
        self._source.part_with(self)
        if are_stopped():
            self.abandon()
            return
        with self._lock:
            self._release()

    def abandon(self) -> None:
        """Close the descriptors where no other thread runs, as in a forked child."""
        self._lock = primitives.Lock()
        self._release()

    def _release(self) -> None:
        self._left = True
        self.wakeup.close()
        if self._log is not None:
            self._log.close()
