"""What `mpsr journal` finds out of a file, and does with it."""

from __future__ import annotations

import json
import os
import pty
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest

from mpsr.batch import ProducerIdentity
from mpsr.limits import MIN_JOURNAL_LIMIT
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import HEADER_SIZE, Entry, KnownProducer, Use
from mpsr.store.salvage import Salvage
from tests.cli.conftest import Cli, Screen
from tests.cli.journals import CRON, WEB, damage, entry, make, segments


@pytest.fixture
def events(cli: Cli) -> Path:
    """Give a journal of ten messages in five batches."""
    path = cli.directory / "events.journal"
    make(path, [entry(b"<%d>" % n, b"[%d]" % n, seq=n) for n in range(1, 10, 2)], reader=1)
    return path


def files(directory: Path) -> dict[str, bytes]:
    """Return what a journal's files hold, by their names; not who used it last."""
    return {file.name: file.read_bytes() for file in segments(directory)}


@pytest.fixture
def read_only(cli: Cli) -> Iterator[Path]:
    """Give a journal of two messages, one of them damaged, where nothing can be written."""
    if os.geteuid() != 0:
        pytest.skip("takes the right to mount a file system")
    disk = cli.directory / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("takes the right to mount a file system")
    try:
        make(disk / "events.journal", [entry(b"one"), entry(b"two"), entry(b"end")], reader=1)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield disk / "events.journal"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# -- verify -----------------------------------------------------------------------------------


def test_whole_journal_is_verified(cli: Cli, events: Path) -> None:
    """Status 0, and what it holds."""
    line = b"events.journal is whole: 10 messages in 5 batches, positions 1 to 10\n"
    assert cli.run("journal", "verify", "events.journal") == (0, line, "")


@pytest.mark.parametrize("torn", [False, True])
def test_damaged_journal_is_told(cli: Cli, events: Path, torn: bool) -> None:
    """Status 65, what can be read, what is missing, and what to do; the files stay."""
    if torn:
        with Journal(events) as journal:
            journal.append([entry(b"last")])
            copy = files(events)
        for name, data in copy.items():  # as if it were in use, or was killed
            (events / name).write_bytes(data)
    damage(events, b"<5>")
    before = files(events)
    status, out, told = cli.call("journal", "verify", "events.journal")
    assert (status, told.count("\n")) == (65, 4)
    assert "mpsr journal salvage" in told
    count = b"9 messages in 5 batches" if torn else b"8 messages in 4 batches"
    assert out == b"events.journal is damaged: %s can be read\n" % count
    assert "mpsr: 2 positions missing: 5 to 6\n" in told
    assert files(events) == before


def test_damaged_header_is_told(cli: Cli, events: Path) -> None:
    """Status 65, though every message can be read, and salvaged."""
    damage(events, b"MPSRJ")
    line = b"events.journal is damaged: 10 messages in 5 batches can be read\n"
    status, out, told = cli.call("journal", "verify", "events.journal")
    assert (status, out) == (65, line)
    assert "the header of 00000000000000000001.mpsr is not what was written" in told
    assert cli.call("journal", "stats", "events.journal")[:2] == (65, b"")
    assert cli.call("journal", "salvage", "events.journal")[0] == 0
    line = b"events.journal.salvaged is whole: 10 messages in 5 batches, positions 1 to 10\n"
    assert cli.call("journal", "verify", "events.journal.salvaged") == (0, line, "")


def test_damaged_state_is_told(cli: Cli, events: Path) -> None:
    """Status 65, though every message can be read: more may have followed."""
    with Journal(events) as journal:
        journal.append([entry(b"last")])
        journal.move("reader", 3)
    (segment,) = segments(events)
    data = segment.read_bytes().rstrip(b"\0")
    segment.write_bytes(data[:-1])  # cut short, too
    status, out, told = cli.call("journal", "verify", "events.journal")
    assert status == 65
    assert out == b"events.journal is damaged: 11 messages in 6 batches can be read\n"
    assert "what follows position 11 is missing" in told
    assert "messages may be missing at its end" in told


def test_missing_segment_is_told(cli: Cli) -> None:
    """Status 65, and its positions."""
    path = cli.directory / "events.journal"
    bodies = [b"x" * 50_000] * 30
    make(path, [entry(each) for each in bodies], limit=MIN_JOURNAL_LIMIT, reader=0)
    _, gone, behind, *_ = segments(path)
    gone.unlink()
    status, _, told = cli.call("journal", "verify", "events.journal")
    assert status == 65
    first, last = int(gone.stem), int(behind.stem) - 1
    assert f"mpsr: {last - first + 1} positions missing: {first} to {last}\n" in told


