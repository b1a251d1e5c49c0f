"""Send log records; count those that are lost; end at once where no receiver has ever been."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from mpsr.errors import Explanation, Undelivered
from mpsr.sync.producer import Producer
from mpsr.system.clock import monotonic
from mpsr.system.sigmask import MASK

if TYPE_CHECKING:
    from mpsr.errors import MpsrError


class LogProducer(Producer[bytes]):
    """A producer for which the end of the program waits only if there may be a receiver.

    Attributes:
        refused: how many records ``send`` has not taken.

    """

    refused: int = 0
    _refusal: MpsrError | None = None
    _is_told = False  # whether the line at the end is printed

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

    def refuse(self, error: MpsrError) -> None:
        """Count a record for which ``send`` has raised an error."""
        self.refused += 1
        self._refusal = error

    def drop(self, error: Undelivered) -> None:
        """Keep the cause for records that were dropped, which ``stats().lost`` counts."""
        self._refusal = error

    def loss(self, undelivered: Undelivered | None) -> Undelivered | None:
        """Return the error for all records that were not delivered until the end; None if none.

        Args:
            undelivered: the error of ``close``, if it has raised one.

        """
        stats = self.stats()
        count = stats.lost + stats.buffered + (0 if self._is_told else self.refused)
        if undelivered is None and (self._is_told or not count):
            return None
        self._is_told = True
        what = f"{count} log record{'s'[: count != 1]} to {self.address} not delivered"
        if undelivered is not None:
            reason = Explanation.of(undelivered)
            text = Explanation(what, reason.why, reason.advice)
        elif self._refusal is not None:
            text = Explanation.of(self._refusal).caused(what)
        else:
            why = f"the buffer of {self.buffer} bytes was full"
            text = Explanation(what, why, "pass a larger buffer=")
        return Undelivered(text, messages=undelivered.messages if undelivered is not None else ())

    def _finish(self, since: float, *, at_once: bool) -> Undelivered | None:
        loss = self.loss(super()._finish(since, at_once=at_once or self.hopeless))
        return loss if logging.raiseExceptions else None

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self.refused, self._refusal, self._is_told = 0, None, False
