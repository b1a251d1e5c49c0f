"""Every end has its status, three lines tell of an error, and nothing is a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
import pytest

from mpsr import errors
from mpsr.cli import types
from mpsr.cli.complaint import explained
from mpsr.cli.entry import command, run
from mpsr.cli.status import MEANINGS, CommandFailed, Interrupted, Status, status_of
from tests.cli.conftest import Cli

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = tuple(command.list_commands(click.Context(command)))


def whats(error: BaseException) -> str:
    """Return what is told of an error, first."""
    text = explained(error)
    return "" if text is None else text.what


def all_errors(kind: type[errors.MpsrError]) -> list[type[errors.MpsrError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in all_errors(child))]


def test_documented_table_is_the_table() -> None:
    """docs/cli.md lists every status, with the very words of the code."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [(int(status), meaning) for status, meaning in rows] == list(MEANINGS.items())
    assert list(MEANINGS) == list(Status)


@pytest.mark.parametrize("name", COMMANDS)
def test_documented_options_are_the_options(name: str) -> None:
    """docs/cli.md tells of every option of every command, and of no other."""
    title = {"man": "Man pages", "completion": "Completion"}.get(name, f"mpsr {name}")
    section = DOCS.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section))
    found = command.get_command(click.Context(command), name)
    assert found is not None
    commands = [found, *(found.commands.values() if isinstance(found, click.Group) else ())]
    parameters = [parameter for each in commands for parameter in each.params]
    known = {flag for p in parameters if isinstance(p, click.Option) for flag in p.opts}
    assert documented == {flag for flag in known if flag.startswith("--")}


def test_help_shows_the_table(cli: Cli) -> None:
    """`mpsr --help` shows commands and statuses, and is status 0."""
    status, out, told = cli.call("--help")
    assert (status, told) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} ".encode() in out
    for number, meaning in MEANINGS.items():
        assert f"{number:>3}  {meaning}\n".encode() in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_examples(capfd: pytest.CaptureFixture[str], name: str) -> None:
    """Examples stand before the options, each on a line of its own."""
    assert run([name, "--help"]) == 0
    text = capfd.readouterr().out
    examples, _, options = text.partition("\nOptions:\n")
    assert re.search(rf"\n  Examples:\n    mpsr {name}", examples)
    assert "--" in options


def test_version_tells_what_runs(cli: Cli) -> None:
    """The versions of mpsr and Python, and which parts in C are in use."""
    _, out, _ = cli.call("--version")
    python = ".".join(map(str, sys.version_info[:3]))
    codec, packets = (rf"{part}: (pure Python|C); " for part in ("codec", "packets"))
    direct, mask, ring, timer = (
        rf"{part}: (C|not in use); " for part in ("direct writes", "signal mask", "ring", "timer")
    )
    parts = codec + direct + mask + packets + ring + timer
    missing = "" if b"codec: C" in out else r"the C extension .+\n  why: .+\n(  try: .+\n)?"
    pattern = rf"mpsr \d+\.\d+\.\S+ \({parts}Python {re.escape(python)}\)\n{missing}"
    assert re.fullmatch(pattern, out.decode())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (errors.NoReceiver, 69),
        (errors.ReceiverBusy, 75),
        (errors.AddressInUse, 75),
        (errors.AddressDenied, 77),
        (errors.AddressOccupied, 78),
        (errors.InvalidAddress, 78),
        (errors.WrongSocketType, 78),
        (errors.AddressError, 1),
    ],
)
def test_addresses_that_fail_have_statuses(kind: type[errors.AddressError], expected: int) -> None:
    """What is wrong with an address can be told by a script."""
    error = kind("it is so", address="x")
    assert (status_of(error), whats(error)) == (expected, "it is so")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (errors.JournalInUse, 75),
        (errors.JournalDenied, 77),
        (errors.NoJournal, 78),
        (errors.NotAJournal, 78),
        (errors.NewerJournal, 78),
        (errors.JournalDamaged, 65),
        (errors.JournalFull, 74),
        (errors.JournalError, 74),
    ],
)
def test_journals_that_fail_have_statuses(kind: type[errors.JournalError], expected: int) -> None:
    """What is wrong with a journal can be told by a script."""
    error = kind("it is so", path="x")
    assert (status_of(error), whats(error)) == (expected, "it is so")


