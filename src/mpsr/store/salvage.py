"""Find what is whole in a log, however damaged it is: to verify it, or to copy it."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from mpsr.errors import JournalDamaged
from mpsr.store import faults
from mpsr.store.records import Entry, Header, Kind, Record, unpack_entry
from mpsr.store.recovery import find_log, find_segments, open_segment, recover
from mpsr.store.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.store.records import Place
    from mpsr.store.segments import Found, Segment


class Salvage:
    """What can still be read of a log. Its files are read, never written, and not locked.

    A record counts if it is whole and stands where it was written: the content of somebody's
    message is never taken for one, nor one that was copied from elsewhere.

    Attributes:
        path: the directory, in full.
        nbytes: the size of its segments.
        header: that of the first segment of a copy; its position is the first that is kept.
        state: what it knew of its cursors and producers, and how far it went.
        doubt: why this state may not be all there was; None if it is.

    Raises:
        JournalError: it cannot be read at all; its subclasses say why.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: str = os.path.realpath(os.fsdecode(path))
        self.doubt: JournalDamaged | None = None
        self._files = ExitStack()
        try:
            with faults.translating("read", self.path):
                while not self._survey(*find_log(self.path)):
                    self._files.close()
        except BaseException:
            self.close()
            raise

    def records(self, *, torn: bool = True) -> Iterator[Record]:
        """Yield the intact records, in order; an entry that is ``gone`` for missing positions.

        Positions that the owner has trimmed since the survey are not missing: they are skipped.
        Raises NoJournal if some cannot be read and another log is at the path by then.

        ``torn`` says that of a write that was torn, at the end, what is whole counts, too: it may
        have been whole once.
        """
        done = self.header.first - 1
        with faults.translating("read", self.path):
            for found in self._found(torn=torn):
                place = found.head.place
                if found.payload is None or found.head.kind != Kind.BATCH:
                    continue
                entry = unpack_entry(found.head, found.payload)
                last = place.position + entry.span - 1
                if last <= done:
                    continue
                if place.position > done + 1:
                    yield from self._missing(done, place.position - 1)
                    done = place.position - 1
                yield Record(last, entry.after(done + 1 - place.position))
                done = last
            if self.state.last > done:
                yield from self._missing(done, self.state.last)

    def close(self) -> None:
        """Part with the files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _survey(self, named: list[int], log_id: bytes) -> bool:
        """See what the segments hold; False if its owner changed meanwhile which there are."""
        self._oldest, self._id = named[0], log_id
        try:
            segments = [
                self._files.enter_context(open_segment(self.path, first)) for first in named
            ]
        except FileNotFoundError:
            if find_segments(self.path) == named:
                raise
            return False
        self.nbytes: int = sum(segment.size for segment in segments)
        self._newest = segments[-1]
        begins = [(next(segment.walk(), None), segment) for segment in segments]
        holding = [(found.head.place, segment) for found, segment in begins if found]
        # By what they hold: their names may have been swapped.
        self._segments = [each for _, each in sorted(holding, key=_position_of)]
        logs = Counter((place.id, place.use) for place, _ in holding)
        self._log = logs.most_common(1)[0][0] if logs else (b"", 0)
        try:
            self.state: State = recover(self.path, self._newest).state
        except JournalDamaged as exc:
            if find_segments(self.path)[-1:] != named[-1:]:
                return False
            self.doubt = exc
            self.state = self._gathered()
        self.header: Header = self._first()
        return True

    def _gathered(self) -> State:
        """Return what can be said where the newest segment does not say it."""
        state, known = State(), False
        for found in self._found(torn=False):
            if found.head.kind == Kind.SNAPSHOT and found.payload is not None:
                known = True
            state.follow(found)
        if not known:
            state.cursors.clear()
        return state

    def _first(self) -> Header:
        """Return the header that a copy begins with: no cursor may point before it."""
        firsts = [segment.first for segment in self._segments]
        firsts += [position + 1 for position in self.state.cursors.values()]
        return Header(*self._log, min(firsts, default=1))

    def _found(self, *, torn: bool) -> Iterator[Found]:
        for segment in self._segments:
            for found in segment.walk(newest=segment is self._newest and not torn):
                if found.head.place[:2] == self._log:
                    yield found

    def _missing(self, after: int, until: int) -> Iterator[Record]:
        """Yield an entry for the positions up to ``until`` that were not trimmed meanwhile.

        The owner renames a segment before it overwrites the file. If the oldest segment of the
        survey is still there, all that was read came from files in their places.
        """
        segments, log_id = find_log(self.path)
        if log_id != self._id:
            raise faults.replaced(self.path)
        if segments[0] > self._oldest:
            after = max(after, segments[0] - 1)
        if after < until:
            yield Record(until, Entry(b"", until - after, 0))


def _position_of(holding: tuple[Place, Segment]) -> int:
    return holding[0].position
