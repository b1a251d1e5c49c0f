"""Look after journals: ``mpsr journal``."""

from __future__ import annotations

from mpsr.cli.journal.command import journal

__all__ = ["journal"]
