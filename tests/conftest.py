"""Fixtures for all tests."""

from __future__ import annotations

import shutil
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
