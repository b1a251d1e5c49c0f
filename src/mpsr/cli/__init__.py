"""Turn argv into work, and how it ended into an exit status."""

from __future__ import annotations

from mpsr.cli.entry import main

__all__ = ["main"]
