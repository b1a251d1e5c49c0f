"""Watch a receiver and its producers: ``mpsr top``."""

from __future__ import annotations

from mpsr.cli.top.command import top

__all__ = ["top"]
