"""A test that fails by chance can be repeated, and one that lacks a client can be made to fail."""

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
UNLUCKY: Final = """
def test_unlucky(chance):
    assert chance.random() > 1
"""
LONELY: Final = """
import pytest

@pytest.mark.needs("sh", "no-such-program")
def test_lonely():
    pass
"""


def report(directory: Path, source: str, **environment: str) -> str:
    """Run a test in a pytest of its own; return what that says."""
    test = directory / "test_it.py"
    test.write_text(source)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.conftest",
            "-p",
            "no:cacheprovider",
            "-rs",
            test,
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_failure_names_the_seed_that_repeats_it(tmp_path: Path) -> None:
    """The same seed gives the same numbers."""
    first = report(tmp_path, UNLUCKY)
    found = re.search(rf"{SEED}=(\d+)", first)
    assert found is not None, first
    again = report(tmp_path, UNLUCKY, **{SEED: found[1]})
    drawn = [re.findall(r"assert (0\.\d+) > 1", text) for text in (first, again)]
    assert drawn[0] == drawn[1] != []


def test_missing_client_skips_its_test_unless_it_is_required(tmp_path: Path) -> None:
    """In continuous integration nothing is left out unnoticed."""
    assert "not installed: no-such-program" in report(tmp_path, LONELY)
    assert "1 skipped" in report(tmp_path, LONELY)
    assert "1 failed" in report(tmp_path, LONELY, **{CLIENTS: "require"}) or "1 error" in report(
        tmp_path, LONELY, **{CLIENTS: "require"}
    )
