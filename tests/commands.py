"""Start the command with other limits than its own."""

from __future__ import annotations

import sys


def command(**limits: float) -> list[str]:
    """Return the words that start ``mpsr``: ``command(SCRAPE_DEADLINE=0.5)``."""
    python = [sys.executable, "-W", "error"]
    if not limits:
        return [*python, "-m", "mpsr"]
    changes = "".join(f"limits.{name}; limits.{name} = {value}\n" for name, value in limits.items())
    return [*python, "-c", f"from mpsr import limits\n{changes}from mpsr.cli import main; main()"]
