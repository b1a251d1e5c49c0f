"""What readers without a lock find while the owner of a log is at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpsr._speedups import codec
from mpsr.limits import MIN_JOURNAL_LIMIT
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import Entry

_BATCH_AT = 8  # bytes of frame header before a BATCH payload


def entry(*messages: bytes) -> Entry:
    """Return a batch."""
    return Entry(codec.pack_batch(messages, 0)[_BATCH_AT:], len(messages), sum(map(len, messages)))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Give a small journal with a cursor."""
    with Journal(tmp_path / "events.journal", limit=MIN_JOURNAL_LIMIT) as opened:
        opened.append([entry(b"one")])
        opened.cursor("reader")
        yield opened


def bodies(reader: Reader, after: int) -> list[bytes]:
    """Return the messages behind a position."""
    return [body for record in reader.read(after) for body in record.entry.batch()]


def test_reader_goes_on_in_a_segment_that_was_empty(journal: Journal) -> None:
    """It begins where that begins, not where it was in the segment before."""
    with Reader(journal.path) as reader:
        assert bodies(reader, 0) == [b"one"]
        journal.move("reader", 1)
        assert journal.trim()
        assert bodies(reader, 1) == []
        for body in (b"two", b"three", b"four"):
            journal.append([entry(body)])
        assert bodies(reader, 1) == [b"two", b"three", b"four"]


def test_reader_goes_on_behind_what_was_trimmed(journal: Journal) -> None:
    """The segment that it was in is gone, and the one behind, too."""
    with Reader(journal.path) as reader:
        assert bodies(reader, 0) == [b"one"]
        for number in range(30):
            journal.append([entry(b"%d" % number + b"x" * 50_000)])
        journal.move("reader", journal.last - 1)
        assert journal.trim()
        first, *_ = reader.read(1)
        assert first.position == journal.trimmed + 1 > 10


def test_trimming_ends_where_a_killed_owner_left_segments(tmp_path: Path) -> None:
    """They are removed, and then there is nothing more to trim."""
    path = tmp_path / "events.journal"
    with Journal(path, limit=MIN_JOURNAL_LIMIT) as journal:
        journal.cursor("reader")
        for _ in range(20):
            journal.append([entry(b"x" * 50_000)])
        first = min(path.glob("*.mpsr"))
        data = first.read_bytes()
        journal.move("reader", 10)
        assert journal.trim()
    assert not first.exists()
    first.write_bytes(data)
    with Journal(path, limit=MIN_JOURNAL_LIMIT) as journal:
        assert journal.trim()
        assert not first.exists()
        assert not journal.trim()
