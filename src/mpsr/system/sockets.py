"""Ask of a socket who holds it, and make one of a descriptor or for a long path."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from termios import FIONREAD
from typing import Final

from mpsr.batch import UNKNOWN_PEER, Peer
from mpsr.errors import InvalidAddress, WrongSocketType
from mpsr.system import primitives
from mpsr.system.address import LINUX, MAX_NAME, SOCKET_TYPES, Address, SocketType
from mpsr.system.descriptors import Socket
from mpsr.system.refusals import cannot, translating

MAX_ID: Final = 2**32 - 2  # user and group ids have 32 bits, and the last one means "none"
PROC: Final = "/proc/self/fd"
DIRECTORY: Final = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_PROBES: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM, *[socket.SOCK_SEQPACKET] * LINUX)
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED
_XUCRED: Final = struct.Struct("IIhI60x")  # version, uid, groups, gid, 15 more: <sys/ucred.h>
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2  # <sys/un.h> of macOS


def peer_of(sock: socket.socket) -> Peer:
    """Return the kernel's word for who is at the other end; UNKNOWN_PEER if it does not tell."""
    try:
        if LINUX:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            pid, uid, gid = _UCRED.unpack(raw)
        else:
            raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
            _, uid, _, gid = _XUCRED.unpack(raw)  # pragma: no cover - macOS
            pid = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)  # pragma: no cover - macOS
    except OSError:
        return UNKNOWN_PEER
    # pid 0 is nobody, or somebody outside our pid namespace, whose uid is certain all the same.
    return Peer(pid or None, uid if uid <= MAX_ID else None, gid if gid <= MAX_ID else None)


def unread_in(sock: socket.socket) -> int:
    """Return the number of bytes that wait in a socket; of datagrams, those of the first."""
    size = bytearray(4)
    ioctl(sock, FIONREAD, size)
    return int.from_bytes(size, sys.byteorder)


def path_target(address: Address, directory: int, doing: str = "claim") -> str:
    """Return a name of the path that is short enough for a socket."""
    size, prefix = len(os.fsencode(address.value)), f"{PROC}/{directory}/"
    if size <= MAX_NAME:
        return address.value
    through = prefix + os.path.basename(address.value)
    if len(os.fsencode(through)) <= MAX_NAME and os.path.isdir(PROC):
        return through
    why = (
        f"its path has {size} bytes; a socket's may have {MAX_NAME}, or its last part "
        f"{MAX_NAME - len(prefix)} where there is a {PROC}"
    )
    raise cannot(address, why, "choose a shorter one", InvalidAddress, doing)


def who_holds(target: str | bytes, numbers: tuple[int, ...] = _PROBES) -> Peer | None:
    """Learn who holds a name by connecting to it; None means nobody."""
    held = False
    for number in numbers:
        with primitives.socket(socket.AF_UNIX, number) as sock:
            sock.setblocking(False)
            try:
                sock.connect(target)
            except BlockingIOError:
                return UNKNOWN_PEER  # the backlog is full
            except (ConnectionRefusedError, FileNotFoundError):
                continue  # nobody; or not listening yet, as the probe of another type will tell
            except OSError as exc:
                if exc.errno not in {errno.EPROTOTYPE, errno.EPERM}:
                    raise
                held = True  # of another type; EPERM: by a datagram socket with a peer of its own
            else:
                return peer_of(sock)
    return UNKNOWN_PEER if held else None


def type_of(sock: socket.socket) -> SocketType:
    """Return the name of a socket's type."""
    return next(name for name, number in SOCKET_TYPES.items() if number == sock.type)


def type_at(target: str | bytes, not_this: SocketType) -> SocketType | None:
    """Learn of what other type a socket is by connecting to it; None if it cannot be told."""
    for name, number in SOCKET_TYPES.items():
        with primitives.socket(socket.AF_UNIX, number) as sock:
            sock.setblocking(False)
            with suppress(OSError):
                if name != not_this:
                    sock.connect(target)
                    return name
    return None


def wrap(
    address: Address, kind: SocketType | None, doing: str, descriptor: int | None = None
) -> Socket:
    """Make a socket object of a descriptor, which stays open if it is refused.

    The descriptor is the address's own if none is given. None stands for any type of socket.
    """
    with translating(address, "it is no socket", doing):
        number = int(address.value) if descriptor is None else descriptor
        sock = Socket(fileno=number)
    types = SOCKET_TYPES.values() if kind is None else (SOCKET_TYPES[kind],)
    if sock.family == socket.AF_UNIX and sock.type in types:
        return sock
    family, number = (getattr(item, "name", item) for item in (sock.family, sock.type))
    error = WrongSocketType if sock.family == socket.AF_UNIX else InvalidAddress
    sock.detach()
    wanted = "AF_UNIX one" if kind is None else f"AF_UNIX one of type {kind}"
    why = f"it is an {family} socket of type {number}"
    raise cannot(address, why, f"pass an {wanted}", error, doing)


@contextmanager
def target_of(address: Address) -> Iterator[str | bytes]:
    """Give what connect() takes for an address."""
    if address.kind == "abstract":
        yield b"\0" + os.fsencode(address.value)
    elif len(os.fsencode(address.value)) <= MAX_NAME:
        yield address.value
    else:
        directory = os.open(os.path.dirname(address.value) or ".", DIRECTORY)
        try:
            yield path_target(address, directory, "reach")
        finally:
            primitives.close(directory)
