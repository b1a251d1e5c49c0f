"""Send, and end at once where no receiver has ever been."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from mpsr.sync.producer import Producer
from mpsr.system.clock import monotonic
from mpsr.system.sigmask import MASK

if TYPE_CHECKING:
    from mpsr.errors import Undelivered


class LogProducer(Producer[bytes]):
    """A producer for which the end of the program waits only if there may be a receiver."""

    @property
    def hopeless(self) -> bool:
        """Whether no receiver has ever been at the address, and none is there now.

        One that was there may be about to come back, also where this process has never met it: a
        receiver leaves the lock of its path behind.
        """
        if self._outbox.may_deliver or self.stats().connects or self._is_mine():
            return False
        if os.path.lexists(f"{self.address}.lock"):
            return False
        with MASK, self._lock:
            self._outbox.retry()
            self._outbox.service(monotonic())
            return not self._outbox.may_deliver

    def _finish(self, since: float, *, at_once: bool) -> Undelivered | None:
        undelivered = super()._finish(since, at_once=at_once or self.hopeless)
        return undelivered if logging.raiseExceptions else None