def test_empty_journal_is_whole(cli: Cli) -> None:
    """Nothing is nothing to complain of."""
    make(cli.directory / "events.journal", [])
    line = b"events.journal is whole: 0 messages in 0 batches\n"
    assert cli.call("journal", "verify", "events.journal") == (0, line, "")


@pytest.mark.parametrize("name", ["verify", "stats", "salvage"])
def test_journal_in_use_is_read(cli: Cli, events: Path, name: str) -> None:
    """With all that its process has written so far, which goes on."""
    with Journal(events) as journal:
        journal.append([entry(b"eleven")])
        status, out, told = cli.run("journal", name, "events.journal")
        assert (status, told) == (0, "")
        assert b"11 messages in 6 batches" in out
        assert journal.append([entry(b"twelve")]) == [12]


def test_journal_is_verified_while_segments_come_and_go(cli: Cli) -> None:
    """Nothing is missing that was there, and nothing is told that is not so."""
    path = cli.directory / "events.journal"
    with Journal(path, limit=MIN_JOURNAL_LIMIT) as journal:
        journal.append([entry(b"first")])
        journal.cursor("reader")
        for name in ("verify", "stats", "salvage"):
            running = cli.start("journal", name, "events.journal")
            while running.popen.poll() is None:
                last = journal.append([entry(b"x" * 40_000)])[-1]
                journal.move("reader", max(last - 5, journal.cursor("reader")))
                sleep(0.001)  # the command is to have a processor
            status, _, told = running.finish()
            assert status == 0
            assert all(" trimmed while " in line for line in told.splitlines())
    status, out, told = cli.call("journal", "verify", "events.journal.salvaged")
    assert (status, told) == (0, "")
    assert b"missing" not in out


@pytest.mark.parametrize("name", ["verify", "stats", "trim", "salvage"])
def test_missing_journal_is_not_made(cli: Cli, name: str) -> None:
    """Status 78, three lines, no file."""
    status, out, told = cli.call("journal", name, "events.journal")
    assert (status, out, told.count("\n")) == (78, b"", 3)
    assert os.listdir(cli.directory) == []


@pytest.mark.parametrize("name", ["verify", "stats", "trim", "salvage"])
def test_what_is_no_journal_is_left_alone(cli: Cli, name: str) -> None:
    """Status 78, three lines; a file stays as it is, and a directory of other things."""
    (cli.directory / "other").write_bytes(b"something else")
    for path in ("other", "."):
        status, out, told = cli.call("journal", name, path)
        assert (status, out, told.count("\n")) == (78, b"", 3)
    assert os.listdir(cli.directory) == ["other"]


def test_read_only_journal_is_read(cli: Cli, read_only: Path) -> None:
    """Verified, measured, and salvaged to elsewhere; it cannot be trimmed, nor salvaged there."""
    path = str(read_only)
    assert cli.call("journal", "verify", path)[::2] == (0, "")
    assert cli.call("journal", "stats", path)[::2] == (0, "")
    assert cli.call("log", path, "-n", "2", "-o", "text") == (0, b"two\nend\n", "")
    status, out, told = cli.call("journal", "salvage", path, "--output", "new.journal")
    assert (status, out, told) == (0, b"saved 3 messages in 3 batches to new.journal\n", "")
    assert cli.call("log", "new.journal", "-o", "text") == (0, b"one\ntwo\nend\n", "")
    for command in ("trim", "salvage"):
        status, out, told = cli.call("journal", command, path)
        assert (status, out, told.count("\n")) == (77, b"", 3)
        assert "Read-only file system" in told
    assert sorted(os.listdir(read_only.parent)) == ["events.journal"]


# -- stats ------------------------------------------------------------------------------------


