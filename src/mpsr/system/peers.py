"""Ask the kernel for more about the process at the other end of a connection."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mpsr.batch import Peer
from mpsr.system import primitives
from mpsr.system.address import LINUX
from mpsr.system.sockets import peer_of

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")

_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>; the socket module names neither
_SO_PEERPIDFD: Final = 77
_MOST_GROUPS: Final = 65_536  # NGROUPS_MAX of the kernel
_START_FIELD: Final = 19  # of /proc/PID/stat behind the name: field 22 of proc(5)


class ConnectedPeer(Peer):
    """The process that has made a connection, which is asked through the connection's socket."""

    _socket: socket.socket

    def __new__(cls, sock: socket.socket) -> Self:
        """Ask who is at the other end of a socket."""
        peer = super().__new__(cls, *peer_of(sock))
        peer._socket = sock
        return peer

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as what is known for sure: the numbers."""
        return Peer, tuple(self)

    def __repr__(self) -> str:
        return repr(Peer(*self))

    @property
    def groups(self) -> tuple[int, ...] | None:
        if not LINUX:
            return None
        size = 32
        while size <= _MOST_GROUPS:
            try:
                raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * size)
                return struct.unpack(f"{len(raw) // 4}I", raw)
            except OSError as exc:
                if exc.errno != errno.ERANGE:  # else there are more
                    return None
                size *= 8
        return None

    def open_pidfd(self) -> int | None:
        if not LINUX:
            return None
        try:
            descriptor = self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            return None
        os.set_inheritable(descriptor, False)
        return descriptor

    @property
    def executable(self) -> str | None:
        return self._read(lambda pid: os.readlink(f"/proc/{pid}/exe"))

    @property
    def started_at(self) -> float | None:
        return self._read(_started_at)

    def _read(self, read: Callable[[int], T]) -> T | None:
        """Read something of the process; None where its number may be another's by now."""
        descriptor = self.open_pidfd()
        if descriptor is None:
            return None
        try:
            found = read(self.pid or 0)
            return found if _lives(descriptor) else None  # then what was read was of it
        except (OSError, ValueError):
            return None
        finally:
            primitives.close(descriptor)


def _lives(pidfd: int) -> bool:
    """Tell whether a process was not waited for yet: its number is no other's."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:  # it is another user's
        return True
    except OSError:
        return False
    return True


def _started_at(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    since_boot = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
