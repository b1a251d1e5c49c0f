"""Pass descriptors, and refuse those that a peer passes unasked.

Any peer can pass a descriptor (SCM_RIGHTS), and to close it may take long. The kernel closes the
descriptors that a reader has no room for within the read, and the unread ones within ``close()``.
Linux 6.16 and later refuse them at the sender, with EPERM, if asked to (SO_PASSRIGHTS).
"""

from __future__ import annotations

import socket
import struct
import sys
from array import array
from collections.abc import Hashable, Iterable
from contextlib import suppress
from typing import Final

from mpsr.system import closing
from mpsr.system.descriptors import Socket

SO_PASSRIGHTS: Final = 83  # <asm-generic/socket.h>; the socket module does not name it
MOST_DESCRIPTORS: Final = 253  # that one message carries: SCM_MAX_FD of the kernel
ROOM: Final = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)  # bytes
_LINUX: Final = sys.platform == "linux"

AVAILABLE: Final = _LINUX
"""Whether the kernel may be asked; a test sets it back to be on an older one."""


def refuse(sock: socket.socket) -> bool:
    """Have the kernel refuse descriptors for a socket; tell, by its own word, whether it does."""
    if not AVAILABLE:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        return sock.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


def allow(sock: socket.socket) -> None:
    """Have the kernel let descriptors through to a socket, where it would refuse them."""
    if AVAILABLE:
        with suppress(OSError):  # an older kernel lets them through as it is
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)


def along(*descriptors: int) -> list[tuple[int, int, array[int]]]:
    """Return what sendmsg() takes to pass descriptors along."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []


def receive(sock: socket.socket, size: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive bytes, and all descriptors that came with them: the kernel closes none of them."""
    data, along, _, _ = sock.recvmsg(size, ROOM, flags | socket.MSG_CMSG_CLOEXEC)
    return data, descriptors_in(along)


def descriptors_in(along: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors among what came along with a message."""
    found: list[int] = []
    for level, kind, what in along:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += struct.unpack(f"{len(what) // 4}i", what[: len(what) // 4 * 4])
    return found


def close_socket(sock: Socket, owner: Hashable = None) -> None:
    """Close a socket; in a thread that may sleep, if descriptors of the ``owner`` are unread."""
    # The last two in this order: nothing can come in between.
    if not sock.holds() or (refuse(sock) and _is_empty(sock)):
        sock.close()
    else:
        closing.close_by([sock.close], owner)


def _is_empty(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return True
