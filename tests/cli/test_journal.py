"""What `mpsr journal` finds out of a file, and does with it."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpsr.journal import Entry, Journal, TrackState
from mpsr.pages import PAGE
from mpsr.salvage import Salvage
from tests.cli.conftest import Cli, Screen
from tests.cli.journals import WEB, damage, entry, make
from tests.journal.entries import PRODUCER, numbered, read_all


@pytest.fixture
def events(cli: Cli) -> Path:
    """Give a journal of ten messages in five batches."""
    path = cli.directory / "events.db"
    make(path, [entry(b"<%d>" % n, b"[%d]" % n, seq=n) for n in range(1, 10, 2)], reader=1)
    return path


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


# -- verify -----------------------------------------------------------------------------------


def test_whole_journal_is_verified(cli: Cli, events: Path) -> None:
    """Status 0, and what it holds."""
    line = b"events.db is whole: 10 messages in 5 batches, positions 1 to 10\n"
    assert cli.run("journal", "verify", "events.db") == (0, line, "")


@pytest.mark.parametrize("needle", [b"<5>", b"SQLite format", b"CREATE TABLE batches"])
def test_damaged_journal_is_told(cli: Cli, events: Path, needle: bytes) -> None:
    """Status 65, what can be read, what is missing, and what to do; the file stays."""
    damage(events, needle)
    before = files(cli.directory)
    status, out, told = cli.run("journal", "verify", "events.db")
    assert status == 65
    assert "mpsr journal salvage" in told
    if needle == b"<5>":
        assert out == b"events.db is damaged: 8 messages in 4 batches can be read\n"
        assert "mpsr: 2 positions missing: 5 to 6\n" in told
    else:
        assert out == b"events.db is damaged: 10 messages in 5 batches can be read\n"
        assert "missing" not in told
    assert before.items() <= files(cli.directory).items()


def test_empty_journal_is_whole(cli: Cli) -> None:
    """Nothing is nothing to complain of."""
    make(cli.directory / "events.db", [])
    line = b"events.db is whole: 0 messages in 0 batches\n"
    assert cli.run("journal", "verify", "events.db") == (0, line, "")


@pytest.mark.parametrize("name", ["verify", "stats", "trim", "salvage"])
def test_journal_in_use_is_left_to_its_process(cli: Cli, events: Path, name: str) -> None:
    """Status 75, and who has it; nothing is made beside it."""
    with Journal(events):
        before = os.listdir(cli.directory)
        status, out, told = cli.run("journal", name, "events.db")
        assert os.listdir(cli.directory) == before
    assert (status, out) == (75, b"")
    assert f"process {os.getpid()} has it open" in told


@pytest.mark.parametrize("name", ["verify", "stats", "trim", "salvage"])
def test_missing_journal_is_not_made(cli: Cli, name: str) -> None:
    """Status 78, one line, no file."""
    status, out, told = cli.run("journal", name, "events.db")
    assert (status, out, told.count("\n")) == (78, b"", 1)
    assert os.listdir(cli.directory) == []


# -- stats ------------------------------------------------------------------------------------


def test_stats_tell_who_and_how_far(cli: Cli, events: Path) -> None:
    """Messages, bytes, times, cursors and producers, in words and as JSON."""
    status, out, told = cli.run("journal", "stats", "events.db", env={"TZ": "UTC0"})
    assert (status, told) == (0, "")
    text = " ".join(out.decode().split())
    assert "messages 10 messages in 5 batches, 30 bytes positions 1 to 10" in text
    assert "cursor reader at 1, 9 behind" in text
    assert "producer web 000102030405060708090a0b0c0d0e0f of uid 34: 10 messages, 30 bytes" in text
    document = json.loads(cli.run("journal", "stats", "events.db", "--json")[1])
    assert document["cursors"] == {"reader": 1}
    assert (document["messages"], document["bytes"], document["batches"]) == (10, 30, 5)
    assert document["producers"][0]["label"] == "web"
    assert document["known_producers"] == 1


# -- trim -------------------------------------------------------------------------------------


def test_trim_removes_what_all_cursors_have_passed(cli: Cli) -> None:
    """Whole batches, and no more."""
    make(cli.directory / "events.db", [entry(b"a", b"b")] * 200, reader=1, archive=399)
    status, out, _ = cli.run("journal", "trim", "events.db")
    assert (status, out.partition(b",")[0]) == (0, b"trimmed 0 positions; 400 left")
    status, out, _ = cli.run("journal", "trim", "events.db", "--drop", "reader")
    assert (status, out.partition(b",")[0]) == (0, b"trimmed 398 positions; 2 left")
    with Journal(cli.directory / "events.db") as journal:
        assert (journal.trimmed, journal.cursors()) == (398, {"archive": 399})


def test_unknown_cursor_is_not_dropped(cli: Cli, events: Path) -> None:
    """Status 78, and which there are."""
    status, out, told = cli.run("journal", "trim", "events.db", "--drop", "archive")
    assert (status, out) == (78, b"")
    assert told == "mpsr: events.db has no cursor 'archive'; there are: 'reader'\n"


def test_trimming_without_cursors_says_why_nothing_happens(cli: Cli) -> None:
    """Nobody has said what may go."""
    make(cli.directory / "events.db", [entry(b"one")])
    status, out, told = cli.run("journal", "trim", "events.db")
    assert (status, out.partition(b",")[0]) == (0, b"trimmed 0 positions; 1 left")
    assert "has no cursor" in told


# -- salvage ----------------------------------------------------------------------------------


def test_salvaged_journal_takes_the_place_of_the_damaged_one(cli: Cli, events: Path) -> None:
    """Positions, cursors and producers stay; what is missing is lost; the old file stays."""
    with Journal(events) as journal:
        journal.move("reader", 5)
        journal.put("identity", b"0123456789abcdef")
        journal.trim()
    damage(events, b"<7>")
    before = files(cli.directory)
    status, out, told = cli.run("journal", "salvage", "events.db")
    assert (status, out) == (0, b"saved 4 messages in 2 batches to events.db.salvaged\n")
    assert told == "mpsr: 2 positions missing: 7 to 8\n"
    after = files(cli.directory)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"events.db.salvaged"}
    assert (cli.directory / "events.db.salvaged").stat().st_mode & 0o777 == 0o600
    with Journal(cli.directory / "events.db.salvaged") as journal:
        assert (journal.trimmed, journal.last, journal.cursors()) == (4, 10, {"reader": 5})
        assert journal.tracks() == [TrackState(34, WEB, 1, 7)]
        assert journal.get("identity") == b"0123456789abcdef"
        found = [(record.position, record.entry.batch()) for record in journal.read(5)]
        assert [(position, list(batch)) for position, batch in found] == [
            (6, [b"[5]"]),
            (8, []),
            (10, [b"<9>", b"[9]"]),
        ]
        assert [batch.lost for _, batch in found] == [0, 2, 0]
        assert journal.read(7)[0].entry.batch().lost == 1
        assert journal.append([entry(b"next")]) == [11]
    line = b"events.db.salvaged is whole: 5 messages in 3 batches, positions 5 to 11\n"
    line += b"2 positions missing: 7 to 8, as they were when it was salvaged\n"
    assert cli.run("journal", "verify", "events.db.salvaged") == (0, line, "")


def test_salvaging_overwrites_nothing(cli: Cli, events: Path) -> None:
    """Status 78 if the new file is there already."""
    (cli.directory / "events.db.salvaged").write_bytes(b"mine")
    assert cli.run("journal", "salvage", "events.db")[0] == 78
    assert (cli.directory / "events.db.salvaged").read_bytes() == b"mine"
    assert cli.run("journal", "salvage", "events.db", "--output", "other.db")[0] == 0
    assert cli.run("journal", "verify", "other.db")[0] == 0


def test_file_without_anything_to_read_makes_no_journal(cli: Cli) -> None:
    """Status 65, and no new file."""
    (cli.directory / "events.db").write_bytes(random.Random(1).randbytes(10 * PAGE))
    status, out, told = cli.run("journal", "salvage", "events.db")
    assert (status, out, told.count("\n")) == (65, b"", 1)
    assert os.listdir(cli.directory) == ["events.db"]


def test_full_disk_leaves_no_half_journal(cli: Cli) -> None:
    """Status 74, one line, and nothing is left behind."""
    make(cli.directory / "events.db", [entry(b"x" * 2_000_000) for _ in range(4)])
    (cli.directory / "events.db.lock").unlink()
    limited = ["prlimit", "--fsize=3000000"]
    status, _, told = cli.run("journal", "salvage", "events.db", before=limited)
    assert (status, told.count("\n")) == (74, 1)
    assert os.listdir(cli.directory) == ["events.db"]


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.soak)])
def test_salvage_finds_all_but_what_was_hit(tmp_path: Path, count: int) -> None:
    """Flips, zeroed sectors and cuts cost no more than the batches they hit; nothing is wrong."""
    path = tmp_path / "events.db"
    sizes = random.Random(0)
    entries: list[Entry] = []
    position = 1
    with Journal(path) as journal:
        journal.cursor("reader")
        for _ in range(100):
            number = sizes.choice([1, 3, 20])
            entries.append(numbered(position, number, sizes.choice([10, 1_000, 5_000])))
            position += number
            journal.append(entries[-1:], [TrackState(7, PRODUCER, 1, position)])
            if len(entries) == 80:
                journal.checkpoint()
        good = {name: (tmp_path / name).read_bytes() for name in ("events.db", "events.db-wal")}
    expected = {n: message for entry in entries for n, message in _messages(entry)}
    hits = 0
    for seed in range(count):
        chance = random.Random(seed)
        harmed = tmp_path / "harmed.db"
        for name, content in good.items():
            data = bytearray(content)
            if name == "events.db" or chance.random() < 0.5:
                _harm(data, chance)
            Path(str(harmed) + name.removeprefix("events.db")).write_bytes(data)
        with Salvage(harmed) as salvage:
            done = salvage.trimmed
            for last, entry_ in salvage.records():
                done = last - entry_.span if done is None else done
                assert done == last - entry_.span
                messages = list(entry_.batch())
                assert messages == [expected[n] for n in range(done + 1, last + 1)][: len(messages)]
                assert len(messages) == entry_.length - entry_.gone
                hits += entry_.gone
                done = last
    assert hits < count * len(expected) / 10


def _messages(entry: Entry) -> list[tuple[int, bytes]]:
    return list(enumerate(entry.batch(), entry.first_seq))


def _harm(data: bytearray, chance: random.Random) -> None:
    used = len(data.rstrip(b"\0"))
    for _ in range(chance.choice([1, 5])):
        place = chance.randrange(used)
        if chance.random() < 0.5:  # the begin of a page tells what it is
            place = min(place - place % PAGE + chance.randrange(64), used - 1)
        data[place] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        place = chance.randrange(used) // 512 * 512
        data[place : place + 512] = bytes(len(data[place : place + 512]))


def test_whole_log_is_read_though_its_header_is_not(tmp_path: Path) -> None:
    """What a crash left in the log is salvaged, too."""
    path = tmp_path / "events.db"
    with Journal(path) as journal:
        journal.append([numbered(1, 3)])
        copies = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        everything = read_all(journal)
    for place in (0, 9, 17, 30):
        harmed = tmp_path / "harmed.db"
        log = bytearray(copies["-wal"])
        log[place] ^= 4
        harmed.write_bytes(copies[""])
        Path(f"{harmed}-wal").write_bytes(log)
        with Salvage(harmed) as salvage:
            records = list(salvage.records())
        assert [list(each.entry.batch()) for each in records] == [[*everything.values()]]


@pytest.mark.parametrize("name", ["verify", "stats", "salvage"])
def test_long_work_shows_its_progress_on_a_terminal(cli: Cli, events: Path, name: str) -> None:
    """On stderr, and it vanishes; stdout has the result alone."""
    script = (
        "import sys\n"
        "from mpsr.cli.entry import run\n"
        "from mpsr.cli.journal import progress\n"
        "progress._SHOW_AFTER = 0.0  # all work is long\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, "journal", name, "events.db"],
        cwd=cli.directory,
        env={**os.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=slave,
        check=True,
    )
    os.close(slave)
    shown = Screen(master).rest()
    os.close(master)
    assert re.search(rb"(verifying|counting|salvaging) ", shown)
    assert b"\x1b[2K" in shown
    assert b"\x1b" not in done.stdout
