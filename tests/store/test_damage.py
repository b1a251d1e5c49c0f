"""What a journal does about segments that do not hold what was written."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpsr.errors import JournalDamaged, JournalError
from mpsr.limits import KIB, MIB
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import KnownProducer
from mpsr.store.salvage import Salvage
from mpsr.store.segments import Segment, list_segments
from tests.store.entries import PEER, PRODUCER, body, entry_of, numbered, read_all

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 2 * MIB
SIZES = [0, 10, 1_000, 12_000]


def size_at(position: int) -> int:
    return SIZES[position % len(SIZES)]


def fill(journal: Journal) -> None:
    """Append batches of several sizes, in groups, until some segments were trimmed."""
    chance = random.Random(0)
    journal.cursor("reader")
    while journal.trimmed < 100:
        entries = []
        last = journal.last
        for _ in range(chance.choice([1, 1, 4])):
            first, count = last + 1, chance.choice([1, 3, 10])
            messages = [body(n, size_at(n)) for n in range(first, first + count)]
            entries.append(entry_of(messages, first))
            last += count
        journal.append(entries)
        journal.move("reader", max(0, journal.last - 300))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Give a journal that was closed, and a copy of it as a killed process leaves it."""
    path = str(tmp_path_factory.mktemp("good") / "closed.journal")
    with Journal(path, limit=LIMIT) as journal:
        fill(journal)
        shutil.copytree(path, path + ".killed")
    assert len(list_segments(path)) > 4
    return [path, path + ".killed"]


def harm(path: str, chance: random.Random) -> str:
    """Do some harm to the segments of a journal; say what was done."""
    segments = sorted(Path(path).glob("*.mpsr"))
    segment = chance.choice(segments)
    data = bytearray(segment.read_bytes())
    used = len(data.rstrip(b"\0"))
    kind = chance.choice(["flip", "flip", "zero", "cut", "swap", "lose", "copy"])
    place = chance.randrange(used)
    if kind == "flip":
        for _ in range(chance.choice([1, 1, 5])):
            data[chance.randrange(used)] ^= 1 << chance.randrange(8)
    elif kind == "zero":
        size = chance.choice([512, 4096])
        place -= place % size
        data[place : place + size] = bytes(len(data[place : place + size]))
    elif kind == "cut":
        del data[place:]
    elif kind == "copy":
        begin, size = chance.randrange(used), chance.randrange(1, 20_000)
        piece = data[begin : min(begin + size, used)]
        data[place : place + len(piece)] = piece
    segment.write_bytes(data)
    if kind == "swap":
        other = chance.choice(segments)
        segment.rename(segment.with_suffix(".x"))
        if other != segment:
            other.rename(segment)
        segment.with_suffix(".x").rename(other)
    elif kind == "lose":
        segment.unlink()
    return f"{kind} in {segment.name} at {place} of {used}"


