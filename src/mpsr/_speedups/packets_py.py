"""Read datagrams or packets one after the other; C reads many with one system call."""

from __future__ import annotations

import socket
import struct
import sys
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final, final

_LINUX: Final = sys.platform == "linux"
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_MOST_DESCRIPTORS: Final = 253  # that one message carries: SCM_MAX_FD of the kernel
_ROOM: Final = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_SCM_CREDENTIALS: Final = getattr(socket, "SCM_CREDENTIALS", None)

Packet = tuple[bytes | None, tuple[int, int, int] | None, list[int]]
"""What was sent at once, None if it was too long; pid, uid and gid of who sent it, where the kernel
tells; and the descriptors that came along."""


@final
class PacketReader:
    """Reads up to ``count`` datagrams or packets, each of up to ``size`` bytes.

    What is not touched of its memory takes none. Raises ValueError or MemoryError where there
    cannot be so much.
    """

    __slots__ = ("_buffer", "_count")

    def __init__(self, size: int, count: int, /) -> None:
        if size < 1 or count < 1:
            raise ValueError("no such memory: choose a smaller size or count")
        self._buffer = memoryview(mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS))
        self._count = count

    def read(self, sock: socket.socket, /) -> list[Packet]:
        """Read what is there, without waiting; raise BlockingIOError for nothing, or OSError.

        The end of a connection is an empty one without a sender: on a socket with SO_PASSCRED
        nothing else is.
        """
        packets: list[Packet] = []
        while len(packets) < self._count:
            try:
                size, along, flags, _ = sock.recvmsg_into([self._buffer], _ROOM, _FLAGS)
            except OSError:
                if not packets:
                    raise
                break
            sender: tuple[int, int, int] | None = None
            descriptors: list[int] = []
            for level, kind, what in along:
                if level != socket.SOL_SOCKET:
                    continue
                if kind == socket.SCM_RIGHTS:
                    whole = len(what) // 4
                    descriptors += struct.unpack(f"{whole}i", what[: whole * 4])
                elif kind == _SCM_CREDENTIALS:
                    pid, uid, gid = _CREDENTIALS.unpack_from(what)
                    sender = (pid, uid, gid)
            data = None if flags & socket.MSG_TRUNC else bytes(self._buffer[:size])
            packets.append((data, sender, descriptors))
            if not size and sender is None and _LINUX:
                break
        return packets
