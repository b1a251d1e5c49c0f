"""Make a selector return: from another thread, or from a signal handler."""

from __future__ import annotations

from contextlib import suppress

from mpsr.primitives import socketpair


class Wakeup:
    """A descriptor that is readable from ``set()`` until ``clear()``."""

    __slots__ = ("_is_set", "_reader", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._is_set = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make the descriptor readable; safe in a signal handler and in any thread."""
        if not self._is_set:
            self._is_set = True
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()``.

        Whoever clears looks at what was changed afterwards: a ``set()`` that comes between the
        two lines below is in time for that look, and one behind them is heard anew.
        """
        if self._is_set:
            with suppress(BlockingIOError):
                self._reader.recv(64)
            self._is_set = False

    def close(self) -> None:
        """Close the descriptors."""
        self._reader.close()
        self._writer.close()
