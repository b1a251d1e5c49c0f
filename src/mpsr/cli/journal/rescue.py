"""Write what a damaged journal still holds into a new one."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from mpsr.journal import Entry, Journal
from mpsr.limits import GROUP_SIZE, JOURNAL_LIMIT, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpsr.journal import Record
    from mpsr.salvage import Salvage

_GROUP_ROWS: Final = 1000


def write(salvage: Salvage, records: Iterable[Record], path: str) -> None:
    """Make a journal of the records, each at its position, and of what is known beside them.

    There is nothing at the path unless it is all there.
    """
    with _unfinished(path) as unfinished:
        limit = max(JOURNAL_LIMIT, 2 * salvage.nbytes + 64 * MIB)
        with Journal(unfinished, limit=limit) as journal:
            for group in _groups(records):
                if not journal.last and salvage.trimmed:
                    _begin_after(journal, salvage.trimmed)
                journal.append([record.entry for record in group])
            journal.append([], salvage.tracks)
            for key, value in salvage.values.items():
                journal.put(key, value)
            for name, position in salvage.cursors.items():
                within = max(position, journal.cursor(name))
                journal.move(name, min(within, journal.last))


def _begin_after(journal: Journal, position: int) -> None:
    """Let an empty journal begin behind a position, as if all up to it had been trimmed."""
    journal.append([Entry(b"", position, 0)])
    journal.cursor("salvage")
    journal.move("salvage", position)
    journal.trim()
    journal.drop("salvage")


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += record.entry.nbytes
        if size >= GROUP_SIZE or len(group) >= _GROUP_ROWS:
            yield group
            group, size = [], 0
    yield group


@contextmanager
def _unfinished(path: str) -> Iterator[str]:
    """Give a path beside; what is there afterwards is moved, or removed after a failure."""
    beside = f"{path}.unfinished"
    try:
        _remove(beside)
        yield beside
        os.rename(beside, path)
    finally:
        _remove(beside)


def _remove(path: str) -> None:
    for suffix in ("", "-wal", ".lock"):
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)
