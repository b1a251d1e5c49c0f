"""What `mpsr log` prints of a journal, and which."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from mpsr import Producer, Receiver
from mpsr.batch import UNKNOWN_PEER
from mpsr.cli.entry import run
from mpsr.limits import MIB, MIN_JOURNAL_LIMIT
from mpsr.store.journal import Journal
from mpsr.store.records import HEADER_SIZE, Entry
from tests.cli.conftest import Cli, Running
from tests.cli.journals import CRON, damage, entry, make, segments

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
    path = cli.directory / "events.journal"
    make(path, ENTRIES)
    return path


def lines(cli: Cli, *arguments: str) -> list[str]:
    """Return the lines that it prints."""
    status, out, told = cli.call("log", "events.journal", *arguments, env=UTC)
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
    assert cli.run("log", "events.journal", "-o", "text") == (0, b"\n".join([*BODIES, b""]), "")


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
        cli.directory / "events.journal",
        [entry(*(b"%d" % next(numbers) for _ in range(size))) for size in sizes],
    )
    forwards = lines(cli, "-o", "text")
    assert forwards == [str(n) for n in range(sum(sizes))]
    assert lines(cli, "-o", "text", "-r") == forwards[::-1]
    assert lines(cli, "-o", "text", "-n", "5100") == forwards[-5100:]


def test_trimmed_messages_are_gone_and_gone_ones_are_told(cli: Cli) -> None:
    """It begins where the journal does; what damage took stands there as lost."""
    path = cli.directory / "events.journal"
    with Journal(path) as journal:
        journal.append([entry(b"old")])
        journal.cursor("reader")
        journal.move("reader", 1)
        assert journal.trim()
        journal.append([Entry(b"", 3, 0), entry(b"new")])
    assert lines(cli) == [
        "- -[?]: -- 3 messages lost --",
        "2026-03-01T12:00:00.000000+00:00 web[12]: new",
    ]
    assert json.loads(lines(cli, "-o", "json")[0])["time"] is None
    backwards = [json.loads(line) for line in lines(cli, "-o", "json", "-r")]
    assert backwards[0]["body"] == "new"
    assert sum(each["lost"] for each in backwards[1:]) == 3


@pytest.mark.parametrize("arguments", [[], ["-n", "9"]])
def test_journal_in_use_is_read(cli: Cli, events: Path, arguments: list[str]) -> None:
    """All that its owner has written so far; and the owner goes on."""
    with Journal(events) as journal:
        journal.append([entry(b"seven")])
        bodies = [line.partition(": ")[2] for line in lines(cli, *arguments)]
        assert bodies[-2:] == ["six", "seven"]
        assert journal.append([entry(b"eight")]) == [9]


def test_what_comes_before_damage_is_printed(cli: Cli, events: Path) -> None:
    """Then three lines, and status 65."""
    damage(events, b"three")
    status, out, told = cli.call("log", "events.journal", "-o", "text")
    assert (status, out) == (65, b"one\ntwo\n\xff\n")
    assert told.count("\n") == 3
    assert "position 3 cannot be read" in told


@pytest.mark.parametrize("arguments", [[], ["-f"], ["-r"], ["-n", "1"]])
@pytest.mark.parametrize("size", [0, 40, 900])
def test_missing_end_is_told(cli: Cli, events: Path, size: int, arguments: list[str]) -> None:
    """Three lines and status 65: what is not there any more is not passed over."""
    os.truncate(segments(events)[-1], size)
    status, _, told = cli.call("log", "events.journal", "-o", "text", *arguments)
    assert (status, told.count("\n")) == (65, 3)
    assert "is damaged" in told


@pytest.mark.parametrize("arguments", [[], ["-f"], ["-r"]])
def test_what_is_no_journal_is_left_alone(cli: Cli, arguments: list[str]) -> None:
    """Missing or foreign: status 78, and nothing is made beside it."""
    (cli.directory / "other.txt").write_bytes(b"something else " * 10)
    for name in ("missing.journal", "other.txt", "no/where.journal", "."):
        status, out, told = cli.call("log", name, *arguments)
        assert (status, out, told.count("\n")) == (78, b"", 3)
    assert os.listdir(cli.directory) == ["other.txt"]


@pytest.mark.parametrize("arguments", [[], ["-f"], ["-r"]])
def test_journal_of_a_later_version_is_left_alone(
    cli: Cli, events: Path, arguments: list[str]
) -> None:
    """Status 78, and which version it is of."""
    (segment,) = segments(events)
    data = bytearray(segment.read_bytes())
    data[8:10], data[12:16] = b"\2\0", bytes(4)
    data[12:16] = crc32(data[:HEADER_SIZE]).to_bytes(4, "little")
    segment.write_bytes(data)
    status, out, told = cli.call("log", "events.journal", *arguments)
    assert (status, out, told.count("\n")) == (78, b"", 3)
    assert "a later version of mpsr wrote it (format 2, this one knows 1)" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_journal_of_another_user_is_denied(cli: Cli, events: Path) -> None:
    """Status 77, and three lines."""
    script = (
        "import os, sys\n"
        "from mpsr.cli.entry import run\n"
        "run(['log', 'missing'])  # imports everything, as long as it may\n"
        "os.setuid(65534)\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "log", str(events)],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (77, b"", 6)
    assert b"Permission denied" in done.stderr


def test_reader_that_leaves_ends_it(cli: Cli) -> None:
    """`mpsr log … | head -1` ends with status 141, and the journal is free again."""
    path = cli.directory / "events.journal"
    make(path, [entry(*[b"x" * 1000] * 200) for _ in range(10)])
    running = cli.start("log", "events.journal")
    assert running.read_line().endswith(b"x\n")
    assert running.popen.stdout is not None
    running.popen.stdout.close()
    running.popen.stdout = None
    assert running.finish()[::2] == (141, "")
    Journal(path).close()


def test_what_is_trimmed_while_it_reads_is_told(cli: Cli) -> None:
    """It tells which positions, on one line, and goes on behind them."""
    path = cli.directory / "events.journal"
    bodies = [b"%d:" % n + b"x" * 50_000 for n in range(1, 100)]
    make(path, [entry(body) for body in bodies], limit=8 * MIB, reader=0)
    running = cli.start("log", "events.journal", "-o", "text")
    begun = running.read_line()  # the pipe is full before the next segment
    with Journal(path, limit=8 * MIB) as journal:
        journal.move("reader", 90)
        assert journal.trim()
        trimmed = journal.trimmed
    assert 50 < trimmed <= 90
    status, out, told = running.finish()
    found = [int(line.partition(b":")[0]) for line in (begun + out).splitlines()]
    line = r"mpsr: positions (\d+) to (\d+) were trimmed while they were read\n"
    match = re.fullmatch(line, told)
    assert match is not None, told
    first, last = int(match[1]), int(match[2])
    assert (status, last) == (0, trimmed)
    assert found == [*range(1, first), *range(last + 1, 100)]


# -- following ----------------------------------------------------------------------------------


def follow(cli: Cli, *arguments: str) -> Running:
    """Start to follow the messages of a journal."""
    return cli.start("log", "events.journal", "-f", "-o", "text", *arguments)


def read(running: Running, size: int) -> bytes:
    """Return so many bytes of its stdout, fewer at its end."""
    assert running.popen.stdout is not None
    data = bytearray()
    while more := running.popen.stdout.read(size - len(data)):
        data += more
    return bytes(data)


def test_follower_prints_what_a_live_receiver_gets(cli: Cli) -> None:
    """In order, and once, through segments that begin and go; the receiver is not disturbed."""
    path = cli.directory / "events.journal"
    with (
        Receiver(cli.address, journal=path, journal_limit=MIN_JOURNAL_LIMIT) as receiver,
        Producer(cli.address) as producer,
    ):
        running = follow(cli)
        first = segments(path)[0]
        for number in range(24):
            body = b"%d:" % number + b"x" * 100_000
            producer.send(body)
            assert receiver.receive(30) == body
            assert read(running, len(body) + 1) == body + b"\n"
        assert not first.exists()
    assert running.finish(signal.SIGINT) == (130, b"", "")


def test_follower_begins_with_the_last_ones(cli: Cli, events: Path) -> None:
    """As many as are wanted, of what is there; then what comes."""
    some, none = follow(cli, "-n", "2"), follow(cli, "-n", "0", "--producer", "web")
    output = none.popen.stdout
    assert output is not None
    assert [some.read_line() for _ in range(2)] == [b"five\n", b"six\n"]
    with Journal(events) as journal:
        journal.append([entry(b"other", producer=CRON), entry(b"seven")])
        assert [some.read_line() for _ in range(2)] == [b"other\n", b"seven\n"]
        number = 0
        while not select.select([output], [], [], 0.05)[0]:
            number += 1  # it may not have begun to follow
            journal.append([entry(b"other", producer=CRON), entry(b"%d" % number)])
        assert none.read_line() in {b"seven\n", *(b"%d\n" % n for n in range(1, number + 1))}
    assert none.finish(signal.SIGTERM)[0] == 143
    assert some.finish(signal.SIGINT)[::2] == (130, "")


def test_following_backwards_makes_no_sense(cli: Cli, events: Path) -> None:
    """Status 2."""
    status, out, told = cli.call("log", "events.journal", "-f", "-r")
    assert (status, out, told.count("\n")) == (2, b"", 3)


def test_follower_ends_once_nobody_reads(cli: Cli, events: Path) -> None:
    """Status 141, though nothing comes that could be written."""
    running = follow(cli)
    assert running.read_line() == b"one\n"
    assert running.popen.stdout is not None
    running.popen.stdout.close()
    running.popen.stdout = None
    assert running.finish()[::2] == (141, "")


@pytest.mark.parametrize("how", ["moved", "removed", "replaced", "emptied"])
def test_follower_of_a_journal_that_goes_away_tells(cli: Cli, events: Path, how: str) -> None:
    """Status 78, and three lines; what is in its place now is not taken for it."""
    running = follow(cli, "-n", "1")
    assert running.read_line() == b"six\n"
    if how == "removed":
        shutil.rmtree(events)
    elif how == "emptied":
        for file in events.iterdir():
            file.unlink()
    else:
        events.rename(cli.directory / "aside.journal")
    if how == "replaced":
        make(events, ENTRIES * 2)
    status, out, told = running.finish()
    assert (status, out, told.count("\n")) == (78, b"", 3)
    assert "\n  why: it was moved or removed while it was followed\n" in told


def test_follower_prints_what_comes_before_damage(cli: Cli, events: Path) -> None:
    """Then three lines, and status 65."""
    damage(events, b"three")
    running = follow(cli)
    status, out, told = running.finish()
    assert (status, out, told.count("\n")) == (65, b"one\ntwo\n\xff\n", 3)


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_receiver_starts_at_once_while_many_follow(cli: Cli, events: Path, count: int) -> None:
    """Followers that come and go neither refuse it nor are refused."""
    followers = [follow(cli) for _ in range(count)]
    running = cli.recv("--journal", "events.journal", stdout=subprocess.DEVNULL)
    followers += [follow(cli) for _ in range(count)]
    for follower in followers[::2]:
        follower.kill(signal.SIGKILL)
    assert cli.call("send", "app.sock", "seven")[0] == 0
    for follower in followers[1::2]:
        for body in [b"one", b"two", b"\xff", *BODIES[2:], b"seven"]:
            assert follower.read_line() == body + b"\n"
        assert follower.finish(signal.SIGINT) == (130, b"", "")
    assert running.finish(signal.SIGINT)[0] == 0
    assert "received 7 messages" in running.told


def test_much_is_printed_in_no_time(cli: Cli) -> None:
    """Many short messages, the text of each as it was."""
    each, count = 10_000, 200_000
    batches = [entry(*(b"%d" % n for n in range(at, at + each))) for at in range(0, count, each)]
    make(cli.directory / "events.journal", batches)
    out = cli.call("log", "events.journal", "-o", "text")[1]
    assert out == b"".join(b"%d\n" % n for n in range(count))


RECORDS = [
    entry(b'{"level":"INFO","message":"first"}', b'{"level":"ERROR","message":"second"}'),
    entry(b'{"level":"DEBUG","message":"third"}', producer=CRON, lost=2, seconds=1),
    entry(b"plain", b'{"level":"INFO","message":"fourth"}', b'{"level":"WARNING","message":"5th"}'),
]


@pytest.fixture
def records(cli: Cli) -> None:
    """Give a journal of log records."""
    make(cli.directory / "events.journal", RECORDS)


@pytest.mark.usefixtures("records")
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["first", "second", "2 messages lost --", "third", "plain", "fourth", "5th"]),
        (["--level", "INFO"], ["first", "second", "2 messages lost --", "plain", "fourth", "5th"]),
        (["--level", "ERROR"], ["second", "2 messages lost --", "plain"]),
        (["--level", "WARNING", "-n", "2"], ["plain", "5th"]),
        (["--level", "WARNING", "-n", "3", "-r"], ["5th", "plain", "2 messages lost --"]),
    ],
)
def test_records_are_shown_as_people_read_them(
    cli: Cli, options: list[str], shown: list[str]
) -> None:
    """As ``recv`` shows them; a level counts before ``-n``, and hides no loss."""
    printed = lines(cli, "--decode", "log", *options)
    assert len(printed) == len(shown)
    for line, end in zip(printed, shown, strict=True):
        assert line.endswith(end)


@pytest.mark.usefixtures("records")
def test_fields_of_records_stand_beside_their_messages(cli: Cli) -> None:
    """Each with its own position, whatever is left out before it."""
    printed = [*map(json.loads, lines(cli, "--decode", "log", "--level", "30", "-o", "json"))]
    assert [each["position"] for each in printed] == [2, 3, 4, 6]
    assert [each.get("log", {}).get("message") for each in printed] == ["second", None, None, "5th"]
    assert printed[1]["lost"] == 2


def test_fields_of_syslog_messages_stand_beside_them(cli: Cli) -> None:
    """As ``recv`` adds them."""
    make(cli.directory / "events.journal", [entry(b"<13>Feb  5 17:32:18 host su: hello")])
    (printed,) = map(json.loads, lines(cli, "--decode", "syslog", "-o", "json"))
    assert printed["syslog"]["severity"] == "notice"


@pytest.mark.parametrize("options", [["--decode", "log", "-o", "text"], ["--level", "INFO"]])
def test_decoder_that_shows_nothing_is_refused(cli: Cli, events: Path, options: list[str]) -> None:
    """Before anything is printed."""
    assert cli.call("log", str(events), *options)[0] == 2
