"""Make journals for the commands to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mpsr.batch import Peer, ProducerIdentity
from mpsr.limits import JOURNAL_LIMIT
from mpsr.store.journal import Journal
from mpsr.store.records import Entry, KnownProducer
from tests.store.entries import entry_of

if TYPE_CHECKING:
    from collections.abc import Sequence

WEB: Final = ProducerIdentity(bytes(range(16)), "web")
CRON: Final = ProducerIdentity(bytes(range(16, 32)), "cron\x1b[1m")
NOON: Final = 1_772_366_400_000_000_000  # nanoseconds: 2026-03-01T12:00:00Z
SECOND: Final = 10**9


def entry(
    *messages: bytes,
    producer: ProducerIdentity | None = WEB,
    peer: Peer = Peer(12, 34, 56),  # noqa: B008 - it is immutable
    seq: int = 0,
    lost: int = 0,
    seconds: float = 0,
) -> Entry:
    """Return a batch that was received so many seconds after noon."""
    received_at = NOON + int(seconds * SECOND)
    return entry_of(messages, seq, lost=lost)._replace(
        peer=peer, producer=producer, epoch=1, received_at=received_at
    )


def make(
    path: Path, entries: Sequence[Entry], *, limit: int = JOURNAL_LIMIT, **cursors: int
) -> None:
    """Make a journal of these batches, of a producer that stands at 7, and of these cursors."""
    with Journal(path, limit=limit) as journal:
        for each in entries:
            journal.append([each], producers=[KnownProducer(34, WEB, 1, 7)])
        for name, position in cursors.items():
            journal.cursor(name)
            journal.move(name, position)


def segments(path: Path) -> list[Path]:
    """Return the segments of a journal, in order."""
    return sorted(path.glob("*.mpsr"))


def damage(path: Path, needle: bytes) -> None:
    """Flip a bit where these bytes are in a journal."""
    for segment in segments(path):
        data = bytearray(segment.read_bytes())
        if needle in data:
            data[data.index(needle)] ^= 1
            segment.write_bytes(data)
            return
    raise ValueError(f"{needle!r} is not in {path}")
