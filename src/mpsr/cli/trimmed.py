"""Tell what the owner of a journal has trimmed while a command read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.cli.stdio import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpsr.store.records import Record


def first_of(record: Record) -> int:
    """Return the position of a record's first message."""
    return record.position - record.entry.span + 1


def telling(records: Iterable[Record], after: int, until: int) -> Iterator[Record]:
    """Yield the records after one position, up to another; report those that were trimmed."""
    for record in records:
        tell_trimmed(after + 1, first_of(record) - 1)
        yield record
        after = record.position
    tell_trimmed(after + 1, until)


def tell_trimmed(first: int, last: int) -> None:
    """Say which positions are gone, on one line; nothing if there are none."""
    if first < last:
        say(f"positions {first} to {last} were trimmed while they were read")
    elif first == last:
        say(f"position {first} was trimmed while it was read")
