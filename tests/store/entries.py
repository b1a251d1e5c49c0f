"""Make entries whose messages tell their positions, and check what comes back."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from mpsr._speedups import codec
from mpsr.batch import Peer, ProducerIdentity
from mpsr.store.records import Entry, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.store.journal import Journal

PEER: Final = Peer(12, 34, 56)
PRODUCER: Final = ProducerIdentity(b"0123456789abcdef", "a läbel")
_BATCH_AT: Final = 8  # bytes of frame header before a BATCH payload


def entry_of(messages: Sequence[bytes], first_seq: int = 0, *, lost: int = 0) -> Entry:
    """Return the entry of some messages."""
    return Entry(
        codec.pack_batch(messages, first_seq)[_BATCH_AT:] if messages else b"",
        len(messages),
        sum(map(len, messages)),
        first_seq,
        lost,
        PEER,
        PRODUCER,
        epoch=3,
        received_at=1_700_000_000_123_456_789,
    )


def body(position: int, size: int = 0) -> bytes:
    """Return the message that belongs at a position."""
    return b"%d:" % position + random.Random(position).randbytes(size)


def numbered(first: int, count: int, size: int = 0) -> Entry:
    """Return an entry of messages for the positions from ``first`` on."""
    return entry_of([body(first + n, size) for n in range(count)], first)


def read(journal: Journal, after: int = 0, *, max_bytes: int = 1 << 20) -> list[Record]:
    """Return what is read once, with payloads and checksums as they are appended."""
    with journal.reader() as reader:
        return [
            Record(last, entry._replace(payload=bytes(entry.payload), checksum=None))
            for last, entry in reader.read(after, max_bytes=max_bytes)
        ]


def read_all(journal: Journal, after: int = 0, *, max_bytes: int = 1 << 18) -> dict[int, bytes]:
    """Return every message by its position; fail if they do not follow one another."""
    found: dict[int, bytes] = {}
    position = max(after, journal.trimmed)
    with journal.reader() as reader:
        while records := reader.read(position, max_bytes=max_bytes):
            for last, entry in records:
                messages = list(entry.batch())
                assert sum(map(len, messages)) == entry.nbytes
                assert last == position + entry.span
                found.update(enumerate(messages, position + 1))
                position = last
    return found
