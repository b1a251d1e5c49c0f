"""Tests mean the same whoever starts them, and tell what would repeat a failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.chance import SEED
from tests.conftest import CLIENTS

ROOT: Final = Path(__file__).parents[1]
PYTEST: Final = (sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider")
IGNORING_INTERRUPTS: Final = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')

UNLUCKY: Final = """
def test_unlucky(chance):
    assert chance.random() > 1
"""
LONELY: Final = """
import pytest

@pytest.mark.needs("nc", "socat")
def test_lonely():
    pass
"""
UNLISTED: Final = """
import pytest

@pytest.mark.needs("nc", "sh")
def test_unlisted():
    pass
"""
INTERRUPTED: Final = """
import signal, subprocess

def test_interrupted():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        program.send_signal(signal.SIGINT)
        assert program.wait(5) == -signal.SIGINT
"""


def report(
    directory: Path,
    source: str,
    environment: dict[str, str] | None = None,
    before: tuple[str, ...] = (),
) -> str:
    """Run a test in a pytest of its own; return what that says."""
    test = directory / "test_it.py"
    test.write_text(source)
    return subprocess.run(
        [*before, *PYTEST, "-rs", str(test)],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins take half of the time
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_failure_names_the_seed_that_repeats_it(tmp_path: Path) -> None:
    """The same seed gives the same numbers."""
    first = report(tmp_path, UNLUCKY)
    found = re.search(rf"{SEED}=(\d+)", first)
    assert found is not None, first
    again = report(tmp_path, UNLUCKY, {SEED: found[1]})
    drawn = [re.findall(r"assert (0\.\d+) > 1", text) for text in (first, again)]
    assert drawn[0] == drawn[1] != []


def test_missing_client_skips_its_test_unless_it_is_required(tmp_path: Path) -> None:
    """A missing program cannot silently shorten the run of continuous integration."""
    without = {"PATH": str(tmp_path)}
    skipped = report(tmp_path, LONELY, {CLIENTS: "", **without})
    assert "1 skipped" in skipped
    assert "not installed: nc, socat" in skipped
    assert "1 error" in report(tmp_path, LONELY, {CLIENTS: "require", **without})


def test_program_that_ci_does_not_install_fails_the_test_that_needs_it(tmp_path: Path) -> None:
    """It fails even where the program is installed, so that the list is completed with the test."""
    failed = report(tmp_path, UNLISTED)
    assert "1 error" in failed
    assert "not listed in .ci/programs: sh" in failed


def test_programs_can_be_interrupted_though_a_script_runs_the_tests_in_its_background(
    tmp_path: Path,
) -> None:
    """Shells have what they run with & ignore SIGINT, and programs inherit that."""
    assert "1 passed" in report(tmp_path, INTERRUPTED, before=IGNORING_INTERRUPTS)
