"""Refuse descriptors that nobody asked for; close apart what came all the same.

Anybody who may connect can pass a descriptor (SCM_RIGHTS), and to close the last one of a file
may take long: a TCP socket with SO_LINGER sleeps until its data are acknowledged. The kernel
closes what a reader has no room for within the read, and what was never read within ``close()``.
Linux 6.16 and later refuse them at the sender, if asked to (SO_PASSRIGHTS).
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from mpsr.system import primitives
from mpsr.system.descriptors import Registry, Socket, registry
from mpsr.system.sigmask import MASK
from mpsr.system.threads import start_thread

SO_PASSRIGHTS: Final = 83  # <asm-generic/socket.h>; the socket module does not name it
MOST_DESCRIPTORS: Final = 253  # that one message carries: SCM_MAX_FD of the kernel
ROOM: Final = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)  # bytes
_NO_LINGER: Final = struct.pack("ii", 1, 0)  # struct linger: at once, whatever is unsent
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


# -- closing apart ----------------------------------------------------------------------------

_waiting: deque[Callable[[], object]] = deque()  # what closes something
_lock = primitives.RLock()  # a finalizer may come in between
_busy = False  # whether a thread is at it


def close_apart(descriptors: Iterable[int]) -> None:
    """Close descriptors of strangers, in a thread that may sleep."""
    known = registry()
    _do_apart(partial(_close, known, descriptor) for descriptor in descriptors)


def unclosed() -> int:
    """Return how many descriptors wait to be closed."""
    return len(_waiting)


def close_socket(sock: Socket) -> None:
    """Close a socket of ours; where something was not read from it, in a thread that may sleep."""
    # The last two in this order: nothing can come in between.
    if not sock.holds() or (refuse(sock) and _is_empty(sock)):
        sock.close()
    else:
        _do_apart([sock.close])


def _is_empty(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return True


def _do_apart(work: Iterable[Callable[[], object]]) -> None:
    global _busy  # noqa: PLW0603 - there is one such thread in a process
    with MASK, _lock:
        _waiting.extend(work)
        if _busy or not _waiting:
            return
        _busy = True
    try:
        start_thread(_work, name="mpsr closes descriptors")
    except RuntimeError:  # the program ends, and its descriptors with it
        _busy = False


def _work() -> None:
    global _busy  # noqa: PLW0603 - as above
    while True:
        with _lock:
            if not _waiting:
                _busy = False
                return
            work = _waiting.popleft()
        with suppress(OSError):
            work()


def _close(known: Registry | None, descriptor: int) -> None:
    """Close a descriptor, whatever it is of, as soon as can be.

    To ask which file it is could block. So the program has closed it meanwhile if it has closed
    the registry, which was there before.
    """
    if known is not None and not known.intact:
        return
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            stranger = primitives.socket(fileno=descriptor)
            with suppress(OSError):
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            stranger.detach()
    finally:
        primitives.close(descriptor)


def _forget() -> None:
    global _busy, _lock
    _busy, _lock = False, primitives.RLock()  # the thread stayed with the parent
    _waiting.clear()


os.register_at_fork(after_in_child=_forget)
