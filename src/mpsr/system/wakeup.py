"""Make a selector return: from another thread, or from a signal handler."""

from __future__ import annotations

from contextlib import suppress

from mpsr.system.descriptors import Identity, close_socket
from mpsr.system.primitives import socketpair


class Wakeup:
    """A descriptor that is readable from ``set()`` until ``clear()``."""

    __slots__ = ("_is_set", "_reader", "_reader_is", "_writer", "_writer_is")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Make the descriptors anew, where the program has closed those before."""
        reader, writer = socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        if hasattr(self, "_reader"):
            self.close()
        self._reader, self._reader_is = reader, Identity(reader.fileno())
        self._writer, self._writer_is = writer, Identity(writer.fileno())
        self._is_set = False

    def let_go(self) -> None:
        """Forget the descriptors, whose numbers may be somebody else's by now."""
        self._reader.detach()
        self._writer.detach()

    @property
    def intact(self) -> bool:
        """Whether the descriptor to wait on is still the one that was made."""
        return self._reader_is.holds()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make the descriptor readable; safe in a signal handler and in any thread.

        Where the program has closed it nothing is written: whoever waited for it has been woken
        by its end.
        """
        if not self._is_set:
            self._is_set = True
            if self._writer_is.holds():
                self._writer.send(b"\0")

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()``.

        Whoever clears checks what was changed afterwards: a ``set()`` that comes between the
        two lines below is in time for that look, and one behind them is heard anew.
        """
        if self._is_set and self._reader_is.holds():
            with suppress(BlockingIOError):
                self._reader.recv(64)
            self._is_set = False

    def close(self) -> None:
        """Close the descriptors."""
        close_socket(self._reader, self._reader_is)
        close_socket(self._writer, self._writer_is)
