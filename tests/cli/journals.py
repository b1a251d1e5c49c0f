"""Make journals for the commands to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mpsr.batch import Peer, ProducerIdentity
from mpsr.journal import Entry, Journal, TrackState
from mpsr.wire.codec import pack_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

WEB: Final = ProducerIdentity(bytes(range(16)), "web")
CRON: Final = ProducerIdentity(bytes(range(16, 32)), "cron\x1b[1m")
NOON: Final = 1_772_366_400_000_000_000  # nanoseconds: 2026-03-01T12:00:00Z
SECOND: Final = 10**9
_BATCH_AT: Final = 8  # bytes of frame header before a BATCH payload


def entry(
    *messages: bytes,
    producer: ProducerIdentity | None = WEB,
    peer: Peer = Peer(12, 34, 56),  # noqa: B008 - it is immutable
    seq: int = 0,
    lost: int = 0,
    seconds: float = 0,
) -> Entry:
    """Return a batch that was received so many seconds after noon."""
    return Entry(
        pack_batch(messages, seq)[_BATCH_AT:] if messages else b"",
        len(messages),
        sum(map(len, messages)),
        seq,
        lost,
        peer,
        producer,
        1,
        NOON + int(seconds * SECOND),
    )


def make(path: Path, entries: Sequence[Entry], **cursors: int) -> None:
    """Make a journal of these batches and cursors."""
    with Journal(path) as journal:
        for each in entries:
            journal.append([each], [TrackState(34, WEB, 1, 7)])
        for name, position in cursors.items():
            journal.cursor(name)
            journal.move(name, position)


def damage(path: Path, needle: bytes) -> None:
    """Flip a bit where these bytes are."""
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= 1
    path.write_bytes(data)
