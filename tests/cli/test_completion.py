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
type compopt >/dev/null || exit 1
for line in "$@"; do
    COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _mpsr_completion mpsr
    printf '%s\\n' "${COMPREPLY[@]}"
done
"""
COMPLETED = {
    "mpsr re": "recv",
    "mpsr recv --ha": "--handover",
    "mpsr recv x --type dg": "dgram",
}


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


def test_bash_completes(shell: dict[str, str]) -> None:
    completed = {**COMPLETED, "mpsr journal ver": "verify", "mpsr completion fi": "fish"}
    assert output(shell, "bash", "-c", BASH, "bash", *completed) == [*completed.values()]


@pytest.mark.needs("fish")
def test_fish_completes(shell: dict[str, str]) -> None:
    Path(shell["HOME"], "app.sock").touch()
    completed = {**COMPLETED, "mpsr send app.so": "app.sock"}
    script = "mpsr completion fish | source"
    for line in completed:
        script += f"; complete -C '{line}' | head -n 1 | cut -f 1"
    assert output(shell, "fish", "-c", script) == [*completed.values()]


@pytest.mark.needs("zsh")
def test_zsh_completes(shell: dict[str, str]) -> None:
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
        for line, word in {**COMPLETED, "mpsr send app.s": "app.sock"}.items():
            screen.shown = b""
            screen.type(line.encode() + b"\t")
            screen.wait_for(word.encode())
            screen.type(b"\x15")  # it removes the line
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
