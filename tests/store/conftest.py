"""Fixtures for tests of the journal."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Give a path for a journal, in a directory of its own."""
    return str(tmp_path / "events.journal")
