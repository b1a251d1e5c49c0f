"""Wait in one thread until another, or a signal handler, says to go on."""

from __future__ import annotations

from _thread import allocate_lock


class Waiter:
    """Waits once; ``wake`` may come before ``wait``, from anywhere."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Wait until woken; False once the time-out has passed."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(timeout, 1e6))

    def wake(self) -> None:
        """Have it go on."""
        if self._lock.locked():
            self._lock.release()
