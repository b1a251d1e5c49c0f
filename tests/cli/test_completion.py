"""A shell completes commands, options, choices and files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        command, env=shell, capture_output=True, text=True, timeout=PATIENCE, cwd=shell["HOME"]
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
    ("words", "expected"),
    [("mpsr re", "recv"), ("mpsr recv --ha", "--handover"), ("mpsr recv x --type dg", "dgram")],
)
def test_zsh_asks_and_is_answered(shell: dict[str, str], words: str, expected: str) -> None:
    """Outside its line editor the script cannot add matches: what it would add is printed."""
    count = len(words.split())
    script = f"""
    compdef() {{ }}
    source <(mpsr completion zsh)
    _describe() {{ eval "print -l -- \\${{${{=@[-1]}}}}" }}
    compadd() {{ print -l -- "$@" }}
    words=({words}) CURRENT={count}
    _mpsr_completion
    """
    assert any(word.startswith(expected) for word in output(shell, "zsh", "-fc", script))


def answered(shell: dict[str, str], words: str) -> list[str]:
    asked = {"_MPSR_COMPLETE": "bash_complete", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split()))
    return output({**shell, **asked}, "mpsr")


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
    shell: dict[str, str], words: str, expected: list[str]
) -> None:
    assert answered(shell, words) == expected


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_script_says_how_to_install_it(shell: dict[str, str], name: str) -> None:
    text = " ".join(output(shell, "mpsr", "completion", name))
    assert f"# To install it: mpsr completion {name} > ~/" in text
    assert text.startswith("#compdef mpsr" if name == "zsh" else "# To install")
