"""Write what an inbox receives to a journal, then acknowledge it, and hand it out from there.

One background thread takes batches from the inbox and gathers them in groups; another writes a
group and syncs it, while the next one gathers. Then the first acknowledges it. Followers hand out
what was written at their own pace, each with a cursor of its own: what is new comes from memory,
what they have fallen behind from the disk.
"""

from __future__ import annotations

import os
import select
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

from mpsr.batch import Batch, batch_of, state_of
from mpsr.engine.receiving.follower import Follower
from mpsr.engine.receiving.group import Group, weight
from mpsr.errors import JournalFull
from mpsr.limits import CURSOR_TIME, FULL_DISK_PAUSE, GROUP_SIZE, GROUP_TIME, JOURNAL_PARTS
from mpsr.stats import CursorStats, JournalStats
from mpsr.store.journal import Journal
from mpsr.store.records import MAX_HEAD
from mpsr.system import primitives
from mpsr.system.calls import naming
from mpsr.system.clock import monotonic
from mpsr.system.threads import start_thread
from mpsr.system.wakeup import Wakeup
from mpsr.wire.ledger import ProducerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.engine.receiving.inbox import Inbox
    from mpsr.engine.receiving.observers import Observers
    from mpsr.stats import ReceiverStats
    from mpsr.store.records import ProducerKey

MAIN_CURSOR: Final = "main"


