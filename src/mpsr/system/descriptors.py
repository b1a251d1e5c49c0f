"""Use and close a descriptor only while it is certain that it is mpsr's own.

A program that becomes a daemon closes every descriptor, and the kernel gives the numbers to the
files that the program opens next. Each kind of descriptor has something that no such file has:

============  ====================================================================================
socket        its cookie: no other socket ever has it, and no socket can be opened a second time
regular file  its position, which is random: mpsr reads and writes at explicit offsets. A program
              that opens the same file has another position
epoll         the witness that is registered with it: an unconnected socket of its own
timer         its interval, which is random: see ``mpsr.system.timer``
other files   a file that is sent may be anything: an epoll knows which open file was registered
              with it under which number
============  ====================================================================================

All epolls, all timers and all eventfds have the same inode.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Final, TypeVar

from mpsr.system import primitives
from mpsr.system.calls import naming

T = TypeVar("T")

# Bits of a position; file systems differ in how long a file can be.
_POSITIONS: Final = (62, 43, 40, 33, 31)
_RANDOM: Final = 8  # bytes
_SO_COOKIE: Final = 57  # <asm-generic/socket.h>; the socket module does not name it
_COOKIE: Final = 8  # bytes
DONTWAIT: Final = int(socket.MSG_DONTWAIT)  # a flag of an enum is slow to pass


class NotOurs(OSError):
    """A descriptor that mpsr opened was closed by the program."""


def identity_of(descriptor: int) -> tuple[int, int] | None:
    """Return the device and the inode number of an open file; None if there is none."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Socket(primitives.socket):
    """A socket whose close, or collection, closes only its own descriptor."""

    __slots__ = ("_identity",)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:  # noqa: ANN401 - as socket takes them
        super().__init__(*arguments, **keywords)
        self._identity = self._found()

    def holds(self) -> bool:
        """Return whether the descriptor is still this socket."""
        return self._identity is not None and self._found() == self._identity

    def _found(self) -> bytes | tuple[int, int] | None:
        """Return what identifies the file that the descriptor is now."""
        try:
            return self.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE)
        except OSError:  # it is no socket, or this system has no cookies
            return identity_of(self.fileno())

    def check(self) -> None:
        """Raise NotOurs if the descriptor is not this socket any more."""
        if not self.holds():
            raise _lost()

    def _real_close(self, *arguments: Any) -> None:  # noqa: ANN401 - as the base class takes them
        if self.holds():
            super()._real_close(*arguments)  # type: ignore[misc]  # not in the stubs
        else:
            self.detach()

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # it was never made
            if self.fileno() >= 0:
                self.close()


def accept(listener: socket.socket) -> Socket:
    """Accept a connection: the method ``accept`` makes an object of the class now in its module."""
    number, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - all but that
    return Socket(listener.family, listener.type, listener.proto, fileno=number)


def socketpair(kind: int = socket.SOCK_STREAM) -> tuple[Socket, Socket]:
    """Return two connected sockets."""
    with naming("socketpair"):
        one, other = primitives.socketpair(socket.AF_UNIX, kind)
    with naming("getsockopt"):
        return Socket(fileno=one.detach()), Socket(fileno=other.detach())


class OpenFile:
    """A regular file that mpsr has opened, to be read and written at explicit offsets.

    Nothing closes the descriptor but ``close()``.
    """

    __slots__ = ("_identity", "_number", "_position")

    def __init__(self, number: int) -> None:
        """Take an open descriptor; one that another process passed keeps its position."""
        self._number = number
        self._identity = identity_of(number)
        self._position = _mark(number)

    def holds(self) -> bool:
        """Return whether the descriptor is still this open file."""
        if self._number < 0 or identity_of(self._number) != self._identity:
            return False
        try:
            return self._position is None or _position_of(self._number) == self._position
        except OSError:
            return False

    def fileno(self) -> int:
        """Return the descriptor; raise NotOurs if it is not this open file any more."""
        if not self.holds():
            raise _lost()
        return self._number

    def close(self) -> None:
        """Close the descriptor, if it is still this open file."""
        if self.holds():
            number, self._number = self._number, -1
            primitives.close(number)
        self._number = -1


