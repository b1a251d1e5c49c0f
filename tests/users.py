"""Let other users into the directories of a test."""

from __future__ import annotations

import tempfile
from pathlib import Path


def let_others_in(directory: Path) -> None:
    """Let other users enter a temporary directory and its parents, which pytest makes private."""
    top = Path(tempfile.gettempdir())
    for each in (directory, *directory.parents):
        if not each.is_relative_to(top) or each == top:
            return
        each.chmod(0o755)
