"""Report the progress of `mpsr send` on stderr."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from mpsr.cli.stdio import may_draw, say

if TYPE_CHECKING:
    from mpsr.cli.progress import Display
    from mpsr.cli.sources import Source
    from mpsr.stats import ProducerStats

_SHOW_AFTER: Final = 1.0  # seconds: what is quicker needs no display


class ProgressReporter:
    """Lines on stderr and, on a terminal, a display for what takes longer.

    Args:
        source: where the messages come from.
        quiet: report nothing.

    """

    def __init__(self, source: Source, *, quiet: bool) -> None:
        self._source = source
        self._quiet = quiet
        self._show_at = monotonic() + _SHOW_AFTER
        self._may_show = may_draw() and not (quiet or source.typed)  # it would disturb who types
        self._display: Display | None = None

    def report(self, text: str) -> None:
        """Print a line, unless ``quiet``."""
        if self._quiet:
            return
        if self._display is not None:
            self._display.say(text)
        else:
            say(text)

    def watch(self, stats: ProducerStats) -> None:
        """Show the counters, if it takes long enough."""
        if not self._may_show or (self._display is None and monotonic() < self._show_at):
            return
        if self._display is None:
            from mpsr.cli.progress import Display  # noqa: PLC0415 - rich is not light

            self._display = Display(self._source.total)
        self._display.update(stats, self._source.nbytes)

    def close(self) -> None:
        """Clear the display."""
        self._may_show = False
        if self._display is not None:
            self._display.close()
            self._display = None
