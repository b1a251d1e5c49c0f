"""Write what a damaged journal still holds into a new one."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from mpsr.errors import Explanation, JournalError, JournalInUse
from mpsr.limits import GROUP_SIZE, JOURNAL_LIMIT, MIB
from mpsr.store import faults, files
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.recovery import LOCK, find_segments
from mpsr.system import lockfile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    """Make a journal of the records, each at its position, and of what is known beside them.

    There is nothing at the path unless it is all there.
    """
    state = found.state
    limit = max(JOURNAL_LIMIT, 2 * found.nbytes + 64 * MIB)
    with _unfinished(path) as unfinished:
        with Journal(unfinished, limit=limit, use=None, begin=found.header) as journal:
            for group in _groups(records):
                journal.append([record.entry for record in group])
            for name, position in state.cursors.items():
                within = max(position, journal.cursor(name))
                journal.move(name, min(within, journal.last))
            forget = {each.key for each in journal.producers()} - state.producers.keys()
            journal.append([], producers=state.producers.values(), forget=forget)
        with faults.translating("make", path):
            files.rename(unfinished, path)
            files.sync_directory(os.path.dirname(os.path.abspath(path)))


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
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