def open_journaled(
    path: str | os.PathLike[str],
    limit: int,
    open_inbox: Callable[[int], Inbox],
    *,
    max_message: int,
    decode: Callable[[bytes], Any] | None = None,
) -> JournaledInbox:
    """Open the journal first, then the inbox: without the one there is no need of the other.

    ``open_inbox`` is given how long a message may be, for a group of batches to fit the journal.
    """
    journal = Journal(path, limit=limit)
    try:
        inbox = open_inbox(min(max_message, limit // JOURNAL_PARTS))
        return JournaledInbox(inbox, journal, decode=decode)
    except BaseException:
        journal.close()
        raise


class JournaledInbox:
    """The receiving engine with a journal; it has the methods of an Inbox that a front calls."""

    def __init__(
        self, inbox: Inbox, journal: Journal, *, decode: Callable[[bytes], Any] | None = None
    ) -> None:
        self.journal = journal
        self.decode = decode
        self.closed: bool = False
        self.released: bool = False
        self.ended: bool = False  # nothing is written any more
        self.failure: BaseException | None = None  # why
        self._inbox = inbox
        self._taken: deque[Batch[Any]] = deque()  # from the inbox, for the next groups
        self._group = Group()  # being gathered
        self._writing: Group | None = None  # being written, until it is accepted
        self._groups: primitives.SimpleQueue[Group | None] = primitives.SimpleQueue()
        self._outcome: list[int] | BaseException | None = None  # of the one that is written
        self._taking = True  # whether there may be more to take from the inbox
        self._most_batches: float = inf  # of a group: few, where there is little room
        self._part = journal.limit // JOURNAL_PARTS
        self._forgotten: set[ProducerKey] = set()
        inbox.ledger.forgotten = self._forgotten
        states = (
            ProducerState(known.key, known.producer, known.expected_seq, known.epoch)
            for known in journal.producers()
        )
        inbox.ledger.restore(states, monotonic())
        self._closing = False
        self._nudge = Wakeup()
        self._moved_at: float | None = None  # when a cursor moved that is not committed
        self._followers: list[Follower] = []
        self._full = False  # whether what has come waits for room
        self._batches = self._messages = self._nbytes = 0  # committed
        self._main = self.follower()
        inbox.observers.overview.source = self
        inbox.observers.overview.journal = self._describe_journal
        self._thread = start_thread(self._run, name=f"mpsr journal {journal.path}")

    def follower(self, name: str | None = None, *, after: int | None = None) -> Follower:
        """Return a new follower, with the cursor of that name; None: the receiver's own."""
        follower = Follower(self, MAIN_CURSOR if name is None else name, after)
        self._followers.append(follower)
        return follower

    def part_with(self, follower: Follower) -> None:
        """Offer nothing more to a follower."""
        if follower in self._followers:
            self._followers.remove(follower)

    def moved(self) -> None:
        """Have the moved cursors committed, with the next group or soon."""
        if self._moved_at is None:
            self._moved_at = monotonic()
            self._nudge.set()

    def stand_aside(self, *, keep: bool) -> None:
        """Have no main follower, and drop its cursor unless ``keep``."""
        self._main.leave(handled=False)
        if not keep:
            self.journal.drop(MAIN_CURSOR)
            self.moved()

    # -- for the fronts: the main follower ------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether everything that came before the stop is handed out."""
        return self.closed or self._main.finished

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``next_batch`` may have something."""
        return self._main.fileno()

    def watch(self) -> None:
        """Do nothing: ``fileno`` is readable as long as there is something to hand out."""

    def signal(self, more: bool) -> None:  # noqa: FBT001 - as the inbox's
        """Do nothing; see ``watch``."""

    def wait_time(self, now: float) -> float | None:  # noqa: ARG002 - as the inbox's
        """Return None: the background thread keeps the times."""
        return None

    def wait(self, seconds: float | None) -> None:
        """Wait until ``next_batch`` may have something."""
        self._main.wait(seconds)

    def newcomers_time(self) -> float:
        """Return 0: the background thread has welcomed each producer."""
        return 0.0

    def next_batch(self, now: float) -> Batch[Any] | None:  # noqa: ARG002 - as the inbox's
        """Move the cursor past the batch handed out before; return the next, or None for now."""
        return self._main.next_batch()

    @property
    def in_hand(self) -> Batch[Any] | None:
        """The batch handed out last; see Inbox.in_hand."""
        return self._main.in_hand

    @in_hand.setter
    def in_hand(self, batch: Batch[Any]) -> None:
        self._main.in_hand = batch

    def acknowledge(self, count: int | None = None, *, more: bool = False) -> None:
        """Move the cursor past the batch handed out last, or its first ``count`` messages."""
        self._main.acknowledge(count, more=more)

    def disown(self) -> None:
        """Leave the cursor before the batch handed out last: its handler did not finish."""
        self._main.disown()

    @property
    def observers(self) -> Observers:
        """Who is told what the receiver does; see Inbox.observers."""
        return self._inbox.observers

    @property
    def changed_at(self) -> float:
        """When a batch was last handed out, or none was left."""
        return self._main.changed_at

    @property
    def stopping(self) -> bool:
        """Whether an end was asked for."""
        return self._inbox.stopping

    def _describe_journal(self) -> dict[str, Any]:
        """Return what observers are told of the journal; a lag counts messages."""
        stats = self.journal_stats()
        cursors = [{"name": name} | each._asdict() for name, each in sorted(stats.cursors.items())]
        told = stats._asdict() | {"bytes": stats.nbytes, "cursors": cursors}
        del told["nbytes"]
        return told

    def send_acks(self) -> None:
        """Commit the cursors now."""
        self.journal.commit()

    @property
    def handed_over(self) -> bool:
        """Whether another one is the receiver now."""
        return self._inbox.handed_over

    def end_handover(self) -> None:
        """Let a new receiver have the journal, which is closed; see Inbox.end_handover."""
        self._inbox.end_handover()

    def stop(self) -> None:
        """Ask for an orderly end; see Inbox.stop."""
        self._inbox.stop()

    def stats(self) -> ReceiverStats:
        """Return what was seen so far; messages count as received once they are committed."""
        main = self._main
        return self._inbox.stats()._replace(
            batches=self._batches,
            messages=self._messages,
            nbytes=self._nbytes,
            in_hand=0.0 if main.in_hand is None else monotonic() - main.changed_at,
        )

    def journal_stats(self) -> JournalStats:
        """Return what the journal holds."""
        journal, last = self.journal, self.journal.last
        cursors = {
            name: CursorStats(position, max(0, last - position))
            for name, position in journal.cursors().items()
        }
        return JournalStats(
            journal.path,
            journal.trimmed + 1,
            last + 1,
            journal.used,
            journal.limit,
            self._full,
            cursors,
        )

    def close(self) -> None:
        """Commit and acknowledge what was taken, then close everything; see Inbox.close."""
        if self.released:
            return
        self.closed = self._closing = True
        self._nudge.set()
        self._thread.join()
        try:
            self._inbox.close()
        finally:
            self._nudge.close()
            self._main.leave(handled=False)
            self.journal.close()
        self.released = True

    def abandon(self) -> None:
        """Close the descriptors that a forked child inherited; the parent's stay as they are."""
        self.closed = self.released = True
        self._inbox.abandon()
        self._nudge.close()
        for follower in self._followers:
            follower.abandon()

    # -- in the background --------------------------------------------------------------------

    def _run(self) -> None:
        """Gather one group, and accept the one before, until the end."""
        try:
            writer = start_thread(self._write, name=f"mpsr journal writer {self.journal.path}")
            try:
                while self._step():
                    pass
            finally:
                self._groups.put(None)
                writer.join()
        except BaseException as exc:  # noqa: BLE001 - raised to whoever iterates
            self.failure = exc
        finally:
            self.ended = True
            for follower in tuple(self._followers):
                follower.wake()

    def _write(self) -> None:
        """Write one group after the other; in a thread of its own."""
        for group in iter(self._groups.get, None):
            try:
                if group.batches:
                    self._outcome = self.journal.append(group.entries, forget=group.forgotten)
                else:
                    self.journal.commit()
                    self._outcome = []
            except BaseException as exc:  # noqa: BLE001 - the other thread raises it
                self._outcome = exc
            self._nudge.set()

    def _step(self) -> bool:
        """Do what can be done now, and wait for more; tell whether there is more to come."""
        self._nudge.clear()
        closing = self._closing
        self._accept()
        full = self._gather()
        if closing:
            self._taking = False
        ending = not self._taking or self._inbox.finished
        due_at = self._due_at()
        if self._writing is None:
            if due_at is not None and (full or ending or monotonic() >= due_at):
                self._begin()
                return True
            if ending:
                return False
            if not (self._taken or self._group.batches):
                self._inbox.handover.commit(monotonic(), journal=True)
        self._wait(None if self._writing else due_at, inbox=not (full or ending))
        return True

    def _wait(self, until: float | None, *, inbox: bool) -> None:
        """Wait for the writer, for a cursor that moves, and for the inbox, if it is wanted."""
        now = monotonic()
        poll = primitives.poll()
        poll.register(self._nudge.fileno(), select.POLLIN)
        waits = [None if until is None else until - now]
        if inbox:
            poll.register(self._inbox.fileno(), select.POLLIN)
            waits.append(self._inbox.wait_time(now))
        wait = min((max(0, each) for each in waits if each is not None), default=None)
        with naming("poll"):
            poll.poll(None if wait is None else wait * 1000)

    def _gather(self) -> bool:
        """Add to the group what has come; tell whether it is as large as a write is worth."""
        group = self._group
        room = self.journal.most // 2
        while group.size < GROUP_SIZE and len(group.batches) < self._most_batches:
            now = monotonic()
            taken = self._take(now)
            if taken is None:
                return False
            if group.batches and group.room + weight(taken) + MAX_HEAD > room:
                self._taken.appendleft(taken)
                return True
            group.add(taken, now)
        return True

    def _take(self, now: float) -> Batch[Any] | None:
        """Return what comes next; a batch that would fill the journal comes in parts."""
        if not self._taken:
            taken = self._inbox.take(now) if self._taking else None
            if taken is None or state_of(taken) is not None or weight(taken) <= self._part:
                return taken
            self._taken.append(taken)
        while len(self._taken[0]) > 1 and weight(self._taken[0]) > self._part:
            self._taken.extendleft(reversed(self._halves(self._taken.popleft())))
        return self._taken.popleft()

    def _halves(self, batch: Batch[Any]) -> list[Batch[Any]]:
        """Cut a foreign batch in two."""
        middle = len(batch) // 2
        return [
            batch_of(bodies, batch.peer, first_seq=batch.first_seq + begin, decode=self.decode)
            for begin, bodies in ((0, batch.raw[:middle]), (middle, batch.raw[middle:]))
        ]

    def _due_at(self) -> float | None:
        """Return when the group is to be written, or the cursors alone; None if nothing is."""
        dues = [] if self._moved_at is None else [self._moved_at + CURSOR_TIME]
        if self._group.batches:
            dues.append(self._group.begun + GROUP_TIME)
        return min(dues, default=None)

    def _begin(self) -> None:
        """Have the group written, and with it the cursors."""
        self._moved_at = None
        self._writing, self._group = self._group, Group()
        self._writing.forgotten = self._forgotten - self._writing.keys
        self._forgotten.clear()
        self._groups.put(self._writing)

    def _accept(self) -> None:
        """Acknowledge the group that was written, and hand it out."""
        group, outcome = self._writing, self._outcome
        if group is None or outcome is None:
            return
        self._writing = self._outcome = None
        if isinstance(outcome, JournalFull):
            self._set_back(group)
        elif isinstance(outcome, BaseException):
            raise outcome
        elif group.batches:
            self._most_batches = inf
            self._full = False
            for batch, position in zip(group.batches, outcome, strict=True):
                batch.position = position
                self._messages += len(batch)
                self._nbytes += batch.nbytes
            self._batches += len(group.batches)
            self._inbox.accept(group.batches)  # what a producer knows to be accepted is counted
            for follower in tuple(self._followers):
                follower.offer(group.batches)

    def _set_back(self, group: Group) -> None:
        """Try with half of a group that found no room; with one batch, wait for room."""
        batches = [*group.batches, *self._group.batches]
        self._taken.extendleft(reversed(batches))
        self._forgotten |= group.forgotten
        self._group = Group()
        if self._closing:
            self._inbox.put_back(self._taken)
            self._taken.clear()
            self._taking = False
        elif len(group.batches) > 1:
            self._most_batches = len(group.batches) // 2
        elif group.batches:
            self._make_room()

    def _make_room(self) -> None:
        """Trim, or wait for somebody to move a cursor, or for the disk."""
        self._moved_at = None
        with suppress(JournalFull):
            if self.journal.trim():
                return
        self._full = True
        self._wait(monotonic() + FULL_DISK_PAUSE, inbox=False)
