"""Read a log by position, without a lock, even while its owner writes and trims.

The owner may trim a segment at any time, and write another log's worth of records into its file.
A position is therefore unreadable only if the segments around it are the same before and after
the attempt to read it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from mpsr.errors import JournalDamaged, NoJournal
from mpsr.limits import MIB
from mpsr.store import faults
from mpsr.store.records import HEADER_SIZE, Kind, Record, unpack_entry
from mpsr.store.recovery import SPARE, Recovery, find_log, open_segment, recover
from mpsr.store.segments import list_segments, name_of
from mpsr.store.tail import in_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpsr.store.segments import Found, Segment

_STRIDE: Final = MIB  # bytes of a segment between two places that are remembered


class Reader:
    """Reader of one log. It takes no lock and changes nothing; only one thread may use it.

    It reads the log that was at the path when it was created. If another log has that path later,
    every method that reads raises NoJournal.

    Args:
        path: the directory of the log.
        until: returns the last position that is on the disk. With it, positions before the first
            segment count as missing, not as trimmed. Without it, records that are written and not
            synced yet may be read.

    Raises:
        JournalError: it cannot be read; its subclasses say why.

    """

    def __init__(
        self, path: str | os.PathLike[str], *, until: Callable[[], int] | None = None
    ) -> None:
        self.path: str = os.path.realpath(os.fsdecode(path))
        self._until = until
        self._segment: Segment | None = None
        self._id = b""  # of the log; empty while only a damaged header was read
        self._offset = self._next = 0  # where the last read ended, and the position there
        self._places: dict[int, list[tuple[int, int]]] = {}  # positions and offsets, by segment
        self._names: list[int] = []
        self._look()

    @property
    def trimmed(self) -> int:
        """The position up to which everything is gone, as it was when it was read last."""
        return self._names[0] - 1

    @property
    def used(self) -> int:
        """Bytes that the segments take on the disk, as the log's owner counts them."""
        used = 0
        with faults.translating("read", self.path):
            for name in (*map(name_of, list_segments(self.path)), SPARE):
                with suppress(FileNotFoundError):  # if it is trimmed, or there is none
                    used += in_blocks(os.stat(os.path.join(self.path, name)).st_size)
        return used

    def recover(self) -> Recovery:
        """Return what the log has come to; raise JournalDamaged where that is not sure."""
        self._look()
        while True:
            newest = self._names[-1]
            try:
                with (
                    faults.translating("read", self.path),
                    self._open(newest) as segment,
                ):
                    return recover(self.path, segment)
            except (JournalDamaged, NoJournal):
                self._look()
                if self._names[-1] == newest:
                    raise  # else the owner has ended it meanwhile, and begun another

    def read(self, after: int, *, max_bytes: int = MIB) -> list[Record]:
        """Return what follows a position, in order: some records, or none at the end.

        The first begins at the message after ``after``, which may be in the middle of a batch,
        or where what is trimmed ends. ``max_bytes`` bounds the payloads, but for the last.

        Raises:
            JournalDamaged: the next record cannot be read. Those before it were.

        """
        until = None if self._until is None else self._until()
        self._look()
        while True:
            start = max(after + 1, self._names[0])
            if until is not None:
                if start > until:
                    return []
                if start > after + 1:  # a cursor prevents the trimming of all positions after it
                    raise faults.unreadable(self.path, after + 1)
            around = self._around(start)
            records: list[Record] = []
            whole = False
            with faults.translating("read", self.path), suppress(FileNotFoundError):  # trimmed
                whole = self._collect(records, start, until, max_bytes)
            if records:
                return records
            self._look()
            if self._around(start) == around:
                if whole:
                    return []
                raise faults.unreadable(self.path, start)

    def _collect(
        self, records: list[Record], start: int, until: int | None, max_bytes: int
    ) -> bool:
        """Add records up to a size, or up to the end; tell whether nothing is missing."""
        expected, size = start, 0
        for found in self._batches(start):
            position = found.head.place.position
            entry = unpack_entry(found.head, found.payload or b"")
            ends = position + entry.span - 1
            if ends < expected:
                continue
            if until is not None and ends > until:
                break
            if position > expected or found.payload is None:
                return False
            records.append(Record(ends, entry.after(max(0, start - position))))
            self._offset, self._next = found.head.end, ends + 1
            expected = ends + 1
            size += found.head.length
            if size >= max_bytes or (until is not None and expected > until):
                return True
        return until is None or expected > until

    def close(self) -> None:
        """Part with the files."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------

    def _look(self) -> None:
        """List the segments; raise NoJournal if they belong to another log."""
        with faults.translating("read", self.path):
            self._names, found = find_log(self.path)
        self._id = self._id or found
        if found and found != self._id:
            raise faults.replaced(self.path)

    def _around(self, position: int) -> list[int]:
        """Return the segment that holds a position, and the next one if there is one."""
        at = bisect_right(self._names, position)
        return self._names[max(0, at - 1) : at + 1]

    def _batches(self, start: int) -> Iterator[Found]:
        """Give the batches from one on that does not begin behind a position."""
        segment, offset = self._seek(start)
        while True:
            at = bisect_right(self._names, segment.named)
            behind = self._names[at] if at < len(self._names) else None
            for found in segment.walk(offset, newest=behind is None):
                place = found.head.place
                self._id = self._id or place.id
                if place.id != self._id:
                    break  # a segment of another log
                if behind is not None and place.position >= behind:
                    break
                if found.head.kind == Kind.BATCH:
                    self._remember(segment, place.position, place.offset)
                    yield found
            if behind is None:
                return
            segment, offset = self._opened(behind), HEADER_SIZE

    def _seek(self, start: int) -> tuple[Segment, int]:
        segment = self._segment
        if segment is not None and self._next == start and not segment.replaced:
            return segment, self._offset
        named = self._names[bisect_right(self._names, start) - 1]
        if segment is None or segment.named != named or segment.replaced:
            segment = self._opened(named)
        places = self._places.get(named, [])
        at = bisect_right(places, start, key=lambda place: place[0])
        return segment, places[at - 1][1] if at else HEADER_SIZE

    def _opened(self, named: int) -> Segment:
        segment = self._open(named)
        self.close()
        self._segment = segment
        self._offset, self._next = HEADER_SIZE, named
        if named == self._names[-1]:
            self._places.pop(named, None)  # it may have replaced another
        return segment

    def _open(self, named: int) -> Segment:
        segment = open_segment(self.path, named)
        if segment.header is not None and segment.header.id != self._id:
            try:
                self._look()  # raises NoJournal unless only this segment belongs to another log
            except BaseException:
                segment.close()
                raise
        return segment

    def _remember(self, segment: Segment, position: int, offset: int) -> None:
        places = self._places.setdefault(segment.named, [])
        if not places or offset >= places[-1][1] + _STRIDE:
            places.append((position, offset))
