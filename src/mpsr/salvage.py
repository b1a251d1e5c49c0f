"""Find what is whole in the files of a journal, however damaged they are."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Self

from mpsr import lockfile, primitives
from mpsr.errors import JournalError, JournalInUse, NoJournal
from mpsr.pages import Log, Pages
from mpsr.rows import (
    POSITION,
    ROOT,
    ROOT_VALUE,
    Entry,
    Record,
    entry_of_row,
    is_state,
    unpack_track,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.rows import TrackState

_BATCHES: Final = 2  # the pages at which the tables begin, as they were made
_STATE: Final = 3


class Salvage:
    """What can still be read of a journal. Its files are read, never written.

    Only rows whose checksum is right count, and only those that the tables lead to: what was
    trimmed, or is no more than the content of somebody's message, stays where it is.

    Attributes:
        path: the damaged file, in full.
        nbytes: the size of its files.
        trimmed: the position up to which everything was removed; None if nobody knows.
        last: the position of the last message that was committed; None if nobody knows.
        cursors: the positions of the cursors that were found.
        tracks: where the producers stand that were found.
        values: other values that were found.
        complete: whether these three are all that there were.

    Raises:
        JournalInUse: another process has it open.
        NoJournal: it is missing.
        JournalError: it cannot be read at all.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(os.fsdecode(path))
        self.trimmed: int | None = None
        self.last: int | None = None
        self.cursors: dict[str, int] = {}
        self.tracks: list[TrackState] = []
        self.values: dict[str, bytes] = {}
        self._files = ExitStack()
        try:
            self._lock()
            file = self._opened("")
            if file is None:
                raise NoJournal(f"cannot read {self.path}: there is no such file", path=self.path)
            log = self._opened("-wal")
            self._views = [Pages(file)]
            if log is not None:
                frames = Log(f"{self.path}-wal")
                ends = frames.committed(), frames.committed(frames.whole())
                # What the log holds by its marks; what SQLite would read of it; nothing of it.
                logged = [ends[0]] if ends[0] == ends[1] else [*ends]
                self._views[:0] = [Pages(file, log, places) for places in logged if places]
            self.nbytes = sum(os.fstat(each).st_size for each in (file, log) if each is not None)
            states = [_states(view) for view in self._views]
            found, self.complete = next((each for each in states if each[1]), states[0])
        except OSError as exc:
            self.close()
            error = f"cannot read {self.path}: {exc.strerror or exc}"
            raise JournalError(error, path=self.path) from exc
        except BaseException:
            self.close()
            raise
        self._sort(found)

    def records(self) -> Iterator[Record]:
        """Give what follows ``trimmed``, in order; an entry that is ``gone`` for what is missing.

        Where ``trimmed`` is not known, it begins at the first that can be read.
        """
        done = self.trimmed
        streams = [_rows(view) for view in self._views]
        for first, entry in merge(*streams, key=itemgetter(0)):
            if done is None:
                done = self.trimmed = first - 1
            if first <= done:  # trimmed, or another view's of the same
                continue
            if first > done + 1:
                yield _missing(done, first - 1)
            done = first + entry.span - 1
            yield Record(done, entry)
        if self.last is not None and self.last > (done or 0):
            yield _missing(done or 0, self.last)

    def close(self) -> None:
        """Part with the files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        """Keep others from opening it; one without a lock file is nobody's."""
        lock = f"{self.path}.lock"
        if os.path.lexists(lock):
            try:
                self._files.callback(lockfile.give_back, lockfile.take(lock))
            except lockfile.Held as exc:
                error = f"cannot read {self.path}: {exc} has it open; stop that"
                raise JournalInUse(error, path=self.path, pid=exc.pid) from None
            except lockfile.NotALock as exc:
                raise JournalError(f"cannot read {self.path}: {exc}", path=self.path) from None

    def _opened(self, suffix: str) -> int | None:
        with suppress(FileNotFoundError):
            file = os.open(self.path + suffix, os.O_RDONLY | os.O_CLOEXEC)
            self._files.callback(primitives.close, file)
            return file
        return None

    def _sort(self, states: dict[bytes, bytes]) -> None:
        for name, value in states.items():
            if name == ROOT:
                self.trimmed, self.last, *_ = ROOT_VALUE.unpack(value)
            elif name.startswith(b"c"):
                self.cursors[name[1:].decode()] = POSITION.unpack(value)[0]
            elif name.startswith(b"t"):
                self.tracks.append(unpack_track(name, value))
            else:
                self.values[name[1:].decode()] = value


def _states(view: Pages) -> tuple[dict[bytes, bytes], bool]:
    """Return the states that are whole, and whether that is all of them."""
    found: dict[bytes, bytes] = {}
    total = 0
    for columns in view.index(_STATE):
        if len(columns) == len(("name", "value", "checksum")) and is_state(*columns):
            name, value, checksum = _typed(columns)
            total ^= 0 if name == ROOT or name in found else checksum
            found[name] = value
    expected = ROOT_VALUE.unpack(found[ROOT])[2:] if ROOT in found else None
    return found, expected == (total, len(found) - 1)


def _rows(view: Pages) -> Iterator[tuple[int, Entry]]:
    """Give the batches that are whole, by their first positions."""
    leaves = []
    for leaf in view.leaves(_BATCHES):
        first = next(_whole(view, leaf), None)
        if first is not None:
            leaves.append((first[0], leaf))
    leaves.sort()  # where damage led astray
    rows = (row for _, leaf in leaves for row in _whole(view, leaf))
    for _, same in groupby(rows, key=itemgetter(0)):
        yield next(same)


def _whole(view: Pages, leaf: int) -> Iterator[tuple[int, Entry]]:
    for position, columns in view.rows(leaf):
        if len(columns) == len(("position", "head", "checksum", "payload")):
            entry = entry_of_row((position, *columns[1:]))
            if entry is not None:
                yield position, entry


def _missing(after: int, until: int) -> Record:
    return Record(until, Entry(b"", until - after, 0))


def _typed(columns: list[Any]) -> tuple[bytes, bytes, int]:
    name, value, checksum = columns
    return name, value, checksum
