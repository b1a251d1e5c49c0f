"""Write what a damaged journal still holds into a new one."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from mpsr.cli.trimmed import first_of
from mpsr.errors import Explanation, JournalError, JournalInUse
from mpsr.limits import GROUP_SIZE, JOURNAL_LIMIT, MIB
from mpsr.store import faults, files
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.recovery import LOCK, find_segments
from mpsr.system import lockfile, outputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mpsr.store.records import Record
    from mpsr.store.salvage import Salvage

_GROUP_ROWS: Final = 1000


def to_save(found: Salvage) -> Iterator[Record]:
    """Give all that can be read, and no more than that of a journal in use as it was surveyed.

    What is behind its end otherwise is of a write that was torn, or damaged.
    """
    last = found.state.last
    checked = False
    for record in found.records():
        if record.position > last and not checked:
            if _end_of(found.path) > last:
                return
            checked = True
        yield record


def _end_of(path: str) -> int:
    with suppress(JournalError), Reader(path) as reader:
        return reader.recover().state.last
    return 0


def write(found: Salvage, records: Iterable[Record], path: str) -> None:
    """Write a journal of the records, at their positions, with the cursors and producers.

    There is nothing at the path until the journal is complete. If positions were trimmed
    meanwhile, the copy begins after them, as the journal itself does by then.
    """
    with _unfinished(path) as unfinished:
        with _Copy(unfinished, found) as copy:
            for group in _groups(records):
                copy.append(group)
            copy.finish()
        with faults.translating("make", path):
            files.rename(unfinished, path)
            files.sync_directory(os.path.dirname(os.path.abspath(path)))


class _Copy:
    """A copy that is being written. It is begun again after positions that were trimmed."""

    def __init__(self, path: str, found: Salvage) -> None:
        self._path = path
        self._found = found
        self._journal = self._begin(found.header.first)

    def append(self, records: Sequence[Record]) -> None:
        """Append records, the first of which may begin after a gap."""
        self._reach(first_of(records[0]))
        self._journal.append([record.entry for record in records])

    def finish(self) -> None:
        """Write the cursors and producers."""
        state = self._found.state
        self._reach(state.last + 1)
        journal = self._journal
        for name, position in state.cursors.items():
            within = max(position, journal.cursor(name))
            journal.move(name, min(within, journal.last))
        forget = {each.key for each in journal.producers()} - state.producers.keys()
        journal.append([], producers=state.producers.values(), forget=forget)

    def _reach(self, first: int) -> None:
        """Have the next position be ``first`` or a later one."""
        if first > self._journal.last + 1:
            self._journal.close()
            _remove_journal(self._path)
            self._journal = self._begin(first)

    def _begin(self, first: int) -> Journal:
        limit = max(JOURNAL_LIMIT, 2 * self._found.nbytes + 64 * MIB)
        header = self._found.header._replace(first=first)
        return Journal(self._path, limit=limit, use=None, begin=header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
        if group and first_of(record) > group[-1].position + 1:
            yield group
            group, size = [], 0
        group.append(record)
        size += memoryview(record.entry.payload).nbytes
        if size >= GROUP_SIZE or len(group) >= _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _unfinished(path: str) -> Iterator[str]:
    """Give a path beside, where nothing is; what is left there after a failure is removed."""
    beside = f"{path}.unfinished"
    outputs.check_way(beside)
    _remove_journal(beside)
    try:
        yield beside
    except BaseException:
        with suppress(JournalError):
            _remove_journal(beside)
        raise


def _remove_journal(path: str) -> None:
    """Remove a journal, if there is one that nobody has open; anything else is an error."""
    with faults.translating("remove", path), suppress(FileNotFoundError):
        find_segments(path)
        try:
            lock = lockfile.take(os.path.join(path, LOCK))
        except lockfile.Held as exc:
            error = Explanation(f"cannot remove {path}", f"{exc} has it open", "stop that")
            raise JournalInUse(error, path=path, pid=exc.pid) from None
        except lockfile.NotALock as exc:
            raise faults.foreign(path, f"has a file of another kind: {exc}") from None
        try:
            shutil.rmtree(path)
        finally:
            lock.give_back()
