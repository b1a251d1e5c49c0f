"""Tell of what peers do wrong, a limited number of times: who may connect must not fill the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.limits import COMPLAINT_INTERVAL, COMPLAINTS
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from logging import Logger


def logger() -> Logger:
    """Return the logger of the library."""
    import logging  # noqa: PLC0415 - not light, and only receivers have something to say

    return logging.getLogger("mpsr")


class Complaints:
    """Warnings, of which COMPLAINTS may come at once, and one every COMPLAINT_INTERVAL seconds."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._left: float = COMPLAINTS
        self._looked_at = monotonic()
        self._untold = 0

    def tell(self, what: str, *args: object) -> None:
        """Log a warning, or count it for the next that is logged."""
        now = monotonic()
        self._left = min(COMPLAINTS, self._left + (now - self._looked_at) / COMPLAINT_INTERVAL)
        self._looked_at = now
        if self._left < 1:
            self._untold += 1
            return
        self._left -= 1
        if self._untold:
            what, args = f"{what} (and %d more warnings were left out)", (*args, self._untold)
            self._untold = 0
        self._logger.warning(what, *args)