def untouched(good: str, path: str) -> dict[int, bytes]:
    """Return the messages of the records that are, byte by byte, where they were."""
    harmed = [file.read_bytes() for file in Path(path).glob("*.mpsr")]
    found: dict[int, bytes] = {}
    for first in list_segments(good):
        with Segment(good, first) as segment:
            data = Path(segment.path).read_bytes()
            for record in segment.walk():
                begin, end = record.head.place.offset, record.head.end
                entry_at = record.head.place.position
                if record.head.kind == 1 and any(
                    data[begin:end] == each[begin:end] for each in harmed
                ):
                    count = int.from_bytes(record.head.details[16:24], "little")
                    found |= {n: body(n, size_at(n)) for n in range(entry_at, entry_at + count)}
    return found


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
def test_damage_is_told_and_all_that_is_whole_can_be_salvaged(
    good: list[str], tmp_path: Path, count: int
) -> None:
    outcomes: dict[str, int] = {}
    for seed in range(count):
        chance = random.Random(seed)
        source = chance.choice(good)
        path = shutil.copytree(source, tmp_path / "harmed.journal")
        done = f"{seed}: {harm(str(path), chance)} of {source}"
        expected = untouched(source, str(path))
        with Salvage(path) as salvage:
            brought: dict[int, bytes] = {}
            done_to = salvage.header.first - 1
            for last, entry in salvage.records():
                messages = list(entry.batch())
                assert last == done_to + entry.span, done
                assert len(messages) == entry.length - entry.gone, done
                brought |= dict(enumerate(messages, done_to + 1))
                done_to = last
        wrong = {n for n, message in brought.items() if message != body(n, size_at(n))}
        assert not wrong, done
        assert expected.keys() <= brought.keys(), (done, expected.keys() - brought.keys())
        began = time.process_time()
        with Journal(path, limit=LIMIT) as journal:
            assert time.process_time() - began < 2, done
            outcome = outcome_of(journal, done)
            last = journal.append([numbered(journal.last + 1, 1)])[0]
            assert read_all(journal, last - 1) == {last: body(last)}, done
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        for left in tmp_path.iterdir():
            shutil.rmtree(left)
    assert outcomes.keys() == {"whole", "unreadable", "set aside"}
    print(outcomes)  # noqa: T201


def outcome_of(journal: Journal, done: str) -> str:
    """Read all, and go on behind what cannot be read."""
    if journal.set_aside is not None:
        assert (journal.last, journal.producers(), journal.cursors()) == (0, [], {}), done
        return "set aside"
    position = journal.trimmed
    outcome = "whole"
    if position > journal.cursor("reader"):
        with journal.reader() as reader, pytest.raises(JournalDamaged):
            reader.read(journal.cursor("reader"))
        outcome = "unreadable"
    with journal.reader() as reader:
        while position < journal.last:
            try:
                records = reader.read(position, max_bytes=1)
            except JournalDamaged as exc:
                outcome = "unreadable" if exc.position == position + 1 else f"{exc} after {done}"
                position += 1
                continue
            for last, entry in records:
                expected = [body(n, size_at(n)) for n in range(position + 1, last + 1)]
                assert list(entry.batch()) == expected, done
                assert (entry.peer, entry.producer, entry.epoch) == (PEER, PRODUCER, 3), done
                position = last
    assert len(journal.producers()) == 1, done
    return outcome


def segment_of(path: str) -> Path:
    return max(Path(path).glob("*.mpsr"))


def flip(path: str, needle: bytes, bit: int = 1) -> None:
    data = bytearray(segment_of(path).read_bytes())
    data[data.index(needle)] ^= bit
    segment_of(path).write_bytes(data)


def test_damaged_batch_is_named_and_those_before_it_are_read(path: str) -> None:
    with Journal(path) as journal:
        for first in range(1, 11):
            journal.append([numbered(first, 1, 100)])
    flip(path, body(5, 100))
    with Journal(path) as journal, journal.reader() as reader:
        assert [record.position for record in reader.read(0)] == [1, 2, 3, 4]
        for _ in range(2):
            with pytest.raises(JournalDamaged, match="mpsr journal salvage") as caught:
                reader.read(4)
            assert caught.value.position == 5
        assert [record.position for record in reader.read(5)] == [6, 7, 8, 9, 10]


def test_torn_write_is_cut_and_does_not_come_back(path: str) -> None:
    """Some of its records may be whole: they were never confirmed, and others take their place."""
    with Journal(path) as journal:
        journal.append([numbered(1, 1, 100)])
        journal.append([numbered(n, 1, 100) for n in (2, 3, 4)])
        shutil.copytree(path, path + "2")
    path += "2"
    flip(path, body(3, 100))
    for _ in range(2):
        with Journal(path) as journal:
            assert journal.set_aside is None
            assert journal.last == 2
            assert read_all(journal) == {1: body(1, 100), 2: body(2, 100)}
            shutil.copytree(path, path + "2")
        path += "2"
    with Journal(path) as journal:
        journal.append([numbered(3, 1, 100)])  # as long as what was torn
        assert len(read_all(journal)) == 3
        shutil.copytree(path, path + "2")
    with Journal(path + "2") as journal:
        assert len(read_all(journal)) == 3


