"""Write what an inbox receives to a journal, then acknowledge it, and hand it out from there.

One background thread takes batches from the inbox and gathers them in groups; another writes a
group and syncs it, while the next gathers. Then the first acknowledges it. Readers follow at
their own pace, each with a cursor of its own: what is new they get from memory, what they have
fallen behind from the disk.
"""

from __future__ import annotations

import os
import select
from collections import deque
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from mpsr import primitives
from mpsr.background import start_thread
from mpsr.batch import Batch
from mpsr.errors import ConfigurationError, JournalFull
from mpsr.limits import (
    CURSOR_TIME,
    FULL_PAUSE,
    GROUP_SIZE,
    GROUP_TIME,
    JOURNAL_PARTS,
    MIB,
    READ_AHEAD,
)
from mpsr.poller import wait_readable
from mpsr.store.journal import Journal
from mpsr.store.records import MAX_HEAD, Entry
from mpsr.wakeup import Wakeup
from mpsr.wire.codec import pack_batch
from mpsr.wire.frames import HEADER
from mpsr.wire.ledger import Track

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpsr.inbox import Inbox, ReceiverStats
    from mpsr.store.reader import Reader as LogReader
    from mpsr.store.records import ProducerKey

_MAIN_CURSOR: Final = "main"


def open_journaled(
    path: str | os.PathLike[str],
    limit: int,
    open_inbox: Callable[[int], Inbox],
    *,
    max_message: int,
    decode: Callable[[bytes], Any] | None = None,
) -> JournaledInbox:
    """Open the journal first, then the inbox: whoever may not have the one needs not the other.

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
        self.closed = False
        self.ended = False  # nothing is written any more
        self.failure: BaseException | None = None  # why
        self._inbox = inbox
        self._taken: deque[Batch[Any]] = deque()  # from the inbox, for the next groups
        self._group = _Group()  # being gathered
        self._writing: _Group | None = None  # being written, until it is accepted
        self._groups: primitives.SimpleQueue[_Group | None] = primitives.SimpleQueue()
        self._outcome: list[int] | BaseException | None = None  # of the one that is written
        self._taking = True  # whether there may be more to take from the inbox
        self._most_batches: float = inf  # of a group: few, where there is little room
        self._part = journal.limit // JOURNAL_PARTS
        self._forgotten: set[ProducerKey] = set()
        inbox.ledger.forgotten = self._forgotten
        for state in journal.producers():
            track = Track(state.key, state.producer, state.expected_seq)
            track.epoch = state.epoch
            inbox.ledger.restore(track, monotonic())
        self._closing = False
        self._nudge = Wakeup()
        self._moved_at: float | None = None  # when a cursor moved that is not committed
        self._readers: list[Reader] = []
        self._main = self.reader()
        self._thread = start_thread(self._run, name=f"mpsr journal {journal.path}")

    def reader(self, name: str | None = None, *, after: int | None = None) -> Reader:
        """Return a new reader, with the cursor of that name; None: the receiver's own."""
        reader = Reader(self, _MAIN_CURSOR if name is None else name, after)
        self._readers.append(reader)
        return reader

    def part_with(self, reader: Reader) -> None:
        """Offer nothing more to a reader."""
        if reader in self._readers:
            self._readers.remove(reader)

    def moved(self) -> None:
        """Have the moved cursors committed, with the next group or soon."""
        if self._moved_at is None:
            self._moved_at = monotonic()
            self._nudge.set()

    # -- for the fronts: the main reader ------------------------------------------------------

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

    def tell(self) -> None:
        """Commit the cursors now."""
        self.journal.commit()

    def stop(self) -> None:
        """Ask for an orderly end; see Inbox.stop."""
        self._inbox.stop()

    def stats(self) -> ReceiverStats:
        """Return what was seen so far; what was handed out is the main reader's."""
        main = self._main
        return self._inbox.stats()._replace(
            batches=main.batches, messages=main.messages, nbytes=main.nbytes
        )

    def close(self) -> None:
        """Commit and acknowledge what was taken, then close everything."""
        if self.closed:
            return
        self.closed = self._closing = True
        self._nudge.set()
        self._thread.join()
        try:
            self._inbox.close()
        finally:
            self._release()
            self.journal.close()

    def abandon(self) -> None:
        """Close the descriptors that a forked child inherited; the parent's stay as they are."""
        self.closed = True
        self._inbox.abandon()
        self._release()

    def _release(self) -> None:
        self._nudge.close()
        for reader in self._readers:
            reader.release()

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
        except BaseException as exc:  # noqa: BLE001 - whoever iterates is to know
            self.failure = exc
        finally:
            self.ended = True
            for reader in tuple(self._readers):
                reader.wake()

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
            if group.batches and group.room + _weight(taken) + MAX_HEAD > room:
                self._taken.appendleft(taken)
                return True
            group.add(taken, now)
        return True

    def _take(self, now: float) -> Batch[Any] | None:
        """Return what comes next; a batch that would fill the journal comes in parts."""
        if not self._taken:
            taken = self._inbox.take(now) if self._taking else None
            if taken is None or taken.track is not None or _weight(taken) <= self._part:
                return taken
            self._taken.append(taken)
        while len(self._taken[0]) > 1 and _weight(self._taken[0]) > self._part:
            self._taken.extendleft(reversed(self._halves(self._taken.popleft())))
        return self._taken.popleft()

    def _halves(self, batch: Batch[Any]) -> list[Batch[Any]]:
        """Cut a foreign batch in two."""
        middle = len(batch) // 2
        return [
            Batch(
                partial(iter, bodies),
                len(bodies),
                sum(map(len, bodies)),
                batch.peer,
                first_seq=batch.first_seq + begin,
                decode=self.decode,
            )
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
        self._writing, self._group = self._group, _Group()
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
            self._inbox.accept(group.batches)
            for batch, position in zip(group.batches, outcome, strict=True):
                batch.position = position
            for reader in tuple(self._readers):
                reader.offer(group.batches)

    def _set_back(self, group: _Group) -> None:
        """Try with half of a group that found no room; with one batch, wait for room."""
        batches = [*group.batches, *self._group.batches]
        self._taken.extendleft(reversed(batches))
        self._forgotten |= group.forgotten
        self._group = _Group()
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
        self._wait(monotonic() + FULL_PAUSE, inbox=False)


class _Group:
    """Batches that are written together."""

    def __init__(self) -> None:
        self.batches: list[Batch[Any]] = []
        self.entries: list[Entry] = []
        self.keys: set[ProducerKey] = set()  # of the producers
        self.forgotten: set[ProducerKey] = set()  # of the producers that are known no longer
        self.begun = 0.0  # when the first was taken
        self.size = 0  # bytes of the batches
        self.room = 0  # bytes that they take in the journal, at most

    def add(self, batch: Batch[Any], now: float) -> None:
        """Add a batch, as it will be written."""
        if not self.batches:
            self.begun = now
        entry = _entry_of(batch)
        self.batches.append(batch)
        self.entries.append(entry)
        if batch.track is not None:
            self.keys.add(batch.track.key)
        self.size += _weight(batch)
        self.room += memoryview(entry.payload).nbytes + MAX_HEAD


class Reader:
    """Hands a journal's batches out, in order, and keeps a cursor behind them.

    ``after`` is where a handler that keeps its own position wants to go on.
    """

    def __init__(self, source: JournaledInbox, name: str, after: int | None) -> None:
        self._source = source
        self._journal = source.journal
        self._name = name
        cursor = self._journal.cursor(name)
        position = cursor if after is None else after
        if after is not None and not self._journal.trimmed <= after <= self._journal.last:
            error = (
                f"after={position}: {self._journal.path} holds what comes after "
                f"{self._journal.trimmed} to {self._journal.last}"
            )
            raise ConfigurationError(error)
        if position > cursor:
            self._journal.move(name, position)
        self._lock = primitives.Lock()
        self._log: LogReader | None = None  # once it has fallen behind
        self._ahead: deque[Batch[Any]] = deque()  # to be handed out next
        self._ahead_bytes = 0
        self._ahead_to = position  # the last position in there
        self._handed: Batch[Any] | None = None
        self._left = False
        self.wakeup = Wakeup()
        self.batches = self.messages = self.nbytes = 0  # handed out

    @property
    def finished(self) -> bool:
        """Whether there is no more to come."""
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
        self.acknowledge()
        batch = self._next()
        if batch is None:  # one that only tells of lost messages is false
            batch = self._next_after_clearing()
        if batch is None:
            if self._source.failure is not None and self.finished:
                raise self._source.failure.with_traceback(None)
            return None
        self._handed = batch
        self.batches += 1
        self.messages += len(batch)
        self.nbytes += batch.nbytes
        return batch

    def _next_after_clearing(self) -> Batch[Any] | None:
        self.wakeup.clear()
        batch = self._next()
        if batch is not None or self._source.ended:
            self.wakeup.set()
        return batch

    def _next(self) -> Batch[Any] | None:
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
            self._ahead_bytes -= _weight(batch)
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
        """Have whoever waits look again; in any thread, though the reader may have left."""
        with self._lock:
            if not self._left:
                self.wakeup.set()

    def _keep(self, batch: Batch[Any]) -> None:
        self._ahead.append(batch)
        self._ahead_bytes += _weight(batch)
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
        """Stop following; the cursor stays where it is, behind the last batch if it is handled."""
        if self._source.closed:
            return
        if handled:
            self.acknowledge()
        self._source.part_with(self)
        with self._lock:
            self._left = True
            self.release()

    def release(self) -> None:
        """Close what it has open."""
        self.wakeup.close()
        if self._log is not None:
            self._log.close()


def _weight(batch: Batch[Any]) -> int:
    """Return the bytes that a batch takes: its messages, and where each of them ends."""
    return batch.nbytes + 4 * len(batch)


def _entry_of(batch: Batch[Any]) -> Entry:
    """Return what is written of a batch; its checksum is made while another group syncs."""
    payload = batch.payload
    if payload is None:
        payload = memoryview(pack_batch(batch.raw, 0))[HEADER.size :] if len(batch) else b""
    return Entry(
        payload,
        len(batch),
        batch.nbytes,
        batch.first_seq,
        batch.lost,
        batch.peer,
        batch.producer,
        batch.track.epoch if batch.track is not None else 0,
        time_ns(),
        crc32(payload),
    )
