"""Commands that read a journal while its receiver trims it, or after another took its path."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpsr import Producer
from mpsr.limits import MIB
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.recovery import Recovery
from tests.cli.conftest import PATIENCE, Cli, Running
from tests.cli.journals import entry, make, segments
from tests.traffic import receiving

LIMIT = 24 * MIB  # bytes of a journal: an eighth is a segment, of which a survey reads 2 MiB
SIZE = 900_000  # bytes of a message: three fill a segment
COUNT = 9  # messages that the journal has when a command begins
STOPPING = """
import importlib, os, signal, sys

from mpsr.cli import main

module, *names, name = sys.argv.pop(1).split(".")
owner = importlib.import_module(module.replace("/", "."))
for each in names:
    owner = getattr(owner, each)
function = getattr(owner, name)


def stopping(*arguments, **options):
    setattr(owner, name, function)
    os.kill(os.getpid(), signal.SIGSTOP)
    return function(*arguments, **options)


setattr(owner, name, stopping)
main()
"""


def start_stopped(cli: Cli, before: str, *arguments: str) -> Running:
    """Start a command; return once it has stopped itself where it first calls a function."""
    command = [sys.executable, "-W", "error", "-c", STOPPING, before, *arguments]
    pipe = subprocess.PIPE
    popen = subprocess.Popen(
        command, bufsize=0, cwd=cli.directory, start_new_session=True, stdout=pipe, stderr=pipe
    )
    cli.started.append(Running(popen))
    _, status = os.waitpid(popen.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), popen.communicate()
    return cli.started[-1]


@pytest.fixture
def send(cli: Cli) -> Iterator[Callable[[], None]]:
    """Have a receiver with a journal of COUNT messages; give a function that adds another."""
    journal = cli.directory / "events.journal"
    with (
        receiving(cli.address, journal=journal, journal_limit=LIMIT),
        Producer[bytes](cli.address) as producer,
    ):

        def send_one() -> None:
            producer.send(b"x" * SIZE)
            producer.flush(PATIENCE)

        for _ in range(COUNT):
            send_one()
        yield send_one


def trim(send: Callable[[], None], path: Path, count: int) -> int:
    """Send until the first ``count`` segments are trimmed; return how far the journal is trimmed.

    The last of them is the newest segment by then.
    """
    last = segments(path)[count - 1]
    file = last.stat().st_ino
    while last.exists() or segments(path)[-1].stat().st_ino != file:
        send()
    send()
    send()
    return int(segments(path)[0].stem) - 1


def state_of(path: Path) -> Recovery:
    with Reader(path) as reader:
        return reader.recover()


@pytest.mark.parametrize("count", [1, 3])
def test_positions_trimmed_during_verify_are_not_missing(
    cli: Cli, send: Callable[[], None], count: int
) -> None:
    """Status 0 and a note on stderr, whether the receiver has trimmed some of them or all."""
    path = cli.directory / "events.journal"
    running = start_stopped(
        cli, "mpsr/store/salvage.Salvage.records", "journal", "verify", path.name
    )
    trimmed = trim(send, path, count)
    status, out, told = running.finish(signal.SIGCONT)
    assert status == 0, told
    assert out.startswith(b"events.journal is whole: ")
    assert b"missing" not in out
    lines = told.splitlines()
    assert lines
    for line in lines:
        assert line.startswith("mpsr: position")
        assert " trimmed while " in line
    first = out.partition(b"positions ")[2].partition(b" ")[0]
    assert not first or int(first) <= trimmed + 1


@pytest.mark.parametrize("count", [1, 3])
def test_salvaged_copy_begins_after_positions_trimmed_meanwhile(
    cli: Cli, send: Callable[[], None], count: int
) -> None:
    """It has no gap, ends where the journal ended, and no cursor in it is before its first."""
    path = cli.directory / "events.journal"
    before = state_of(path).state
    running = start_stopped(
        cli, "mpsr/store/salvage.Salvage.records", "journal", "salvage", path.name
    )
    trim(send, path, count)
    status, out, told = running.finish(signal.SIGCONT)
    assert status == 0, told
    assert all(" trimmed while " in line for line in told.splitlines())
    copy = cli.directory / "events.journal.salvaged"
    with Journal(copy) as journal, journal.reader() as reader:
        assert 0 < journal.trimmed <= journal.last == before.last == COUNT
        assert journal.trimmed <= journal.cursors()["main"]
        position = journal.trimmed
        while records := reader.read(position):
            for record in records:
                assert not record.entry.gone
                assert record.position == position + 1
                position = record.position
        assert position == journal.last
        saved = journal.last - journal.trimmed
    assert out.startswith(b"saved %d message" % saved)
    status, out, told = cli.call("journal", "verify", copy.name)
    assert (status, told) == (0, "")
    assert b"missing" not in out


def test_damage_is_missing_even_if_earlier_positions_are_trimmed_meanwhile(
    cli: Cli, send: Callable[[], None]
) -> None:
    """Status 65, and only the damaged position."""
    path = cli.directory / "events.journal"
    *_, segment, _ = segments(path)
    position = int(segment.stem) + 2
    data = bytearray(segment.read_bytes())
    data[data.rindex(b"xxx", 0, 3 * SIZE)] ^= 1
    segment.write_bytes(data)
    running = start_stopped(
        cli, "mpsr/store/salvage.Salvage.records", "journal", "verify", path.name
    )
    trim(send, path, 1)
    assert segment.exists()
    status, _, told = running.finish(signal.SIGCONT)
    assert status == 65, told
    assert f"1 position missing: {position}\n" in told


def test_stats_count_the_positions_that_were_not_trimmed_meanwhile(
    cli: Cli, send: Callable[[], None]
) -> None:
    """Status 0; the positions on stderr and the counted messages are all that there were."""
    path = cli.directory / "events.journal"
    running = start_stopped(
        cli, "mpsr/store/reader.Reader.read", "journal", "stats", "--json", path.name
    )
    trimmed = trim(send, path, 2)
    status, out, told = running.finish(signal.SIGCONT)
    assert (status, told) == (
        0,
        f"mpsr: positions 1 to {trimmed} were trimmed while they were read\n",
    )
    assert json.loads(out)["messages"] == COUNT - trimmed


def test_stats_report_it_if_all_was_trimmed_meanwhile(cli: Cli) -> None:
    """Status 0, no messages, and on stderr all their positions."""
    path = cli.directory / "events.journal"
    make(path, [entry(b"one"), entry(b"two")], reader=2)
    running = start_stopped(
        cli, "mpsr/store/reader.Reader.read", "journal", "stats", "--json", path.name
    )
    with Journal(path) as journal:
        assert journal.trim()
        status, out, told = running.finish(signal.SIGCONT)
    assert (status, told) == (0, "mpsr: positions 1 to 2 were trimmed while they were read\n")
    assert json.loads(out)["messages"] == 0


@pytest.mark.parametrize("before", ["mpsr/cli/log._follow", "mpsr/store/reader.Reader.read"])
def test_follower_reports_a_replaced_journal_however_early_it_was_replaced(
    cli: Cli, before: str
) -> None:
    """Status 78, even if that happened before it first looked for new messages."""
    path = cli.directory / "events.journal"
    make(path, [entry(b"one"), entry(b"two")])
    running = start_stopped(cli, before, "log", path.name, "-f", "-o", "text")
    path.rename(cli.directory / "aside.journal")
    make(path, [entry(b"three"), entry(b"four"), entry(b"five")])
    status, out, told = running.finish(signal.SIGCONT)
    assert status == 78, told
    assert b"five" not in out
    assert len(told.splitlines()) == 3


@pytest.mark.parametrize("name", ["stats", "verify"])
def test_journal_that_was_replaced_meanwhile_is_not_called_damaged(cli: Cli, name: str) -> None:
    """Status 78, or 0 where everything could still be read from the open files."""
    path = cli.directory / "events.journal"
    make(path, [entry(b"one"), entry(b"two")])
    before = {
        "stats": "mpsr/store/reader.Reader.read",
        "verify": "mpsr/store/salvage.Salvage.records",
    }
    running = start_stopped(cli, before[name], "journal", name, path.name)
    shutil.rmtree(path)
    make(path, [entry(b"three")])
    status, out, told = running.finish(signal.SIGCONT)
    if name == "verify":
        assert (status, told) == (0, "")
        assert b"2 messages" in out
    else:
        assert (status, out, len(told.splitlines())) == (78, b"", 3)
        assert "it was replaced while it was read" in told
