"""What `mpsr log` prints of a journal, and which."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mpsr.batch import UNKNOWN_PEER
from mpsr.cli.entry import run
from mpsr.journal import Entry, Journal
from tests.cli.conftest import Cli
from tests.cli.journals import CRON, damage, entry, make

ENTRIES = [
    entry(b"one", b"two\n\xff", seq=1),
    entry(b"three", producer=None, peer=UNKNOWN_PEER._replace(uid=0), seconds=60),
    entry(producer=CRON, lost=5, seconds=120.5),
    entry(b"four", b"five", b"six", producer=CRON, lost=1, seq=9, seconds=3600),
]
BODIES = [b"one", b"two\n\xff", b"three", b"four", b"five", b"six"]
UTC = {"TZ": "UTC0"}


@pytest.fixture
def events(cli: Cli) -> Path:
    """Give a journal of a few batches."""
    path = cli.directory / "events.db"
    make(path, ENTRIES)
    return path


def lines(cli: Cli, *arguments: str) -> list[str]:
    """Return the lines that it prints."""
    status, out, told = cli.run("log", "events.db", *arguments, env=UTC)
    assert (status, told) == (0, "")
    return out.decode().splitlines()


def test_text_tells_when_and_who(cli: Cli, events: Path) -> None:
    """A line a message, which nothing that others wrote can break or command."""
    assert lines(cli) == [
        "2026-03-01T12:00:00.000000+00:00 web[12]: one",
        "2026-03-01T12:00:00.000000+00:00 web[12]: two\\n\\xff",
        "2026-03-01T12:01:00.000000+00:00 -[?]: three",
        "2026-03-01T12:02:00.500000+00:00 cron\\x1b[1m[12]: -- 5 messages lost --",
        "2026-03-01T13:00:00.000000+00:00 cron\\x1b[1m[12]: -- 1 message lost --",
        "2026-03-01T13:00:00.000000+00:00 cron\\x1b[1m[12]: four",
        "2026-03-01T13:00:00.000000+00:00 cron\\x1b[1m[12]: five",
        "2026-03-01T13:00:00.000000+00:00 cron\\x1b[1m[12]: six",
    ]


def test_json_tells_all(cli: Cli, events: Path) -> None:
    """An object a position, as `mpsr recv` prints it, and the position."""
    found = [json.loads(line) for line in lines(cli, "-o", "json")]
    assert [each["position"] for each in found] == [1, 2, 3, 4, 5, 6, 7]
    assert found[0] == {
        "position": 1,
        "time": "2026-03-01T12:00:00.000000+00:00",
        "peer": {"pid": 12, "uid": 34, "gid": 56},
        "producer": {"id": "000102030405060708090a0b0c0d0e0f", "label": "web"},
        "seq": 1,
        "body": "one",
    }
    assert found[1]["body_b64"] == "dHdvCv8="
    assert (found[2]["producer"], found[2]["peer"]["pid"]) == (None, None)
    assert found[3]["lost"] == 5
    assert "body" not in found[3]
    assert [(each["seq"], each.get("lost")) for each in found[4:]] == [
        (9, 1),
        (10, None),
        (11, None),
    ]


def test_cat_prints_bytes_untouched(cli: Cli, events: Path) -> None:
    """Nothing but the messages, each with a newline behind it."""
    assert cli.run("log", "events.db", "-o", "text") == (0, b"\n".join([*BODIES, b""]), "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n", "2"], ["five", "six"]),
        (["-n", "0"], []),
        (["-n", "99", "--producer", "web"], ["one", "two\n\ufffd"]),
        (["-r"], ["six", "five", "four", "three", "two\n\ufffd", "one"]),
        (["-r", "-n", "2"], ["six", "five"]),
        (["--producer", "10111213"], ["four", "five", "six"]),
        (["--producer", "1011"], []),
        (["--producer", "web", "--producer", "cron\x1b[1m", "-n", "3"], ["four", "five", "six"]),
        (["--uid", "root"], ["three"]),
        (["--uid", "34", "-n", "1"], ["six"]),
        (["--since", "2026-03-01T12:01Z"], ["three", "four", "five", "six"]),
        (["--until", "2026-03-01T12:01Z"], ["one", "two\n\ufffd", "three"]),
        (["--since", "2026-03-01T12:00:01Z", "--until", "2026-03-01T12:59Z"], ["three"]),
        (["--until", "2026-03-01T12:59Z", "-n", "1"], ["three"]),
        (["--since", "-1s"], []),
    ],
)
def test_options_choose(
    events: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    arguments: list[str],
    expected: list[str],
) -> None:
    """The last ones, the newest first, or those of a time, a producer, a user."""
    assert run(["log", str(events), "-o", "text", *arguments]) == 0
    out, told = capfdbinary.readouterr()
    assert out.decode(errors="replace") == "".join(f"{each}\n" for each in expected)
    assert told == b""


def test_backwards_is_forwards_reversed(cli: Cli) -> None:
    """Batches of all sizes are read in pieces, and every message comes once."""
    sizes = [1, 700, 3, 5_000, 1, 1, 40]
    numbers = iter(range(10_000))
    make(
        cli.directory / "events.db",
        [entry(*(b"%d" % next(numbers) for _ in range(size))) for size in sizes],
    )
    forwards = lines(cli, "-o", "text")
    assert forwards == [str(n) for n in range(sum(sizes))]
    assert lines(cli, "-o", "text", "-r") == forwards[::-1]
    assert lines(cli, "-o", "text", "-n", "5100") == forwards[-5100:]


def test_trimmed_messages_are_gone_and_gone_ones_are_told(cli: Cli) -> None:
    """It begins where the journal does; what damage took stands there as lost."""
    path = cli.directory / "events.db"
    with Journal(path) as journal:
        journal.append([entry(b"old"), Entry(b"", 3, 0), entry(b"new")])
        journal.cursor("reader")
        journal.move("reader", 1)
    assert lines(cli) == [
        "- -[?]: -- 3 messages lost --",
        "2026-03-01T12:00:00.000000+00:00 web[12]: new",
    ]
    assert json.loads(lines(cli, "-o", "json")[0])["time"] is None
    backwards = [json.loads(line) for line in lines(cli, "-o", "json", "-r")]
    assert backwards[0]["body"] == "new"
    assert sum(each["lost"] for each in backwards[1:]) == 3


def test_journal_in_use_is_named_with_its_process(cli: Cli, events: Path) -> None:
    """Status 75, and the process that holds it."""
    with Journal(events):
        status, out, told = cli.run("log", "events.db")
    assert (status, out) == (75, b"")
    assert f"process {os.getpid()} has it open" in told


def test_what_comes_before_damage_is_printed(cli: Cli, events: Path) -> None:
    """Then one line, and status 65."""
    damage(events, b"three")
    status, out, told = cli.run("log", "events.db", "-o", "text")
    assert (status, out) == (65, b"one\ntwo\n\xff\n")
    assert told.count("\n") == 1
    assert "position 3 cannot be read" in told


def test_what_is_no_journal_is_left_alone(cli: Cli) -> None:
    """Missing or foreign: status 78, and nothing is made beside it."""
    (cli.directory / "other.txt").write_bytes(b"something else " * 10)
    for name in ("missing.db", "other.txt", "no/where.db"):
        status, out, told = cli.run("log", name)
        assert (status, out, told.count("\n")) == (78, b"", 1)
    assert os.listdir(cli.directory) == ["other.txt"]


def test_reader_that_leaves_ends_it(cli: Cli) -> None:
    """`mpsr log … | head -1` ends with status 141, and the journal is free again."""
    path = cli.directory / "events.db"
    make(path, [entry(*[b"x" * 1000] * 200) for _ in range(10)])
    running = cli.start("log", "events.db")
    assert running.read_line().endswith(b"x\n")
    assert running.popen.stdout is not None
    running.popen.stdout.close()
    running.popen.stdout = None
    assert running.finish()[::2] == (141, "")
    Journal(path).close()
