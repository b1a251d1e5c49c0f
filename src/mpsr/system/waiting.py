"""Let one caller wait for another thread: a thread sleeps, a greenlet lets the others run."""

from __future__ import annotations

from typing import Final

from mpsr.system.greenlets import GreenletEvent, world
from mpsr.system.primitives import Lock

_LONGEST: Final = 86_400.0 * 365  # seconds: what a lock can wait is limited, and differs


class Waiter:
    """Lets one caller wait until it is woken: by a thread, a greenlet or a signal handler."""

    __slots__ = ("_asleep", "_event", "_notifying")

    def __init__(self) -> None:
        self._asleep = Lock()  # held, except between being woken and taking note of it
        self._asleep.acquire()
        self._notifying = Lock()  # held while the event is notified or taken away
        self._event: GreenletEvent | None = None  # of a greenlet that waits

    def wait(self, timeout: float | None) -> bool:
        """Wait until ``wake`` is called; return False if the time was over first.

        A wake-up before the wait counts, once. An exception that breaks in (KeyboardInterrupt,
        gevent.Timeout) leaves the waiter ready for the next wait.

        Args:
            timeout: seconds; None waits for ever.

        """
        seconds = None if timeout is None else min(max(0.0, timeout), _LONGEST)
        mine = world()
        try:
            event = None if mine is None else mine.make_event()
        except OSError:  # no descriptor is left for it: then the other greenlets wait, too
            event = None
        if event is None:
            return self._asleep.acquire(timeout=-1 if seconds is None else seconds)
        self._event = event
        try:
            if not self._asleep.acquire(blocking=False):
                event.wait(seconds)
                return self._asleep.acquire(blocking=False)
            return True
        finally:
            with self._notifying:
                self._event = None
            event.close()

    def wake(self) -> None:
        """End the wait, or the next one; safe in any thread and in a signal handler."""
        try:
            self._asleep.release()
        except RuntimeError:  # it is awake
            return
        if self._event is not None and self._notifying.acquire(
            blocking=False
        ):  # else somebody notifies it
            try:
                if self._event is not None:
                    self._event.notify()
            finally:
                self._notifying.release()
