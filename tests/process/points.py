"""Do something at a named point of what a journal does to its disk."""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from mpsr.store import files
from mpsr.store.recovery import SPARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

POINTS: Final = ("write", "written", "synced", "segment", "trim")
"""Before a write, between it and its sync, behind the sync, where a new segment gets its name, and
before one that is not wanted any more is removed, or kept for the next."""


def reach(wanted: str, act: Callable[[], object]) -> None:
    """Have something done whenever this point is reached, in all journals of this process."""

    def sync(file: int) -> None:
        if wanted == "written":
            act()
        synced(file)
        if wanted == "synced":
            act()

    def write(file: int, buffers: Iterable[Any], offset: int) -> int:
        if wanted == "write":
            act()
        return written(file, buffers, offset)

    def rename(old: str, new: str) -> None:
        if wanted == ("trim" if new.endswith(SPARE) else "segment"):
            act()
        renamed(old, new)

    def remove(path: str) -> None:
        if wanted == "trim":
            act()
        removed(path)

    synced, written, renamed, removed = files.sync, files.write, files.rename, files.remove
    files.sync, files.write, files.rename, files.remove = sync, write, rename, remove


def die(point: str, hit: int) -> None:
    """Have this process killed when it reaches a point for the ``hit``-th time."""
    hits = count(1)

    def kill() -> None:
        if next(hits) == hit:
            os.kill(os.getpid(), signal.SIGKILL)

    reach(point, kill)