def test_stats_tell_who_and_how_far(cli: Cli, events: Path) -> None:
    """Messages, bytes, times, cursors and producers, in words and as JSON."""
    status, out, told = cli.call("journal", "stats", "events.journal", env={"TZ": "UTC0"})
    assert (status, told) == (0, "")
    text = " ".join(out.decode().split())
    assert "messages 10 messages in 5 batches, 30 B positions 1 to 10" in text
    assert "cursor reader at 1, 9 behind" in text
    assert "producer web 000102030405060708090a0b0c0d0e0f of uid 34: 10 messages, 30 B" in text
    document = json.loads(cli.call("journal", "stats", "events.journal", "--json")[1])
    assert document["cursors"] == {"reader": 1}
    assert (document["messages"], document["bytes"], document["batches"]) == (10, 30, 5)
    assert document["producers"][0]["label"] == "web"
    assert document["known_producers"] == 1


# -- trim -------------------------------------------------------------------------------------


def test_trim_removes_what_all_cursors_have_passed(cli: Cli) -> None:
    """Whole segments, and no more."""
    path = cli.directory / "events.journal"
    bodies = [b"x" * 50_000] * 30
    make(path, [entry(each) for each in bodies], limit=MIN_JOURNAL_LIMIT, reader=1, archive=20)
    begins = [int(segment.stem) for segment in segments(path)]
    status, out, told = cli.call("journal", "trim", "events.journal")
    assert (status, told) == (0, "")
    assert out.partition(b",")[0] == b"trimmed 0 positions; 30 left"
    trimmed = max(begin for begin in begins if begin <= 21) - 1
    status, out, _ = cli.call("journal", "trim", "events.journal", "--drop", "reader")
    text = b"trimmed %d positions; %d left" % (trimmed, 30 - trimmed)
    assert (status, out.partition(b",")[0]) == (0, text)
    with Journal(path) as journal:
        assert (journal.trimmed, journal.cursors()) == (trimmed, {"archive": 20})
        journal.move("archive", 30)
    assert b" 0 left" in cli.call("journal", "trim", "events.journal")[1]


def test_trim_removes_what_a_killed_process_left(cli: Cli) -> None:
    """What the cursors had passed is gone, as it was about to."""
    path = cli.directory / "events.journal"
    bodies = [b"x" * 50_000] * 30
    make(path, [entry(each) for each in bodies], limit=MIN_JOURNAL_LIMIT, reader=0)
    before = files(path)
    with Journal(path, limit=MIN_JOURNAL_LIMIT) as journal:
        journal.move("reader", 20)
        assert journal.trim()
    kept = files(path)
    for name in before.keys() - kept.keys():
        (path / name).write_bytes(before[name])
    first = int(min(kept).partition(".")[0])
    status, out, _ = cli.call("journal", "trim", "events.journal")
    assert (status, out.partition(b";")[0]) == (0, b"trimmed %d positions" % (first - 1))
    assert files(path).keys() == kept.keys()


def test_journal_in_use_is_not_trimmed(cli: Cli, events: Path) -> None:
    """Status 75, and who has it."""
    with Journal(events):
        status, out, told = cli.run("journal", "trim", "events.journal")
    assert (status, out) == (75, b"")
    assert f"process {os.getpid()} has it open" in told


def test_unknown_cursor_is_not_dropped(cli: Cli, events: Path) -> None:
    """Status 78, and which there are."""
    status, out, told = cli.call("journal", "trim", "events.journal", "--drop", "archive")
    assert (status, out) == (78, b"")
    assert told == (
        "mpsr: events.journal has no cursor 'archive'\n  why: there are: 'reader'\n"
        "  try: name one of these\n"
    )


def test_trimming_without_cursors_says_why_nothing_happens(cli: Cli) -> None:
    """Nobody has said what may go."""
    make(cli.directory / "events.journal", [entry(b"one")])
    status, out, told = cli.call("journal", "trim", "events.journal")
    assert (status, out.partition(b",")[0]) == (0, b"trimmed 0 positions; 1 left")
    assert "has no cursor" in told


# -- salvage ----------------------------------------------------------------------------------


