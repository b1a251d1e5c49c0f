"""Count what a journal holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mpsr.cli.stdio import plural
from mpsr.cli.trimmed import first_of

if TYPE_CHECKING:
    from mpsr.batch import ProducerIdentity
    from mpsr.store.records import Record

_MOST_RUNS: Final = 20  # runs of missing positions that a line names


class Count:
    """Messages and their bytes."""

    def __init__(self) -> None:
        self.messages: int = 0
        self.nbytes: int = 0

    def add(self, messages: int, nbytes: int) -> None:
        """Count some more."""
        self.messages += messages
        self.nbytes += nbytes


class Tally:
    """Counts of the records of a log.

    A record that does not follow the one before it starts the count again: the log's owner has
    trimmed all earlier positions meanwhile.

    Attributes:
        batches: how many batches there are, of messages or of losses.
        total: all messages.
        by_producer: those of each uid and native producer; None for all in other framings.
        lost: how many messages the producers reported as lost.
        missing: the runs of positions, first and last, that should be there and cannot be read.
        noted: those that could not be read when the journal was copied from a damaged one.
        first, last: nanoseconds since 1970 of the earliest and latest reception; 0 if there are
            none.
        begin, end: the positions of the first and last message; 0 before the first record.

    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.begin: int = 0
        self.end: int = 0
        self.batches: int = 0
        self.total: Count = Count()
        self.by_producer: dict[tuple[int | None, ProducerIdentity | None], Count] = {}
        self.lost: int = 0
        self.missing: list[tuple[int, int]] = []
        self.noted: list[tuple[int, int]] = []
        self.first: int = 0
        self.last: int = 0

    def add(self, record: Record) -> None:
        """Count a record."""
        entry, begin = record.entry, first_of(record)
        self.reach(begin - 1)
        self.begin, self.end = self.begin or begin, record.position
        if entry.gone:
            runs = self.missing if entry.checksum is None else self.noted  # in a record of its own
            if runs and runs[-1][1] == begin - 1:
                begin, _ = runs.pop()
            runs.append((begin, record.position))
            return
        self.batches += 1
        self.lost += entry.lost
        self.total.add(entry.length, entry.nbytes)
        of = self.by_producer.setdefault((entry.peer.uid, entry.producer), Count())
        of.add(entry.length, entry.nbytes)
        if entry.received_at:
            self.first = min(self.first or entry.received_at, entry.received_at)
            self.last = max(self.last, entry.received_at)

    def reach(self, position: int) -> None:
        """Start again if there are positions up to this one that no record had: trimmed ones."""
        if self.end < position:
            self._clear()

    def __str__(self) -> str:
        batches = f"{self.batches} batch{'es' if self.batches != 1 else ''}"
        return f"{plural(self.total.messages, 'message')} in {batches}"


def missing_text(runs: list[tuple[int, int]]) -> str:
    """Return in words which positions are missing."""
    named = [f"{a} to {b}" if a < b else str(a) for a, b in runs[:_MOST_RUNS]]
    count = sum(b - a + 1 for a, b in runs)
    more = len(runs) - len(named)
    text = f"{plural(count, 'position')} missing: {', '.join(named)}"
    return text + (f" and {more} more runs" if more else "")