def _position_of(number: int) -> int:
    return os.lseek(number, 0, os.SEEK_CUR)


def _mark(number: int) -> int | None:
    """Give an open file a random position; return it, or None if the file has no positions."""
    with suppress(OSError):
        position = _position_of(number)
        if position:
            return position
        for bits in _POSITIONS:
            high = 1 << (bits - 1)
            position = high | (int.from_bytes(os.urandom(_RANDOM), "big") % high)
            with suppress(OSError):
                return os.lseek(number, position, os.SEEK_SET)
    return None


class Registry:
    """An epoll that closes its number only while that is certain to be this epoll.

    Attributes:
        epoll: the epoll; to be used while it is ``intact``.

    """

    __slots__ = ("_identity", "_witness", "epoll")

    def __init__(self) -> None:
        self._witness = -1
        with naming("epoll_create1"):
            self.epoll: primitives.epoll = primitives.epoll()
        try:
            # It never has an event. It is a number, and not an object: this object closes it, and
            # no other, whatever the order in which the objects are collected.
            witness = primitives.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
            self._witness, self._identity = witness, identity_of(witness)
            with naming("epoll_ctl"):
                self.epoll.register(witness, 0)
        except BaseException:
            self.epoll.close()
            if self._witness >= 0:
                primitives.close(self._witness)
                self._witness = -1
            raise

    @property
    def intact(self) -> bool:
        """Whether the epoll is still the one that was made."""
        if self._witness < 0 or identity_of(self._witness) != self._identity:
            return False
        try:
            self.epoll.modify(self._witness, 0)  # no other epoll has the witness
        except (OSError, ValueError):
            return False
        return True

    def close(self) -> None:
        """Close the epoll and the witness, if they are still the ones that were made."""
        if self._witness < 0:
            return
        # An exception of a signal handler may end this anywhere: the next call does the remainder.
        if self.intact:
            self.epoll.close()
        elif not self.epoll.closed:
            # It would close its number when it is collected. So the interpreter keeps it until the
            # very end, as a callback: each fork calls this method, which changes nothing.
            os.register_at_fork(before=self.epoll.fileno)
        if identity_of(self._witness) == self._identity:
            primitives.close(self._witness)
        self._witness = -1

    def __del__(self) -> None:
        self.close()


class Foreign:
    """A descriptor of a file that mpsr did not open, such as one that is to be sent."""

    __slots__ = ("_identity", "_number", "_pid", "_registered", "_registry")

    def __init__(self, number: int) -> None:
        self._number = number
        self._identity = identity_of(number)
        self._registry = registry()
        self._pid = os.getpid()
        self._registered = False
        if self._registry is not None:
            with suppress(OSError):  # EPERM: a regular file, which has an inode of its own
                self._registry.epoll.register(number, 0)
                self._registered = True

    def holds(self) -> bool:
        """Return whether the descriptor is still this file."""
        if identity_of(self._number) != self._identity:
            return False
        known = self._registry
        if known is None or self._pid != os.getpid():  # a forked child has copies of both
            return known is None or known.intact
        if not known.intact:
            return False
        try:
            if self._registered:
                known.epoll.modify(self._number, 0)
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """End the registration; to be called before the descriptor is closed."""
        if self._registered and self._registry is not None and self._pid == os.getpid():
            self._registered = False
            with suppress(OSError):
                self._registry.epoll.unregister(self._number)


_known: tuple[int, Registry] | None = None


def registry() -> Registry | None:
    """Return the process's registry of foreign files; None if there is no epoll to be had."""
    global _known  # noqa: PLW0603 - there is one in a process
    if _known is None or _known[0] != os.getpid() or not _known[1].intact:
        if primitives.epoll is None:
            return None
        try:
            _known = os.getpid(), Registry()
        except OSError:
            return None
    return _known[1]


def _lost() -> NotOurs:
    import errno  # noqa: PLC0415 - seldom needed

    return NotOurs(errno.EBADF, "its descriptor was closed by the program")