def test_salvaged_journal_takes_the_place_of_the_damaged_one(cli: Cli, events: Path) -> None:
    """Positions, cursors and producers stay; what is missing is lost; the old files stay."""
    with Journal(events) as journal:
        journal.append([entry(b"eleven", producer=CRON)], forget=[(34, CRON.id)])
        journal.move("reader", 5)
        known = journal.producers()
    damage(events, b"<7>")
    before = files(events)
    status, out, told = cli.call("journal", "salvage", "events.journal/")
    assert (status, out) == (0, b"saved 9 messages in 5 batches to events.journal.salvaged\n")
    assert told == "mpsr: 2 positions missing: 7 to 8\n"
    assert files(events) == before
    assert sorted(os.listdir(cli.directory)) == ["events.journal", "events.journal.salvaged"]
    salvaged = cli.directory / "events.journal.salvaged"
    assert salvaged.stat().st_mode & 0o777 == 0o700
    with Journal(salvaged) as journal, Journal(events) as old, journal.reader() as reader:
        assert (journal.trimmed, journal.last, journal.cursors()) == (0, 11, {"reader": 5})
        assert journal.producers() == known == [KnownProducer(34, WEB, 1, 7)]
        assert journal.id == old.id
        found = [(record.position, record.entry.batch()) for record in reader.read(5)]
        assert [(position, list(batch)) for position, batch in found] == [
            (6, [b"[5]"]),
            (8, []),
            (10, [b"<9>", b"[9]"]),
            (11, [b"eleven"]),
        ]
        assert [batch.lost for _, batch in found] == [0, 2, 0, 0]
        assert reader.read(7)[0].entry.batch().lost == 1
        assert journal.append([entry(b"next")]) == [12]
    line = b"events.journal.salvaged is whole: 10 messages in 6 batches, positions 1 to 12\n"
    line += b"2 positions missing: 7 to 8, as they were when it was salvaged\n"
    assert cli.call("journal", "verify", "events.journal.salvaged") == (0, line, "")


def test_salvaged_journal_begins_where_the_damaged_one_did(cli: Cli) -> None:
    """What was trimmed is not missing."""
    path = cli.directory / "events.journal"
    bodies = [b"%d:" % n + b"x" * 50_000 for n in range(1, 31)]
    make(path, [entry(each) for each in bodies], limit=MIN_JOURNAL_LIMIT, reader=20)
    assert cli.call("journal", "trim", "events.journal")[0] == 0
    damage(path, b"25:x")
    first = int(segments(path)[0].stem)
    assert 1 < first <= 21
    status, _, told = cli.call("journal", "salvage", "events.journal")
    assert (status, told) == (0, "mpsr: 1 position missing: 25\n")
    with Journal(f"{path}.salvaged") as journal:
        assert (journal.trimmed, journal.last, journal.cursors()) == (first - 1, 30, {"reader": 20})


def test_salvaged_spool_is_the_same_spool(cli: Cli) -> None:
    """Its identity is kept, by which a receiver knows what it has accepted."""
    path = cli.directory / "unsent.spool"
    with Journal(path, use=Use.SPOOL) as journal:
        journal.append([entry(b"one", producer=ProducerIdentity(journal.id, "web"))])
        log_id = journal.id
    assert cli.call("journal", "salvage", "unsent.spool", "--output", "new.spool")[0] == 0
    with Journal(cli.directory / "new.spool", use=Use.SPOOL) as journal:
        assert (journal.id, journal.last) == (log_id, 1)


def test_salvage_of_a_journal_in_use_is_as_it_was_then(cli: Cli, events: Path) -> None:
    """Messages and producers go together, though its process goes on."""
    with Journal(events) as journal:
        journal.append([entry(b"1", seq=1)])
        running = cli.start("journal", "salvage", "events.journal")
        number = 1
        while running.popen.poll() is None:
            number += 1
            journal.append([entry(b"%d" % number, seq=number)])
            sleep(0.001)  # the command is to have a processor
        assert running.finish()[::2] == (0, "")
    with Reader(f"{events}.salvaged") as reader:
        state = reader.recover().state
        copied = [record.entry for record in reader.read(10)]
    assert state.producers == {(34, WEB.id): copied[-1].state}
    assert [list(each.batch()) for each in copied] == [
        [b"%d" % (n + 1)] for n in range(len(copied))
    ]


def test_salvaging_overwrites_nothing(cli: Cli, events: Path) -> None:
    """Status 78 if the new one is there already, or something is where it is to be made."""
    (cli.directory / "events.journal.salvaged").write_bytes(b"mine")
    assert cli.call("journal", "salvage", "events.journal")[0] == 78
    assert (cli.directory / "events.journal.salvaged").read_bytes() == b"mine"
    beside = cli.directory / "new.journal.unfinished"
    beside.mkdir()
    (beside / "mine").write_bytes(b"mine")
    assert cli.call("journal", "salvage", "events.journal", "--output", "new.journal")[0] == 78
    assert os.listdir(beside) == ["mine"]


