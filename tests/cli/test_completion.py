"""A shell completes commands, options, choices and files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Screen

PATIENCE = 30  # seconds: longer means that it hangs

BASH = """
source <(mpsr completion bash) || exit 1
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_mpsr_completion mpsr
printf '%s\\n' "${COMPREPLY[@]}"
type compopt >/dev/null
"""


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which there is the command."""
    command = tmp_path / "bin" / "mpsr"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m mpsr "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def output(shell: dict[str, str], *command: str) -> list[str]:
    done = subprocess.run(
        command,
        env=shell,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=shell["HOME"],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mpsr", "re"), "recv"),
        (("mpsr", "recv", "--ha"), "--handover"),
        (("mpsr", "recv", "x", "--type", "dg"), "dgram"),
        (("mpsr", "journal", "ver"), "verify"),
        (("mpsr", "completion", "fi"), "fish"),
    ],
)
def test_bash_completes(shell: dict[str, str], words: tuple[str, ...], expected: str) -> None:
    assert output(shell, "bash", "-c", BASH, "bash", *words) == [expected]


@pytest.mark.needs("fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mpsr re", "recv"),
        ("mpsr recv --ha", "--handover"),
        ("mpsr recv x --type dg", "dgram"),
        ("mpsr send app.so", "app.sock"),
    ],
)
def test_fish_completes(shell: dict[str, str], line: str, expected: str) -> None:
    Path(shell["HOME"], "app.sock").touch()
    script = f"mpsr completion fish | source; complete -C '{line}'"
    assert output(shell, "fish", "-c", script)[0] == expected


@pytest.mark.needs("zsh")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (b"mpsr re\t", b"cv"),
        (b"mpsr recv --ha\t", b"ndover"),
        (b"mpsr recv x --type dg\t", b"ram"),
        (b"mpsr send app.s\t", b"ock"),
    ],
)
def test_zsh_completes(shell: dict[str, str], typed: bytes, completed: bytes) -> None:
    """In its line editor, as it is typed; what is shown first is what was typed."""
    Path(shell["HOME"], "app.sock").touch()
    master, slave = os.openpty()
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**shell, "TERM": "dumb", "PS1": "> "},
        cwd=shell["HOME"],
        start_new_session=True,
    )
    os.close(slave)
    try:
        screen = Screen(master)
        screen.type(
            b"autoload -U compinit; compinit -D -u; source <(mpsr completion zsh); echo rea''dy\n"
        )
        screen.wait_for(b"ready")
        screen.shown = b""
        screen.type(typed)
        screen.wait_for(typed.removesuffix(b"\t").split()[-1] + completed)
    finally:
        zsh.kill()
        zsh.wait()
        os.close(master)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mpsr recv", ["file,"]),
        ("mpsr send", ["file,"]),
        ("mpsr log", ["dir,"]),
        ("mpsr journal verify", ["dir,"]),
        ("mpsr recv x --journal", ["dir,"]),
        ("mpsr send x --spool", ["dir,"]),
        ("mpsr journal salvage x --output", ["file,"]),
    ],
)
def test_addresses_are_files_and_journals_directories(
    cli: Cli, words: str, expected: list[str]
) -> None:
    asked = {"_MPSR_COMPLETE": "bash_complete", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split()))
    assert cli.call(env=asked) == (0, "".join(f"{each}\n" for each in expected).encode(), "")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_script_says_how_to_install_it(cli: Cli, name: str) -> None:
    text = " ".join(cli.call("completion", name)[1].decode().split())
    assert f"# To install it: mpsr completion {name} > ~/" in text
    assert text.startswith("#compdef mpsr" if name == "zsh" else "# To install")