def test_message_that_looks_like_a_record_is_none(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 2, 100)])
    forged = segment_of(path).read_bytes()[:2000]
    with Journal(path) as journal:
        for shift in (b"", b"12345678"):
            journal.append([entry_of([shift + forged], 3)])
    data = bytearray(segment_of(path).read_bytes())
    data[:64] = bytes(64)
    segment_of(path).write_bytes(data)
    with Salvage(path) as salvage:
        assert [record.position for record in salvage.records()] == [2, 3, 4]
        assert salvage.doubt is not None


def test_segment_of_another_journal_is_not_read(path: str) -> None:
    for name in (path, path + "2"):
        with Journal(name, limit=LIMIT) as journal:
            journal.append([numbered(n, 1, 50 * KIB) for n in range(1, 5)])
            while journal.last < 20:
                journal.append([numbered(journal.last + 1, 1, 50 * KIB)])
    first, second, *_ = list_segments(path)
    assert second in list_segments(path + "2")
    name = f"{second:020}.mpsr"
    shutil.copyfile(Path(path + "2", name), Path(path, name))
    with Reader(path) as reader:
        records = reader.read(first - 1, max_bytes=MIB)
        assert records[-1].position == second - 1
        with pytest.raises(JournalDamaged) as caught:
            reader.read(second - 1)
        assert caught.value.position == second


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, b"MPSRJ"),
        lambda path: flip(path, PRODUCER.id),
        lambda path: os.truncate(segment_of(path), 0),
        lambda path: os.truncate(segment_of(path), 50),
        lambda path: os.truncate(segment_of(path), 400),
        lambda path: os.truncate(segment_of(path), 3000),
        lambda path: segment_of(path).unlink(),
        lambda path: segment_of(path).rename(Path(path, f"{7:020}.mpsr")),
    ],
    ids=["magic", "head", "empty", "short", "snapshot", "cut", "missing", "renamed"],
)
def test_journal_whose_end_is_in_doubt_is_set_aside_and_its_new_name_told(
    path: str, damage: Callable[[str], object], caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(path, limit=LIMIT) as journal:
        while len(list_segments(path)) < 2:
            journal.append([numbered(journal.last + 1, 1, 100 * KIB)])
        journal.append([], producers=[KnownProducer(1, PRODUCER, 1, 4)])
    damage(path)
    before = {file.name: file.read_bytes() for file in Path(path).iterdir()}
    with pytest.raises(JournalDamaged, match="mpsr journal salvage"):
        Journal(path, create=False)
    with pytest.raises(JournalDamaged), Reader(path) as reader:
        reader.recover()
    with caplog.at_level(logging.WARNING), Journal(path, limit=LIMIT) as journal:
        assert journal.set_aside is not None
        assert journal.set_aside.startswith(f"{path}.damaged-2")
        assert journal.set_aside in caplog.text
        assert journal.append([numbered(1, 1)]) == [1]
    kept = {file.name: file.read_bytes() for file in Path(journal.set_aside).iterdir()}
    assert {**kept, "lock": b""} == {**before, "lock": b""}
    with Journal(path) as journal:
        assert journal.set_aside is None
    with Journal(path + "2"), pytest.raises(JournalError):
        Journal(path + "2")


def test_second_damaged_journal_of_a_second_gets_a_name_of_its_own(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260102T030405")
    names = []
    for _ in range(3):
        Journal(path).close()
        os.truncate(segment_of(path), 0)
        with Journal(path) as journal:
            names.append(journal.set_aside)
    name = f"{path}.damaged-20260102T030405"
    assert names == [name, f"{name}-1", f"{name}-2"]
