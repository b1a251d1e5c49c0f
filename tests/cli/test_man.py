"""The manual pages come from the commands themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from mpsr.cli.entry import command
from mpsr.cli.manual import pages
from tests.cli.conftest import Cli


def test_every_command_has_a_page_with_every_option() -> None:
    found = dict(pages(command))
    for name in command.list_commands(click.Context(command)):
        child = command.get_command(click.Context(command), name)
        assert child is not None
        for parameter in child.params:
            if isinstance(parameter, click.Option):
                flag = max(parameter.opts, key=len).replace("-", "\\-")
                assert flag in found[f"mpsr-{name}"]
                assert f"\\fB{parameter.envvar}\\fR" in found[f"mpsr-{name}"]
    assert {"mpsr", "mpsr-recv", "mpsr-journal", "mpsr-journal-verify"} <= found.keys()


def test_pages_are_printed_and_written(cli: Cli) -> None:
    status, page, told = cli.call("man", "journal", "verify")
    assert (status, told) == (0, "")
    status, out, told = cli.call("man", "--directory", "man1")
    assert (status, out) == (0, b"")
    assert told.startswith("mpsr: wrote ")
    assert (cli.directory / "man1" / "mpsr-journal-verify.1").read_bytes() == page
    assert cli.call("man")[1] == (cli.directory / "man1" / "mpsr.1").read_bytes()


def test_directory_that_cannot_be_written_is_told(cli: Cli) -> None:
    cli.address.touch()
    status, _, told = cli.call("man", "--directory", "app.sock/man1")
    assert (status, told.count("\n")) == (74, 3)


@pytest.mark.needs("mandoc")
def test_roff_is_sound(tmp_path: Path) -> None:
    """Nothing but the missing date, which would make every build another."""
    for name, text in pages(command):
        path = tmp_path / f"{name}.1"
        path.write_text(text)
        done = subprocess.run(
            ["mandoc", "-Tlint", "-Wwarning", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        told = [line for line in done.stdout.splitlines() if "missing date" not in line]
        assert told == []


@pytest.mark.needs("man")
def test_man_shows_a_page(tmp_path: Path) -> None:
    path = tmp_path / "mpsr-recv.1"
    path.write_text(dict(pages(command))["mpsr-recv"])
    shown = subprocess.run(
        ["man", "--warnings", "-l", str(path)], capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    assert "mpsr recv app.sock -o json | jq .body" in shown.stdout
