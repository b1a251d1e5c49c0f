"""Every option is also a variable of the environment."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from mpsr.cli.common import children, variables
from mpsr.cli.entry import command, run
from tests.cli.conftest import Cli

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def all_commands(of: click.Command) -> list[click.Command]:
    return [each for child in children(of) for each in (child, *all_commands(child))]


def test_every_option_has_a_variable_of_its_name() -> None:
    """MPSR_, the command and the option; no two are the same, and none is another's."""
    named: list[str] = []
    for each in all_commands(command):
        options = [found for found in each.params if isinstance(found, click.Option)]
        found = dict(variables(each))
        assert list(found.values()) == options
        for variable, option in found.items():
            flag = max(option.opts, key=len)
            assert variable.endswith(flag.removeprefix("--").replace("-", "_").upper())
            assert re.fullmatch(r"MPSR(_[A-Z0-9]+)+", variable)
        named += found
    assert len(set(named)) == len(named)
    assert not {"MPSR_SPEEDUPS", "MPSR_DEBUG"} & set(named)
    assert "MPSR_RECV_ALLOW_USER" in named
    assert "MPSR_JOURNAL_STATS_JSON" in named


def test_variable_stands_for_its_option(cli: Cli) -> None:
    """An option, a flag, and one that can be repeated; the command line wins."""
    variables = {
        "MPSR_RECV_COUNT": "2",
        "MPSR_RECV_NULL": "1",
        "MPSR_RECV_ALLOW_USER": "0 root",
        "MPSR_RECV_QUIET": "yes",
    }
    receiver = cli.start("recv", "app.sock", "--count", "1", env=variables)
    assert cli.call("send", "app.sock", "one", "--timeout", "20s")[0] == 0
    assert receiver.finish() == (0, b"one\0", "")


def test_empty_variable_is_none(cli: Cli) -> None:
    """As in a unit file whose variable is not set."""
    status, _, told = cli.call(
        "recv", "app.sock", env={"MPSR_RECV_COUNT": "", "MPSR_RECV_TIMEOUT": "0.1"}
    )
    assert status == 124, told


def test_variable_with_a_bad_value_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who looks for it on the command line finds nothing."""
    monkeypatch.setenv("MPSR_SEND_TIMEOUT", "soon")
    assert run(["send", "app.sock", "one"]) == 2
    assert capfd.readouterr().err == (
        "mpsr: bad value for --timeout in the variable MPSR_SEND_TIMEOUT\n"
        "  why: 'soon' is no duration\n  try: write it like 500ms, 5s or 2m\n"
    )
    assert run(["send", "app.sock", "one", "--timeout", "later"]) == 2
    assert "MPSR_SEND" not in capfd.readouterr().err


def test_help_tells_of_variables(capfd: pytest.CaptureFixture[str]) -> None:
    """On one line, once, however often it is asked for."""
    for _ in range(2):
        assert run(["recv", "--help"]) == 0
        told = " ".join(capfd.readouterr().out.split())
        assert told.count("by a variable, too: MPSR_RECV_QUIET for --quiet;") == 1


def test_version_has_no_variable(cli: Cli) -> None:
    """A variable that some script has set for itself changes no command."""
    assert cli.call(env={"MPSR_VERSION": "1", "MPSR_HELP": "1"}) == cli.call()


def test_documented_rule_is_the_rule() -> None:
    """Each variable that docs/cli.md names is one."""
    known = {name for each in all_commands(command) for name, _ in variables(each)}
    text = DOCS.read_text()
    section = text.partition("## Environment\n")[2].partition("\n## ")[0]
    others = {"MPSR_SPEEDUPS", "MPSR_DEBUG", "MPSR_RECEIVER_UID"}  # of all programs
    named = set(re.findall(r"MPSR_[A-Z_]+[A-Z]", section)) - others
    assert named
    assert named <= known
