"""Show on a terminal how far the reading of a journal has come."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from mpsr.cli.stdio import may_draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

_SHOW_AFTER: Final = 1.0  # seconds: what is quicker needs no display


@contextmanager
def shown(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give what is to be called with every advance toward ``total``, in bytes."""
    if not may_draw():
        yield lambda _: None
        return
    show_at = monotonic() + _SHOW_AFTER
    done = 0
    progress: Progress | None = None

    def advance(size: int) -> None:
        nonlocal progress, done
        done += size
        if progress is not None:
            progress.update(progress.task_ids[0], completed=min(done, total))
        elif monotonic() >= show_at:
            progress = _progress()
            progress.add_task(doing, total=total, completed=min(done, total))
            progress.start()

    try:
        yield advance
    finally:
        if progress is not None:
            progress.stop()


def _progress() -> Progress:
    """Return a line that vanishes at the end."""
    # rich is not light, and short work needs none of it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
