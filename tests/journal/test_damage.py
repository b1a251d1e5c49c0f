"""What a journal does about a file that does not hold what was written."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpsr.errors import JournalDamaged
from mpsr.journal import Journal, TrackState
from tests.journal.entries import PEER, PRODUCER, body, numbered, read_all

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 6_000
COUNT = 60


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a journal as a killed process leaves it: some of it is in the log."""
    directory = tmp_path_factory.mktemp("good")
    path = str(directory / "events.db")
    with Journal(str(directory / "live.db")) as journal:
        journal.cursor("reader")
        tracks = [
            TrackState(uid, PRODUCER._replace(id=bytes([uid] * 16)), 1, 5) for uid in range(40)
        ]
        for first in range(1, COUNT, 2):
            journal.append([numbered(first, 2, SIZE)], tracks)
            journal.move("reader", max(0, first - 20))
            if first == COUNT - 9:
                journal.checkpoint()
        for suffix in ("", "-wal"):
            shutil.copyfile(journal.path + suffix, path + suffix)
    return path


def copy(good: str, path: str) -> None:
    for suffix in ("", "-wal"):
        shutil.copyfile(good + suffix, path + suffix)


def harm(path: str, chance: random.Random) -> str:
    """Flip bits of a file, or cut it; say what was done."""
    name = path + chance.choice(["", "", "", "-wal"])
    data = bytearray(Path(name).read_bytes())
    used = len(data.rstrip(b"\0"))
    if chance.random() < 0.25:
        data = data[: chance.randrange(used)]
        Path(name).write_bytes(data)
        return f"{os.path.basename(name)} cut to {len(data)}"
    # The first bytes of a page tell what it is: as likely as all the others together.
    places = []
    for _ in range(chance.choice([1, 1, 3, 20])):
        place = chance.randrange(used)
        if chance.random() < 0.5:
            place = min(place - place % 4096 + chance.randrange(128), used - 1)
        data[place] ^= 1 << chance.randrange(8)
        places.append(place)
    Path(name).write_bytes(data)
    return f"{os.path.basename(name)} flipped at {places}"


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.soak)])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damage_is_told_and_never_handed_out(good: str, tmp_path: Path, count: int) -> None:
    outcomes: dict[str, int] = {}
    for seed in range(count):
        path = str(tmp_path / f"{seed}.db")
        copy(good, path)
        done = harm(path, random.Random(seed))
        began = time.monotonic()
        with Journal(path) as journal:
            outcome = outcome_of(journal, done)
            if outcome != "unreadable":
                last = journal.append([numbered(journal.last + 1, 1)])[0]
                assert journal.read(last - 1)[0].entry.batch()[0] == body(last), done
        assert time.monotonic() - began < 10, done
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        for file in tmp_path.iterdir():
            file.unlink()
    assert outcomes.keys() == {"whole", "unreadable", "set aside"}


def outcome_of(journal: Journal, done: str) -> str:
    if journal.set_aside is not None:
        assert (journal.last, journal.tracks(), journal.cursors()) == (0, [], {}), done
        return "set aside"
    position = journal.trimmed
    while position < journal.last:
        try:
            records = journal.read(position, max_bytes=1)
        except JournalDamaged as exc:
            return "unreadable" if exc.position == position + 1 else f"{exc.position} in {done}"
        for last, entry in records:
            expected = [body(n, SIZE) for n in range(position + 1, last + 1)]
            assert list(entry.batch()) == expected, done
            assert (entry.peer, entry.producer, entry.epoch) == (PEER, PRODUCER, 3), done
            position = last
    # A log that was cut, or harmed in its last commit, looks like one that a crash cut short.
    assert journal.last >= COUNT - 2 or "-wal cut" in done, done
    assert len(journal.tracks()) == 40, done
    assert journal.cursor("reader") >= journal.trimmed, done
    return "whole"


def flip(path: str, needle: bytes, bit: int = 1) -> None:
    data = bytearray(Path(path).read_bytes())
    data[data.index(needle)] ^= bit
    Path(path).write_bytes(data)


def test_damaged_batch_is_named_and_those_before_it_are_read(path: str) -> None:
    with Journal(path) as journal:
        for first in range(1, 11):
            journal.append([numbered(first, 1, 100)])
    flip(path, body(5, 100))
    with Journal(path) as journal:
        assert [record.position for record in journal.read(0)] == [1, 2, 3, 4]
        for _ in range(2):
            with pytest.raises(JournalDamaged, match="mpsr journal salvage") as caught:
                journal.read(4)
            assert caught.value.position == 5
        assert [record.position for record in journal.read(5)] == [6, 7, 8, 9, 10]


def test_batch_that_vanished_is_noticed(path: str) -> None:
    with Journal(path) as journal:
        for first in range(1, 11):
            journal.append([numbered(first, 1)])
        journal._connection.execute("DELETE FROM batches WHERE position = 5")
        assert [record.position for record in journal.read(0)] == [1, 2, 3, 4]
        with pytest.raises(JournalDamaged):
            journal.read(4)
        with pytest.raises(JournalDamaged):
            journal.read(5 - 1)
        journal._connection.execute("DELETE FROM batches WHERE position = 10")
        with pytest.raises(JournalDamaged):
            read_all(journal, 5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, b"SQLite format 3"),
        lambda path: flip(path, b"Mpsr"),
        lambda path: flip(path, b"CREATE TABLE batches"),
        lambda path: flip(path, b"t" + (1).to_bytes(8, "little") + PRODUCER.id),
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, 50),
        lambda path: os.truncate(path, 40_000),
        lambda path: os.rename(path, path + "-wal"),
    ],
    ids=["magic", "id", "schema", "track", "empty", "short", "cut", "log alone"],
)
def test_damaged_file_is_set_aside_and_its_new_name_told(
    path: str, damage: Callable[[str], object], caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 3)], [TrackState(1, PRODUCER, 1, 4)])
    damage(path)
    files = [Path(path + suffix) for suffix in ("", "-wal")]

    def contents() -> list[bytes]:
        return [file.read_bytes() if file.exists() else b"" for file in files]

    before, alone = contents(), not files[0].exists()
    with pytest.raises(JournalDamaged, match="mpsr journal salvage"):
        Journal(path, create=False)
    assert contents() == before
    if not alone:
        os.rename(path, path + ".1")  # whoever fails so keeps the file's locks
        shutil.copyfile(path + ".1", path)
    with caplog.at_level(logging.WARNING), Journal(path) as journal:
        assert journal.set_aside is not None
        assert journal.set_aside.startswith(f"{path}.damaged-2")
        assert journal.set_aside in caplog.text
        assert journal.append([numbered(1, 1)]) == [1]
    kept = Path(journal.set_aside + "-wal" if alone else journal.set_aside)
    assert kept.read_bytes() == (before[1] if alone else before[0])
    with Journal(path) as journal:
        assert journal.set_aside is None


def test_second_damaged_file_of_a_second_gets_a_name_of_its_own(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260102T030405")
    names = []
    for _ in range(3):
        Path(path).write_bytes(b"")
        with Journal(path) as journal:
            names.append(journal.set_aside)
    name = f"{path}.damaged-20260102T030405"
    assert names == [name, f"{name}-1", f"{name}-2"]
