"""Make a selector return: from another thread, or from a signal handler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mpsr.system.calls import naming
from mpsr.system.descriptors import DONTWAIT, Socket, socketpair


class Wakeup:
    """A descriptor that is readable from ``set()`` until ``clear()``.

    Its owner calls ``close()``. Another thread, or the code that a signal handler interrupted, may
    be in ``set()`` then: the last call to finish closes the descriptors.

    The program may close all descriptors after a check of one. A call on the program's file, which
    has its number then, does not wait.
    """

    __slots__ = ("_closed", "_is_set", "_reader", "_uses", "_writer")

    def __init__(self) -> None:
        self._uses: list[None] = []  # one for each call that uses a descriptor now
        self.renew()

    def renew(self) -> None:
        """Make new descriptors if the program has closed the old ones."""
        reader, writer = socketpair()
        with naming("ioctl"):
            reader.setblocking(False)
            writer.setblocking(False)
        if hasattr(self, "_reader"):
            self._close()
        self._reader: Socket = reader
        self._writer: Socket = writer
        self._is_set = self._closed = False

    @property
    def intact(self) -> bool:
        """Whether the descriptor to wait on is still the one that was made."""
        return self._reader.holds()

    @property
    def is_set(self) -> bool:
        """Whether ``set()`` was called, and no ``clear()`` has ended since."""
        return self._is_set

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make the descriptor readable; safe in a signal handler and in any thread.

        After ``close()``, or where the program has closed the descriptor, it writes nothing.
        """
        if not self._is_set:
            self._is_set = True
            try:
                self._use(self._write)
            except BaseException:  # a signal handler raised, perhaps before the write
                self._is_set = False
                raise

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()``.

        The caller checks for changes after this call. A ``set()`` between the two lines below is in
        time for that check; a later one makes the descriptor readable again.
        """
        self._use(self._read)
        self._is_set = False

    def close(self) -> None:
        """Close the descriptors, now or at the end of the last call that uses one."""
        self._closed = True
        self._close_unused()

    def _write(self) -> None:
        if self._writer.holds():
            with suppress(OSError):
                self._writer.send(b"\0", DONTWAIT)

    def _read(self) -> None:
        # Also if it is not set: a set() that another thread began has written only now.
        if self._reader.holds():
            with suppress(OSError):
                self._reader.recv(64, DONTWAIT)

    def _use(self, call: Callable[[], None]) -> None:
        try:
            self._uses.append(None)  # first: either we see that it is closed, or close() sees us
            if not self._closed:
                call()
        finally:
            self._uses.pop()
            if self._closed:
                self._close_unused()

    def _close_unused(self) -> None:
        if not self._uses:
            self._close()

    def _close(self) -> None:
        self._writer.close()
        self._reader.close()  # last: until then, it is intact