@pytest.mark.parametrize(
    ("error", "expected", "line"),
    [
        (errors.ConfigurationError("no"), 78, "no"),
        (errors.MessageTooLarge("no"), 65, "no"),
        (errors.UnframeableMessage("no"), 65, "no"),
        (errors.TimedOut("no"), 124, "no"),
        (errors.SendTimedOut("no"), 124, "no"),
        (errors.BufferFull("no"), 75, "no"),
        (errors.Closed("no"), 1, "no"),
        (errors.Rejected("no", code=1), 1, "no"),
        (CommandFailed(Status.IO, "no"), 74, "no"),
        (CommandFailed(Status.STDOUT_CLOSED), 141, ""),
        (BrokenPipeError(), 141, ""),
        (
            OSError(28, "No space left on device"),
            74,
            "input or output failed",
        ),
        (KeyboardInterrupt(), 130, ""),
        (Interrupted(signal.SIGTERM), 143, ""),
        (click.UsageError("No such thing."), 2, "No such thing"),
    ],
)
def test_errors_have_statuses(error: BaseException, expected: int, line: str) -> None:
    """Each end has its number, and a line where there is something to say."""
    assert (status_of(error), whats(error)) == (expected, line)


def test_no_error_of_mpsr_is_a_defect() -> None:
    """Every exception of the tree is told in its own words."""
    for kind in all_errors(errors.MpsrError):
        error = kind.__new__(kind)
        error.args = ("its own words",)
        text = explained(error)
        assert text is not None
        assert (text.what, text.why) == ("its own words", "")


