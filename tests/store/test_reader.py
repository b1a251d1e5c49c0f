"""What readers without a lock find while the owner of a log is at work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from mpsr._speedups import codec
from mpsr.errors import NoJournal
from mpsr.limits import MIN_JOURNAL_LIMIT
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import Entry
from mpsr.store.segments import Found, Segment, name_of

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


def test_segment_overwritten_after_it_was_listed_is_trimmed_not_the_end(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only segment of the list holds other records by then; the reader lists again."""
    file = os.stat(os.path.join(journal.path, name_of(1))).st_ino
    walk = Segment.walk

    def overwrite_then_walk(segment: Segment, *args: Any, **options: Any) -> Iterator[Found]:
        monkeypatch.undo()
        assert os.fstat(segment._file.fileno()).st_ino == file
        reused = full = False
        while not full:
            journal.append([entry(b"x" * 50_000)])
            journal.move("reader", journal.last)
            newest = os.stat(max(glob(f"{journal.path}/*.mpsr"))).st_ino == file
            reused = reused or (newest and journal.trimmed > 0)
            full = reused and not newest
        return walk(segment, *args, **options)

    with Reader(journal.path) as reader:
        monkeypatch.setattr(Segment, "walk", overwrite_then_walk)
        first, *_ = reader.read(0)
        assert first.position == journal.trimmed + 1 > 1


def test_reader_stays_with_the_log_that_it_opened(tmp_path: Path) -> None:
    """Another log at the path is reported, whatever was read before, and never read."""
    path = tmp_path / "events.journal"
    for before in ("nothing", "recover", "read"):
        with Journal(path) as journal:
            journal.append([entry(b"one")])
        with Reader(path) as reader:
            if before == "recover":
                reader.recover()
            if before == "read":
                assert bodies(reader, 0) == [b"one"]
            shutil.rmtree(path)
            with Journal(path) as journal:
                journal.append([entry(b"another"), entry(b"more")])
            for call in (reader.recover, lambda: reader.read(0), lambda: reader.read(1)):
                with pytest.raises(NoJournal, match="it was replaced while it was read"):
                    call()
        shutil.rmtree(path)


def test_cursor_set_back_keeps_what_it_has_to_pass_again(journal: Journal) -> None:
    """Messages that it had passed are not trimmed any more; a trimmed position is refused."""
    for _ in range(20):
        journal.append([entry(b"x" * 50_000)])
    journal.move("reader", journal.last)
    assert journal.resume("reader", 1)
    assert not journal.trim()
    assert journal.trimmed == 0
    with journal.reader() as reader:
        assert reader.read(1)[0].position == 2
    journal.move("reader", journal.last)
    assert journal.trim()
    assert not journal.resume("reader", 1)
    assert not journal.resume("reader", journal.last + 1)
    assert journal.cursor("reader") == journal.last


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
