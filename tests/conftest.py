"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.chance import SEED, Chance
from tests.limits import set_limits

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

CLIENTS: Final = "MPSR_TEST_CLIENTS"  # "require": a client that is missing fails its tests
ROOT: Final = Path(__file__).parents[1]
NODE_MODULES: Final = ROOT / "build" / "node" / "node_modules"
PROGRAMS: Final = ROOT / ".ci" / "programs"  # those that continuous integration installs
_CHANCE: Final = pytest.StashKey[Chance]()

# Without a time limit per example, because a busy machine would exceed it.
settings.register_profile("mpsr", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mpsr")


def pytest_configure() -> None:
    """Heed SIGINT also in the background of a script, whose commands are started to ignore it.

    The programs that tests start inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the garbage collector, which would go through all of them.

    It finds nothing there: the collected tests and the modules that they import stay until the end.
    For the same reason later runs of the garbage collector leave them out.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test if a program that it needs is missing, or fail it if it is not listed."""
    needed = {program for mark in item.iter_markers("needs") for program in mark.args}
    if unlisted := needed - listed_programs():
        pytest.fail(f"not listed in .ci/programs: {', '.join(sorted(unlisted))}")
    missing = sorted(program for program in needed if not is_installed(program))
    if missing:
        end = pytest.fail if os.environ.get(CLIENTS) == "require" else pytest.skip
        end(f"not installed: {', '.join(missing)}")


@cache
def listed_programs() -> frozenset[str]:
    """Return the programs that ``.ci/run`` installs."""
    lines = PROGRAMS.read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line and not line.startswith("#"))


def is_installed(program: str) -> bool:
    """Tell whether a program is on the PATH; of ``npm:NAME``, whether Node's package is there."""
    registry, _, name = program.rpartition(":")
    return (NODE_MODULES / name).is_dir() if registry else shutil.which(program) is not None


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> Chance:
    """Give random numbers; the report of a failure tells how to have the same again."""
    chance = request.node.stash[_CHANCE] = Chance()
    return chance


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the seed of a random test that failed."""
    report = yield
    chance = item.stash.get(_CHANCE, None)
    if report.failed and chance is not None:
        report.sections.append(("random numbers", f"{SEED}={chance.drawn_from}"))
    return report


@pytest.fixture
def address() -> Iterator[str]:
    """Give a path for a socket, in a directory of its own, short enough to bind directly."""
    directory = tempfile.mkdtemp(prefix="mpsr-")
    yield str(Path(directory) / "test.sock")
    shutil.rmtree(directory, ignore_errors=True)  # a killed receiver may be at it too


class Limits(Protocol):
    """Function that sets limits of mpsr until the end of the test."""

    def __call__(self, **values: float) -> None: ...


@pytest.fixture
def limits() -> Iterator[Limits]:
    """Return a function that sets limits until the end of the test: ``limits(MAX_FILES=3)``."""
    old: dict[str, float] = {}

    def change(**values: float) -> None:
        old.update(set_limits(**values) | old)

    yield change
    set_limits(**old)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    """Give a path on a file system of 4 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("takes the right to mount a file system")
    yield str(tmp_path / "events.journal")
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)
