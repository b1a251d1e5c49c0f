"""A test means the same whichever program starts it, and says how to repeat its failure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.chance import SEED
from tests.conftest import CLIENTS

ROOT: Final = Path(__file__).parents[1]
PYTEST: Final = (sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider")
IGNORING_INTERRUPTS: Final = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')

SOURCE: Final = """
import signal, subprocess
import pytest

def test_unlucky(chance):
    assert chance.random() > 1

@pytest.mark.needs("nc", "socat")
def test_lonely():
    pass

@pytest.mark.needs("nc", "sh")
def test_unlisted():
    pass

def test_interrupted():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        program.send_signal(signal.SIGINT)
        assert program.wait(5) == -signal.SIGINT
"""


def report(directory: Path, **environment: str) -> str:
    """Run the tests in a pytest of its own, as a script does in its background; return its report.

    Of the programs that they need, there are ``cat`` and ``sh`` only.
    """
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("cat", "sh"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to(found)
    test = directory / "test_it.py"
    test.write_text(SOURCE)
    return subprocess.run(
        [*IGNORING_INTERRUPTS, *PYTEST, "-rA", str(test)],
        cwd=directory,
        env={
            **os.environ,
            "PATH": str(programs),
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins take half of the time
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Report on tests that may lack the programs they need."""
    return report(tmp_path_factory.mktemp("first"), **{CLIENTS: ""})


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, first: str) -> str:
    """Report on tests that have the seed of the first ones, and may lack no program."""
    found = re.search(rf"{SEED}=(\d+)", first)
    assert found is not None, first
    return report(tmp_path_factory.mktemp("again"), **{CLIENTS: "require", SEED: found[1]})


def test_failure_names_the_seed_that_repeats_it(first: str, again: str) -> None:
    """The same seed gives the same numbers."""
    drawn = [re.findall(r"assert (0\.\d+) > 1", text) for text in (first, again)]
    assert drawn[0] == drawn[1] != []


def test_missing_client_skips_its_test_unless_it_is_required(first: str, again: str) -> None:
    """A missing program cannot silently shorten the run of continuous integration."""
    assert "1 skipped" in first
    assert "not installed: nc, socat" in first
    assert "skipped" not in again
    assert re.search(r"ERROR \S+::test_lonely - .*not installed: nc, socat", again)


def test_program_that_ci_does_not_install_fails_the_test_that_needs_it(first: str) -> None:
    """It fails even where the program is installed, so that the list is completed with the test."""
    assert re.search(r"ERROR \S+::test_unlisted - .*not listed in .ci/programs: sh", first)


def test_programs_can_be_interrupted_though_a_script_runs_the_tests_in_its_background(
    first: str,
) -> None:
    """Shells have what they run with & ignore SIGINT, and programs inherit that."""
    assert re.search(r"PASSED \S+::test_interrupted", first)
