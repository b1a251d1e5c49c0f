"""Fixtures for all tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def address() -> Iterator[str]:
    """Give a path for a socket, in a directory of its own, short enough to bind directly."""
    directory = tempfile.mkdtemp(prefix="mpsr-")
    yield str(Path(directory) / "test.sock")
    shutil.rmtree(directory, ignore_errors=True)  # a killed receiver may be at it too


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    """Give a path on a file system of 4 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("takes the right to mount a file system")
    yield str(tmp_path / "events.db")
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)