@pytest.mark.parametrize("debug", [False, True])
def test_unforeseen_error_is_three_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], debug: bool
) -> None:
    """A defect is named as one, with status 1; MPSR_DEBUG=1 alone shows a traceback."""

    def fail(_: click.Context) -> NoReturn:
        raise ZeroDivisionError("on\nno account")

    monkeypatch.setattr(command, "invoke", fail)
    monkeypatch.setenv("MPSR_DEBUG", "1" if debug else "")
    assert run([]) == 1
    told = capfd.readouterr().err
    assert told.endswith(
        "mpsr: internal error: ZeroDivisionError: on\\nno account\n"
        "  why: this is a bug in mpsr\n"
        "  try: report it with the traceback, which MPSR_DEBUG=1 prints\n"
    )
    assert ("Traceback" in told) is debug
    assert debug or told.count("\n") == 3


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["recv"], ["send", "--framing", "auto", "x"], ["--nonsense"]]
)
def test_usage_errors_have_at_least_two_lines(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Status 2, what is wrong, and the cause or what to try; nothing on stdout."""
    assert run(arguments) == 2
    out, told = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"mpsr: .+\n(  (why|try): .+\n)+", told)


def test_foreign_text_cannot_command_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Control characters in an address are shown escaped, on the same line."""
    assert run(["recv", "no\x1b[31m/such\nplace"]) == 78
    told = capfd.readouterr().err
    assert "no\\x1b[31m/such\\nplace" in told
    assert told.count("\n") == 3


def test_help_ends_quietly_with_its_reader(cli: Cli) -> None:
    """A closed stdout is status 141 and no complaint, even at Python's own flush at exit."""
    reader, writer = os.pipe()
    os.close(reader)
    status, _, told = cli.run("--help", stdout=writer)
    os.close(writer)
    assert (status, told) == (141, "")


def test_help_tells_of_a_full_disk(cli: Cli) -> None:
    """ENOSPC is told, with status 74, even at Python's own flush at exit."""
    with Path("/dev/full").open("wb") as full:
        status, _, told = cli.run("--help", stdout=full)
    assert status == 74
    assert told == "mpsr: input or output failed\n  why: No space left on device\n"


def test_shells_can_complete(cli: Cli) -> None:
    """The script for bash is there, and it completes commands."""
    _, script, _ = cli.call(env={"_MPSR_COMPLETE": "bash_source"})
    assert b"complete -o nosort -F" in script
    words = {"_MPSR_COMPLETE": "bash_complete", "COMP_WORDS": "mpsr re", "COMP_CWORD": "1"}
    _, found, _ = cli.call(env=words)
    assert found.startswith(b"plain,recv\n")


def test_help_imports_no_command(cli: Cli) -> None:
    """What `mpsr --help` lists it does not load, nor what only an error needs."""
    script = (
        "import sys; from mpsr.cli.entry import run; run(['--help']); run([]); "
        "print(sorted(name for name in sys.modules if name.startswith('mpsr.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = done.stderr.decode()
    commands = {f"mpsr.cli.{name}" for name in COMMANDS if name != "status"} | {"mpsr.cli.look"}
    unwanted = (*sorted(commands), "mpsr.sync", "mpsr.engine", "mpsr.wire")
    assert [name for name in unwanted if f"'{name}" in loaded] == []


def test_newcomer_is_told_what_to_try(cli: Cli) -> None:
    """`mpsr` alone fits on a screen, and names commands that there are."""
    status, out, told = cli.call()
    assert (status, told) == (0, "")
    assert len(out.splitlines()) <= 16
    named = set(re.findall(r"mpsr ([a-z]+)\b", out.decode())) - {"sends"}
    assert {"recv", "send", "demo"} <= named <= set(COMMANDS)


def test_starting_imports_nothing_heavy(cli: Cli) -> None:
    """What `mpsr recv` does not need is not loaded, so that it starts at once."""
    script = (
        "import sys, mpsr.cli.entry, mpsr.cli.recv; "
        "print('mpsr.engine.sending.link' in sys.modules); "
        "import mpsr.cli.send; "
        "heavy = {'rich', 'anyio', 'asyncio', 'multiprocessing', 'textual', 'prometheus_client', "
        "'difflib', 'http', 'subprocess'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"False\n[]\n"


# -- what options take ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5s", 5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5), (".5", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """Plain numbers are seconds."""
    assert types.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "5 s", "1e3", "nan", "inf", "5d", "\u0665", "1000h"]
)
def test_what_is_no_duration(text: str) -> None:
    """Nothing is guessed, and nothing overflows poll(2)."""
    with pytest.raises(click.BadParameter):
        types.duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("64K", 65536), ("16M", 16 << 20), ("1G", 1 << 30), ("2k", 2048), ("1KiB", 1024)],
)
def test_sizes(text: str, expected: int) -> None:
    """Units are powers of 1,024."""
    assert types.size(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5K", "K", "1T", "1 K", "4G"])
def test_what_is_no_size(text: str) -> None:
    """A size is a whole number above zero that the wire can carry."""
    with pytest.raises(click.BadParameter):
        types.size(text)


def test_moments() -> None:
    """A time is what ISO 8601 or a word says, here unless it says where, or so long ago."""
    second = 1_000_000
    assert types.moment("1970-01-01T00:00:01.5+00:00") == 1_500_000
    assert types.moment("1970-01-01 01:00:01Z") == 3601 * second
    now = types.moment("now")
    assert 0 <= types.moment("-1h") + 3600 * second - now < 60 * second
    assert types.moment("-1.5d") < types.moment("-90m") < types.moment("-500ms")
    assert types.moment("yesterday") < types.moment("today") <= now
    assert types.moment("today") == types.moment("00:00")
    assert types.moment("2026-03-01") == types.moment("2026-03-01 00:00:00")


@pytest.mark.parametrize(
    "text", ["", "soon", "1h", "-1", "-1w", "-9e9h", f"-{'9' * 30}d", "2026-13-01", "25:00"]
)
def test_what_is_no_moment(text: str) -> None:
    """Nothing is guessed, and nothing overflows."""
    with pytest.raises(click.BadParameter):
        types.moment(text)


@pytest.mark.parametrize("text", ["660", "0660", "0o660"])
def test_modes(text: str) -> None:
    """A mode is octal however it is written."""
    assert types.mode(text) == 0o660


@pytest.mark.parametrize("text", ["", "668", "1660", "u+w", "-1", "0x1b0"])
def test_what_is_no_mode(text: str) -> None:
    """Permissions and nothing else."""
    with pytest.raises(click.BadParameter):
        types.mode(text)
