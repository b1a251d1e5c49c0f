"""Tell a descriptor of ours from another file that got its number.

A program that becomes a daemon closes every descriptor, and the numbers are used again. What is
written to such a number then goes into a file or a socket of somebody else's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

from mpsr.system.primitives import close


class Socket(Protocol):
    """What of a socket is needed to part with it."""

    def close(self) -> None:
        """Close the descriptor."""

    def detach(self) -> int:
        """Forget the descriptor, which stays open."""


class Identity:
    """What file a descriptor was when it was made: two that are open never share it."""

    __slots__ = ("_descriptor", "_file")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._file = _file_of(descriptor)

    def holds(self) -> bool:
        """Tell whether the descriptor is still that file."""
        return _file_of(self._descriptor) == self._file


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def close_socket(sock: Socket, identity: Identity) -> None:
    """Close a socket, unless its number is another file's by now."""
    if identity.holds():
        with suppress(OSError):
            sock.close()
    else:
        sock.detach()


def close_descriptor(descriptor: int, identity: Identity) -> None:
    """Close a descriptor, unless its number is another file's by now."""
    if identity.holds():
        with suppress(OSError):
            close(descriptor)