def test_salvaging_goes_on_after_a_kill(cli: Cli, events: Path) -> None:
    """What a killed one left is removed, but not what another is at."""
    unfinished = cli.directory / "events.journal.salvaged.unfinished"
    with Journal(unfinished) as journal:
        journal.append([entry(b"half")])
        status, out, told = cli.run("journal", "salvage", "events.journal")
        assert (status, out) == (75, b"")
        assert f"process {os.getpid()} has it open" in told
    assert cli.call("journal", "salvage", "events.journal")[0] == 0
    assert sorted(os.listdir(cli.directory)) == ["events.journal", "events.journal.salvaged"]


def test_nothing_readable_makes_no_journal(cli: Cli, events: Path) -> None:
    """Status 65, three lines."""
    (segment,) = segments(events)
    segment.write_bytes(bytes(segment.stat().st_size))
    status, out, told = cli.call("journal", "salvage", "events.journal")
    assert (status, out, told.count("\n")) == (65, b"", 3)
    assert os.listdir(cli.directory) == ["events.journal"]


def test_full_disk_leaves_no_half_journal(cli: Cli) -> None:
    """Status 74, the cause and a remedy, and nothing is left behind."""
    make(cli.directory / "events.journal", [entry(b"x" * 2_000_000) for _ in range(4)])
    limited = ["prlimit", "--fsize=3000000"]
    status, _, told = cli.run("journal", "salvage", "events.journal", before=limited)
    assert (status, told.count("\n")) == (74, 3)
    assert os.listdir(cli.directory) == ["events.journal"]


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.soak)])
def test_salvage_finds_all_but_what_was_hit(tmp_path: Path, count: int) -> None:
    """Flips, zeroed sectors and cuts cost no more than the batches they hit; nothing is wrong."""
    path = tmp_path / "events.journal"
    sizes = random.Random(0)
    entries: list[Entry] = []
    position = 1
    with Journal(path, limit=MIN_JOURNAL_LIMIT) as journal:
        journal.cursor("reader")
        for _ in range(100):
            number, size = sizes.choice([1, 3, 20]), sizes.choice([10, 1_000, 5_000])
            bodies = [b"%d:" % (position + n) + sizes.randbytes(size) for n in range(number)]
            entries.append(entry(*bodies, seq=position))
            position += number
            journal.append(entries[-1:])
    good = files(path)
    assert len(good) > 2
    expected = {n: body for each in entries for n, body in enumerate(each.batch(), each.first_seq)}
    hits = 0
    harmed = tmp_path / "harmed.journal"
    harmed.mkdir()
    for seed in range(count):
        chance = random.Random(seed)
        for name, content in good.items():
            data = bytearray(content)
            if chance.random() < 0.5:
                _harm(data, chance)
            (harmed / name).write_bytes(data)
        with Salvage(harmed) as salvage:
            done = salvage.header.first - 1
            for last, each in salvage.records():
                assert done == last - each.span
                messages = list(each.batch())
                assert messages == [expected[n] for n in range(done + 1, last + 1)][: len(messages)]
                assert len(messages) == each.length - each.gone
                hits += each.gone
                done = last
    assert hits < count * len(expected) / 10


def _harm(data: bytearray, chance: random.Random) -> None:
    used = len(data.rstrip(b"\0"))
    for _ in range(chance.choice([1, 5])):
        place = chance.randrange(used)
        if chance.random() < 0.5:  # the header tells what it is
            place %= HEADER_SIZE
        data[place] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        place = chance.randrange(used) // 512 * 512
        data[place : place + 512] = bytes(len(data[place : place + 512]))


def test_long_work_shows_its_progress_on_a_terminal(cli: Cli, events: Path) -> None:
    """On stderr, and it vanishes; stdout has the result alone."""
    script = (
        "import sys\n"
        "from mpsr.cli.entry import run\n"
        "from mpsr.cli.journal import progress\n"
        "progress._SHOW_AFTER = 0.0  # all work is long\n"
        "sys.exit(any(run(['journal', name, 'events.journal']) for name in sys.argv[1:]))\n"
    )
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, "verify", "stats", "salvage"],
        cwd=cli.directory,
        env={**os.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=slave,
        check=True,
    )
    os.close(slave)
    shown = Screen(master).rest()
    os.close(master)
    for work in (b"verifying ", b"counting ", b"salvaging "):
        assert b"\x1b[2K" in shown.partition(work)[2]  # the line is cleared
    assert b"\x1b" not in done.stdout
