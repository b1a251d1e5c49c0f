"""Make whoever waits for the engine come, from another thread or a signal handler."""

from __future__ import annotations

from collections.abc import Callable

from mpsr.system.wakeup import Wakeup


class Waking:
    """A descriptor that the engine's poller watches.

    Attributes:
        stop_asked: whether an end was asked for.
        watched: whether somebody waits on the engine's descriptor from outside.
        left: tells whether something that came from another thread is still to be done.

    """

    def __init__(self) -> None:
        self.wakeup: Wakeup = Wakeup()
        self.stop_asked: bool = False
        self.left: Callable[[], bool] = bool
        self.watched: bool = False
        self._readable = False  # as the poller has seen

    def watch(self) -> None:
        """Keep it readable also while batches that were read wait to be handed out."""
        self.watched = True

    def signal(self, more: bool) -> None:  # noqa: FBT001 - a flag by nature
        """Tell a watcher whether the caller has something to come back for."""
        if self.watched and not self.stop_asked:
            if more:
                self.wakeup.set()
            elif self._readable or self.wakeup.is_set:  # else there is nothing to read
                self._clear()

    def calm(self) -> None:
        """Wake the engine no more for what it has just come for."""
        self._readable = True
        if not (self.watched or self.stop_asked):
            self._clear()

    def stop(self) -> None:
        """Ask for an end; safe in a signal handler and in any thread."""
        self.stop_asked = True
        self.wakeup.set()

    def _clear(self) -> None:
        self._readable = False
        self.wakeup.clear()
        if self.stop_asked or self.left():  # meanwhile, in another thread
            self.wakeup.set()
