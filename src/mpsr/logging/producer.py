"""Send, and end at once where no receiver has ever been."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mpsr.sync.producer import Producer

if TYPE_CHECKING:
    from mpsr.errors import Undelivered


class LogProducer(Producer[bytes]):
    """A producer for which the end of the program waits only if there may be a receiver."""

    @property
    def hopeless(self) -> bool:
        """Whether no receiver has ever been there, and none is to be expected soon.

        One that was there may be about to come back.
        """
        return not (self._outbox.may_deliver or self.stats().connects)

    def _finish(self, since: float, *, at_once: bool) -> Undelivered | None:
        undelivered = super()._finish(since, at_once=at_once or self.hopeless)
        return undelivered if logging.raiseExceptions else None
