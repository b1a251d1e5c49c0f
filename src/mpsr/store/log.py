"""Keep a log's segments within a limit: write the newest, trim the others.

Nothing here is safe in two threads at once; errors of the disk pass as OSError.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mpsr import amounts
from mpsr.errors import Explanation, JournalError, JournalFull
from mpsr.limits import (
    CURSOR_ROOM,
    KIB,
    MIB,
    MIN_SEGMENT,
    SEGMENT_PARTS,
    SEGMENT_RECORDS,
    SEGMENT_SIZE,
)
from mpsr.store import faults, files
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
from mpsr.store.recovery import SPARE
from mpsr.store.segments import name_of
from mpsr.store.state import State
from mpsr.store.tail import Tail, in_blocks, least_size
from mpsr.system.housekeeping import attempted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Buffer

    from mpsr.store.records import Entry, KnownProducer, ProducerKey
    from mpsr.store.recovery import Recovery

_AHEAD: Final = 4  # times what is used that is set aside: each time costs a sync
_FIXED: Final = 32 * KIB  # bytes: the directory itself, its lock, and a file system's own


class Log:
    """The segments of a journal.

    Attributes:
        path: the directory.
        state: cursors and producers, as they are on the disk.
        cursors: as they stand.

    """

    def __init__(self, path: str, limit: int, tail: Tail, state: State) -> None:
        self.path = path
        self.state = state
        self.cursors: dict[str, int] = dict(state.cursors)
        self._limit = limit
        self._tail = tail
        self._segment_size = MIN_SEGMENT
        self._kept = 0  # bytes up to which it is kept what all cursors have passed
        self._older: dict[int, int] = {}  # bytes of the other segments, by their first positions
        self._spare = 0  # bytes of a file that was a segment, and will be one again

    @classmethod
    def create(cls, path: str, limit: int, header: Header) -> Log:
        """Begin a log in an empty directory."""
        state = State(header.first - 1)
        snapshot = pack_changes(state.all())
        log = cls(path, limit, Tail.create(path, header, snapshot, least_size(snapshot)), state)
        log._measure()
        return log

    @classmethod
    def resume(cls, path: str, limit: int, older: Iterable[int], recovery: Recovery) -> Log:
        """Go on with what was found; ``older`` are the first positions of the other segments."""
        log = cls(path, limit, Tail.resume(path, recovery), recovery.state)
        for first in older:
            log._older[first] = in_blocks(os.stat(os.path.join(path, name_of(first))).st_size)
        log._measure()
        return log

    @property
    def header(self) -> Header:
        """The header of the newest segment: what the log is, and for whom."""
        return self._tail.header

    @property
    def last(self) -> int:
        """The position of the last message that is on the disk; 0 before the first."""
        return self.state.last

    @property
    def trimmed(self) -> int:
        """The position up to which everything is gone."""
        newest = self._tail.first  # read first: another thread may begin a segment meanwhile
        return next(iter(self._older.copy()), newest) - 1

    @property
    def used(self) -> int:
        """Bytes that the segments take on the disk, with what is set aside for them."""
        return self._spare + sum(self._older.values()) + self._tail.size

    # -- writing --------------------------------------------------------------------------------

    def append(
        self,
        entries: Sequence[Entry],
        size: int,
        producers: Iterable[KnownProducer],
        forget: Iterable[ProducerKey],
    ) -> list[int]:
        """Append batches of ``size`` bytes at most; see Journal.append."""
        self._check_place()
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
        self._tail.append(buffers)
        for entry, last in zip(entries, positions, strict=True):
            self.state.add(entry, last)
        self._tail.records += len(entries)
        self._settle(changes, settled=not entries)
        return positions

    def commit(self) -> None:
        """Put the moved cursors on the disk. Room for that is kept free, as long as it lasts."""
        self._check_place()
        changes = self._changes()
        payload = pack_changes(changes)
        if self._tail.end + len(payload) + 3 * MAX_HEAD > self._tail.size:
            self._rotate()
        self._tail.append([self._tail.record(Kind.CHANGES, self.last + 1, payload)])
        self._settle(changes, settled=True)

    def trim(self) -> bool:
        """Remove the segments that all cursors have passed; tell whether there was one."""
        self._drop_spare()
        trimmed = self._trim()
        self._drop_spare()
        return trimmed

    def finish(self) -> None:
        """Put the moved cursors on the disk, and give back what was set aside.

        Behind another write, the last batch is not taken for a torn one if it is damaged.
        """
        if self.cursors != self.state.cursors or not self._tail.settled:
            self.commit()
        self._tail.cut()
        self._drop_spare()

    def close(self) -> None:
        """Close the files."""
        self._tail.close()

    def _changes(
        self, producers: Iterable[KnownProducer] = (), forget: Iterable[ProducerKey] = ()
    ) -> Changes:
        """Return what the next record of changes is to say."""
        now, saved = dict(self.cursors), self.state.cursors
        moved = {name: position for name, position in now.items() if saved.get(name) != position}
        gone = dict.fromkeys(saved.keys() - now.keys())
        return Changes(moved | gone, [*producers], [*forget])

    def _settle(self, changes: Changes, *, settled: bool) -> None:
        """Record changes that are on the disk."""
        self.state.change(changes)
        self._tail.settled = settled
        self._shrink(self._kept)

    def _check_place(self) -> None:
        """Raise JournalError if another journal may be at the path.

        A write would be lost, and a trim would remove that journal's segments.
        """
        if not self._tail.in_place:
            why = "it, or its newest segment, was removed or replaced"
            error = Explanation(f"cannot write {self.path}", why)
            raise JournalError(error, path=self.path)

    @property
    def _empty(self) -> bool:
        """Whether the newest segment holds no message."""
        return self.last < self._tail.first

    @contextmanager
    def _final(self, doing: str) -> Iterator[None]:
        """Raise no JournalFull, which would have the caller try again."""
        try:
            yield
        except OSError as exc:
            why, advice = exc.strerror or str(exc), faults.ADVICE.get(exc.errno, "")
            error = Explanation(f"cannot {doing} {self.path}", why, advice)
            raise JournalError(error, path=self.path) from exc

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
            why = f"its {amounts.size(self._limit)} are full"
            advice = "it goes on once its readers have moved on, or with a larger limit"
            error = Explanation(f"cannot append to {self.path}", why, advice)
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
        needed = growth + least_size(pack_changes(self.state.all())) + _FIXED
        self._shrink(self._kept - needed)
        return self.used + needed <= self._limit

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
        size = min(SEGMENT_SIZE, self._limit // SEGMENT_PARTS, room // SEGMENT_PARTS)
        self._segment_size = max(MIN_SEGMENT, size)
        self._kept = 0 if self.header.use == Use.SPOOL else min(self._limit, room // 2)

    def _rotate(self, room: int = 0) -> None:
        """Begin another segment, with room in it if there is any."""
        old, empty, snapshot = self._tail, self._empty, pack_changes(self.state.all())
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
        floor = min(dict(self.cursors).values(), default=0)
        firsts = [*self._older, self._tail.first]
        end = self.last if len(firsts) == 1 else firsts[1] - 1
        if floor < end or (len(firsts) == 1 and self._empty):
            return False
        self._check_place()
        if self.cursors != self.state.cursors:
            self.commit()
        if len(firsts) == 1:
            self._rotate()
        trimmed = self.trimmed
        self._shrink(0)
        return self.trimmed > trimmed

    def _remove_oldest(self) -> bool:
        """Remove the oldest segment, if all cursors have passed it; tell whether they have.

        One file is kept for the next segment.
        """
        floors = [*dict(self.cursors).values(), *self.state.cursors.values()]
        first, behind, *_ = *self._older, self._tail.first, 0
        if not self._older or behind - 1 > min(floors, default=0):
            return False
        if not self._remove(os.path.join(self.path, name_of(first)), self._older[first]):
            return False
        del self._older[first]
        with self._final("trim"):  # messages that were written are not to be written again
            files.sync_directory(self.path)  # none is missing before one that came back
        return True

    def _remove(self, path: str, size: int) -> bool:
        """Remove a segment, or keep its file for the next; return False if the system refuses."""
        with attempted(f"remove {path}"):
            if self._spare or size < self._segment_size // 2:
                files.remove(path)
                return True
            try:
                files.rename(path, self._spare_path)
                self._spare = size
            except OSError:  # something else has that name
                files.remove(path)
            return True
        return False

    def _drop_spare(self) -> bool:
        """Remove the file that was kept; return whether there was one."""
        if not self._spare:
            return False
        with attempted(f"remove {self._spare_path}"):
            files.remove(self._spare_path)
            self._spare = 0
            return True
        return False

    @property
    def _spare_path(self) -> str:
        return os.path.join(self.path, SPARE)
