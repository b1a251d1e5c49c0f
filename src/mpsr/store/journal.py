"""Append batches to a log, keep its cursors, and trim what they have passed.

Messages are numbered 1, 2, 3 … in the order in which they were appended; a batch takes a run of
these positions, one that only tells of lost messages takes one. A cursor is the position up to
which somebody is done.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from mpsr import lockfile, primitives
from mpsr.errors import (
    Closed,
    ConfigurationError,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalFull,
    JournalInUse,
    MessageTooLarge,
)
from mpsr.forking import watch_forks
from mpsr.limits import (
    CURSOR_ROOM,
    JOURNAL_LIMIT,
    KIB,
    MIB,
    MIN_JOURNAL_LIMIT,
    MIN_SEGMENT,
    SEGMENT_PARTS,
    SEGMENT_RECORDS,
    SEGMENT_SIZE,
)
from mpsr.store import faults, files
from mpsr.store.reader import Reader
from mpsr.store.records import (
    MAX_HEAD,
    Changes,
    Header,
    Kind,
    Use,
    pack_changes,
    pack_entry,
    pack_record,
)
from mpsr.store.recovery import LOCK, SPARE, find_segments, open_segment, recover, unfinished
from mpsr.store.segments import name_of
from mpsr.store.state import State
from mpsr.store.tail import Tail, in_blocks, least_size
from mpsr.wire.frames import PRODUCER_ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Buffer

    from mpsr.store.records import Entry, ProducerKey, ProducerState

_AHEAD: Final = 4  # times what is used that is set aside: each time costs a sync
_FIXED: Final = 32 * KIB  # bytes: the directory itself, its lock, and a file system's own
_USES: Final = {
    Use.JOURNAL: "is the journal of a receiver",
    Use.SPOOL: "is the spool of a producer",
}


class Journal:
    """A journal, or a spool: a directory of segments that one process owns.

    Every method may be called from any thread, and waits for the one that is at work. What
    ``append`` and ``commit`` wrote is on the disk when they return. After a failure that leaves
    in doubt what the disk holds, the files are closed and the lock is released: everything else
    raises JournalError, and the journal can be opened anew.

    Args:
        path: the directory; its file ``lock`` says who owns it.
        limit: bytes that the directory may take on the disk. One that takes more already does
            not grow.
        create: make the directory if it is missing, and set a damaged journal aside and make a
            new one. If false, both raise.
        use: whether it is a receiver's journal or a producer's spool; None for either.
        begin: the header of the first segment, if one is made: to copy another journal.

    Attributes:
        path: the directory, in full.
        id: 16 random bytes, made with the journal.
        set_aside: where a damaged journal was moved when this one was begun, else None.

    Raises:
        JournalError: it cannot be opened; its subclasses say why. JournalDamaged only if not
            ``create``.

    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit: int = JOURNAL_LIMIT,
        create: bool = True,
        use: Use | None = Use.JOURNAL,
        begin: Header | None = None,
    ) -> None:
        if limit < MIN_JOURNAL_LIMIT:
            raise ConfigurationError(f"limit={limit}: it must be {MIN_JOURNAL_LIMIT} at least")
        self.path = os.path.realpath(os.fsdecode(path))
        self.limit = limit
        self.set_aside: str | None = None
        self._use = use
        self._mutex = primitives.Lock()
        self._failure: JournalError | None = None
        self._closed = False
        self._tail: Tail
        self._segment_size = MIN_SEGMENT
        self._kept = 0  # bytes up to which it is kept what all cursors have passed
        self._older: dict[int, int] = {}  # bytes of the other segments, by their first positions
        self._spare = 0  # bytes of a file that was a segment, and will be one again
        self._state = State()  # as it is on the disk
        self._cursors: dict[str, int] = {}  # as they stand
        header = begin or Header(os.urandom(PRODUCER_ID_SIZE), use or Use.JOURNAL, 1)
        with faults.translating("open", self.path):
            self._lock = self._take_lock(create=create)
            try:
                self._open(header, create=create)
            except BaseException:
                lockfile.give_back(self._lock)
                raise
        self._cursors = dict(self._state.cursors)
        watch_forks(self)

    # -- batches ------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The position of the last message that is on the disk; 0 before the first."""
        return self._state.last

    @property
    def trimmed(self) -> int:
        """The position up to which everything is gone."""
        return next(iter(self._older.copy()), self._tail.first) - 1

    @property
    def used(self) -> int:
        """Bytes that the segments take on the disk, with what is set aside for them."""
        return self._spare + sum(self._older.values()) + self._tail.size

    @property
    def most(self) -> int:
        """Bytes that one ``append`` can take, if each entry takes MAX_HEAD beside its payload."""
        return self.limit // 2 - 4 * CURSOR_ROOM

    def append(
        self,
        entries: Sequence[Entry],
        *,
        producers: Iterable[ProducerState] = (),
        forget: Iterable[ProducerKey] = (),
    ) -> list[int]:
        """Append batches, and with them the moved cursors; return each entry's last position.

        All of it is on the disk when this returns; if it raises, nothing of it is.

        Args:
            entries: the batches, in order. Each says where its producer stands behind it.
            producers: where others stand.
            forget: who is to be known no longer.

        Raises:
            JournalFull: there is no room for them now; keep them, and try again.
            MessageTooLarge: they would not fit an empty journal.
            JournalError: they could not be written; the journal takes no more.

        """
        size = sum(MAX_HEAD + memoryview(entry.payload).nbytes for entry in entries)
        if size > self.most:
            error = f"{size} bytes at once do not fit {self.path}: raise its limit"
            raise MessageTooLarge(error)
        with self._working("append to"):
            changes = self._changes(producers, forget)
            payload = pack_changes(changes)
            self._make_room(size + MAX_HEAD + len(payload))
            buffers: list[Buffer] = []
            positions: list[int] = []
            offset, position = self._tail.end, self.last + 1
            for entry in entries:
                head = pack_entry(entry, self._tail.place(offset, position))
                buffers += (head, entry.payload)
                offset += len(head) + memoryview(entry.payload).nbytes
                position += entry.span
                positions.append(position - 1)
            if any(changes):
                place = self._tail.place(offset, position)
                buffers.append(pack_record(Kind.CHANGES, place, payload))
            self._check_place()
            self._tail.append(buffers)
            for entry, last in zip(entries, positions, strict=True):
                self._state.add(entry, last)
            self._tail.records += len(entries)
            self._settle(changes, settled=not entries)
            return positions

    def reader(self) -> Reader:
        """Return a reader of what is on the disk, for one thread; close it at the end."""
        return Reader(self.path, until=lambda: self.last)

    # -- cursors and producers ------------------------------------------------------------------

    def cursor(self, name: str) -> int:
        """Return the position of a cursor; one that is new begins before all that is kept."""
        if name not in self._cursors:
            with self._mutex:  # nothing is trimmed meanwhile
                self._cursors.setdefault(name, self.trimmed)
        return self._cursors[name]

    def cursors(self) -> dict[str, int]:
        """Return all cursors and their positions."""
        return dict(self._cursors)

    def move(self, name: str, position: int) -> None:
        """Say that everything up to ``position`` is done; the next commit keeps it.

        Raises ValueError for a position that is behind the cursor or not committed.
        """
        if not self.cursor(name) <= position <= self.last:
            limits = f"{self._cursors[name]} to {self.last}"
            raise ValueError(f"cursor {name!r} can move within {limits}, not to {position}")
        self._cursors[name] = position

    def drop(self, name: str) -> None:
        """Remove a cursor, so that it keeps nothing from being trimmed; the next commit does."""
        self._cursors.pop(name, None)

    def producers(self) -> list[ProducerState]:
        """Return where all producers stand."""
        return list(self._state.producers.values())

    # -- settling -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Put the moved cursors on the disk."""
        if self._cursors != self._state.cursors:
            with self._working("write the cursors of"):
                self._commit()

    def trim(self) -> bool:
        """Remove the segments that all cursors have passed; tell whether there was one."""
        with self._working("trim"):
            self._drop_spare()
            trimmed = self._trim()
            self._drop_spare()
            return trimmed

    def close(self) -> None:
        """Put the moved cursors on the disk and part with the files."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._failure is not None:
                return
            try:
                if self._use == Use.SPOOL:
                    with suppress(JournalFull), faults.translating("trim", self.path):
                        self._drop_spare()
                        self._trim()  # nobody reads again what was accepted
                with faults.translating("close", self.path):
                    # Behind another write, the last batch is not taken for a torn one if it is
                    # damaged.
                    if self._cursors != self._state.cursors or not self._tail.settled:
                        self._check_place()
                        self._commit()
                    self._tail.cut()
                    self._drop_spare()
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork_in_child(self) -> None:
        """Part with what belongs to the parent."""
        if self._closed:
            return
        self._closed = True
        self._mutex = primitives.Lock()
        if self._failure is None:
            self._tail.close()
            primitives.close(self._lock)

    # -- writing --------------------------------------------------------------------------------

    @property
    def _empty(self) -> bool:
        """Whether the newest segment holds no message."""
        return self.last < self._tail.first

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        with self._mutex:
            if self._closed:
                raise Closed(f"the journal {self.path} was closed, or is a parent process's")
            if self._failure is not None:
                error = f"cannot {doing} {self.path}: it failed before ({self._failure})"
                raise JournalError(error, path=self.path) from self._failure
            try:
                with faults.translating(doing, self.path):
                    yield
            except JournalFull:
                raise
            except JournalError as exc:
                self._failure = exc
                self._release()
                raise

    @contextmanager
    def _final(self, doing: str) -> Iterator[None]:
        """Raise no JournalFull, which would have the caller try again."""
        try:
            yield
        except OSError as exc:
            error = f"cannot {doing} {self.path}: {exc.strerror or exc}"
            raise JournalError(error, path=self.path) from exc

    def _release(self) -> None:
        self._tail.close()
        lockfile.give_back(self._lock)

    def _changes(
        self, producers: Iterable[ProducerState] = (), forget: Iterable[ProducerKey] = ()
    ) -> Changes:
        """Return what the next record of changes is to say."""
        now, saved = dict(self._cursors), self._state.cursors
        moved = {name: position for name, position in now.items() if saved.get(name) != position}
        gone = dict.fromkeys(saved.keys() - now.keys())
        return Changes(moved | gone, [*producers], [*forget])

    def _settle(self, changes: Changes, *, settled: bool) -> None:
        """Take note of changes that are on the disk."""
        self._state.change(changes)
        self._tail.settled = settled
        self._shrink(self._kept)

    def _commit(self) -> None:
        """Write a record of changes. Room for it is kept free, as long as that lasts."""
        changes = self._changes()
        payload = pack_changes(changes)
        if self._tail.end + len(payload) + 3 * MAX_HEAD > self._tail.size:
            self._rotate()
        self._check_place()
        self._tail.append([self._tail.record(Kind.CHANGES, self.last + 1, payload)])
        self._settle(changes, settled=True)

    def _check_place(self) -> None:
        """Refuse to write where nobody would find it."""
        if not self._tail.in_place:
            error = f"cannot write {self.path}: it, or its newest segment, was removed or replaced"
            raise JournalError(error, path=self.path)

    # -- room -----------------------------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        """Have room for a write of this size, and for cursors behind it, or raise JournalFull."""
        room = size + CURSOR_ROOM
        full = self._tail.end + room > max(self._segment_size, self._tail.size)
        if (full or self._tail.records >= SEGMENT_RECORDS) and not self._empty:
            self._rotate(room)
        while self._tail.end + room > self._tail.size:
            try:
                self._extend(self._tail.end + room)
            except JournalFull:
                if not (self._drop_spare() or self._trim()):
                    raise

    def _extend(self, least: int) -> None:
        """Set room aside in the newest segment; JournalFull if there is not even the least."""
        ahead = min(self._segment_size, _AHEAD * max(MIB, self.used))
        wanted = max(least, ahead)
        if not self._fits(wanted - self._tail.size):
            wanted = least
        if not self._fits(least - self._tail.size):
            error = (
                f"cannot append to {self.path}: its {self.limit} bytes are full; it goes on once "
                "its readers have moved on, or with a larger limit"
            )
            raise JournalFull(error, path=self.path)
        with faults.translating("append to", self.path):
            try:
                self._tail.extend(wanted)
            except OSError:
                self._tail.extend(least)

    def _fits(self, growth: int) -> bool:
        """Tell whether it may grow by so much; remove for it what is kept without need.

        There is always room left to begin a segment.
        """
        needed = growth + least_size(pack_changes(self._state.all())) + _FIXED
        self._shrink(self._kept - needed)
        return self.used + needed <= self.limit

    def _shrink(self, size: int) -> None:
        """Remove what all cursors have passed, until no more than this is used."""
        while self.used > size and self._remove_oldest():
            pass

    def _measure(self) -> None:
        """Choose how large a segment is, and how much is kept though all cursors have passed it.

        What a spool holds nobody reads again. A journal is read as a log, as far as its limit
        and the disk allow.
        """
        disk = os.statvfs(self.path)
        room = disk.f_bavail * disk.f_frsize + self.used
        size = min(SEGMENT_SIZE, self.limit // SEGMENT_PARTS, room // SEGMENT_PARTS)
        self._segment_size = max(MIN_SEGMENT, size)
        self._kept = 0 if self._use == Use.SPOOL else min(self.limit, room // 2)

    def _rotate(self, room: int = 0) -> None:
        """Begin another segment, with room in it if there is any."""
        old, empty, snapshot = self._tail, self._empty, pack_changes(self._state.all())
        header = self._tail.header._replace(first=self.last + 1)
        self._measure()
        least = least_size(snapshot)
        wanted = max(least + room, min(self._segment_size, self.used))
        if not self._spare and self.used + wanted > self._kept:
            self._remove_oldest()  # its file may become the next
        if not self._fits(wanted - self._spare):
            self._drop_spare()
            wanted = least
        try:
            new = Tail.create(self.path, header, snapshot, wanted, spare=self._spare > 0)
        except OSError:
            new = Tail.create(self.path, header, snapshot, least)
        finally:
            self._spare = 0
        if not empty:  # else the new one has its name
            self._older[old.first] = in_blocks(old.size)
        self._tail = new
        try:
            if not empty:
                with self._final("end a segment of"):  # nothing may be appended to it any more
                    old.seal(self.last + 1)
                self._older[old.first] = in_blocks(old.size)
        finally:
            old.close()

    def _trim(self) -> bool:
        floor = min(dict(self._cursors).values(), default=0)
        firsts = [*self._older, self._tail.first]
        end = self.last if len(firsts) == 1 else firsts[1] - 1
        if floor < end or (len(firsts) == 1 and self._empty):
            return False
        if self._cursors != self._state.cursors:
            self._commit()
        if len(firsts) == 1:
            self._rotate()
        self._shrink(0)
        return True

    def _remove_oldest(self) -> bool:
        """Remove the oldest segment, if all cursors have passed it; tell whether they have.

        One file is kept for the next segment.
        """
        floors = [*dict(self._cursors).values(), *self._state.cursors.values()]
        first, behind, *_ = *self._older, self._tail.first, 0
        if not self._older or behind - 1 > min(floors, default=0):
            return False
        size = self._older.pop(first)
        path = os.path.join(self.path, name_of(first))
        with self._final("trim"):  # what was written before is not to be written again
            if self._spare or size < self._segment_size // 2:
                files.remove(path)
            else:
                files.rename(path, self._spare_path)
                self._spare = size
            files.sync_directory(self.path)  # none is missing before one that came back
        return True

    def _drop_spare(self) -> bool:
        """Remove the file that was kept; tell whether there was one."""
        if not self._spare:
            return False
        files.remove(self._spare_path)
        self._spare = 0
        return True

    @property
    def _spare_path(self) -> str:
        return os.path.join(self.path, SPARE)

    # -- opening --------------------------------------------------------------------------------

    def _take_lock(self, *, create: bool) -> int:
        """Lock the directory, which is made if it is missing."""
        try:
            find_segments(self.path)
        except FileNotFoundError:
            if not create:
                raise
            files.make_directory(self.path)
        owner = os.stat(self.path).st_uid
        if owner != os.geteuid():
            error = (
                f"cannot open {self.path}: it belongs to user {owner}, and this process runs as "
                f"user {os.geteuid()}; run it as that user, or choose another path"
            )
            raise JournalDenied(error, path=self.path)
        try:
            return lockfile.take(os.path.join(self.path, LOCK), uid=owner)
        except lockfile.Held as exc:
            error = f"cannot open {self.path}: {exc} has it open; stop that, or choose another path"
            raise JournalInUse(error, path=self.path, pid=exc.pid) from None
        except lockfile.NotALock as exc:
            raise faults.foreign(self.path, f"has a file of another kind: {exc}") from None

    def _open(self, header: Header, *, create: bool) -> None:
        segments = find_segments(self.path)
        for name in unfinished(self.path):
            files.remove(os.path.join(self.path, name))
        if not segments:
            if not create:
                raise faults.foreign(self.path, "is an empty directory")
            return self._create(header)
        try:
            with open_segment(self.path, segments[-1]) as newest:
                recovery = recover(self.path, newest)
        except JournalDamaged as exc:
            if not create:
                raise
            self._move_aside(exc)
            return self._create(header)
        found = Use(recovery.header.use)
        if self._use not in {None, found}:
            raise faults.foreign(self.path, _USES[found])
        self._use, self.id, self._state = found, recovery.header.id, recovery.state
        for first in segments[:-1]:
            size = os.stat(os.path.join(self.path, name_of(first))).st_size
            self._older[first] = in_blocks(size)
        self._tail = Tail.resume(self.path, recovery)
        if recovery.torn:
            _warn(f"{self.path}: a write behind position {self.last} was not finished, and is cut")
        self._measure()
        return None

    def _create(self, header: Header) -> None:
        self._use, self.id, self._state = Use(header.use), header.id, State(header.first - 1)
        snapshot = pack_changes(self._state.all())
        self._tail = Tail.create(self.path, header, snapshot, least_size(snapshot))
        self._measure()

    def _move_aside(self, damage: JournalDamaged) -> None:
        """Rename the directory, lock and all; begin with an empty one."""
        stamp = time.strftime("%Y%m%dT%H%M%S")
        aside, number = f"{self.path}.damaged-{stamp}", 0
        while os.path.lexists(aside):
            number += 1
            aside = f"{self.path}.damaged-{stamp}-{number}"
        files.rename(self.path, aside)
        moved, self._lock = self._lock, self._take_lock(create=True)
        lockfile.give_back(moved)
        self.set_aside = aside
        _warn(f"{damage}; it was moved to {aside}")


def _warn(what: str) -> None:
    import logging  # noqa: PLC0415 - not light, and hardly ever needed

    logging.getLogger("mpsr").warning("%s", what)
