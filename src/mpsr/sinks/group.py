"""Decide when a sink commits what was written to it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from mpsr.engine.receiving.group import weight
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from mpsr.batch import Batch
    from mpsr.sinks.protocol import Grouping


class Group:
    """What was written and is not committed.

    Attributes:
        last: the last batch of it; None where there is none.

    """

    def __init__(self, grouping: Grouping) -> None:
        self._grouping = grouping
        self.last: Batch[Any] | None = None
        self._size = 0
        self._begun = self._touched = inf

    def clear(self) -> None:
        """Take note that all is committed."""
        self.last = None
        self._size = 0
        self._begun = self._touched = inf

    def add(self, batch: Batch[Any]) -> None:
        """Take note of a batch that was written."""
        self._size += weight(batch)
        self._touched = monotonic()
        self._begun = min(self._begun, self._touched)
        self.last = batch

    def is_due(self, *, idle: bool) -> bool:
        """Tell whether to commit; ``idle`` says that nothing more is there now."""
        if self.last is None:
            return False
        if self.last.position is None or self._size >= self._grouping.nbytes:
            return True  # without a journal each batch is acknowledged by itself
        return monotonic() >= (self._due_at() if idle else self._begun + self._grouping.seconds)

    def wait_time(self) -> float | None:
        """Return the seconds until it is due, if nothing comes; None if nothing was written."""
        return None if self.last is None else max(0.0, self._due_at() - monotonic())

    def _due_at(self) -> float:
        return min(self._begun + self._grouping.seconds, self._touched + self._grouping.idle)
