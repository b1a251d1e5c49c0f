"""Show on a terminal how a long `mpsr send` gets on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from mpsr.stats import ProducerStats


class Display:
    """A line that follows a producer, and vanishes at the end.

    Args:
        total: bytes to read in all; None where nobody knows.

    """

    def __init__(self, total: int | None) -> None:
        self._console = Console(stderr=True)
        known = (BarColumn(), DownloadColumn()) if total is not None else ()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *known,
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def update(self, stats: ProducerStats, nbytes: int) -> None:
        """Show the counters; ``nbytes`` were read so far."""
        description = f"sent {stats.sent:,}, accepted {stats.accepted:,}"
        self._progress.update(self._task, description=description, completed=nbytes)

    def say(self, text: str) -> None:
        """Write a line above it."""
        self._console.print(Text(f"mpsr: {text}"), soft_wrap=True)

    def close(self) -> None:
        """Clear the line."""
        self._progress.stop()
