"""Read a connection through which files may come, and bound how many wait."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_FILES, PACKETS_PER_READ
from mpsr.system import passing
from mpsr.wire.frames import HEADER, RejectCode
from mpsr.wire.framing import too_large

if TYPE_CHECKING:
    from collections.abc import Hashable

    from mpsr.wire.files import FileSession

_ROOM: Final = passing.ROOM + 1024  # bytes: who sent a packet, and what systemd may ask for beside
_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class FilesUnderWay:
    """The connections of a receiver that have a descriptor whose frame is not whole."""

    def __init__(self) -> None:
        self._holders: set[Hashable] = set()

    def check(self, holder: Hashable, session: FileSession) -> RemoteProtocolError | None:
        """Look at a connection behind a read; return why it is to be closed, if it is."""
        passing.close_apart(session.unwanted)
        session.unwanted = []
        failure = session.check_files()
        if failure is not None or not session.waiting:
            self._holders.discard(holder)
            return failure
        self._holders.add(holder)
        if len(self._holders) <= MAX_FILES:
            return None
        text = f"more than {MAX_FILES} files are under way: try again later"
        return RemoteProtocolError(text, code=RejectCode.BUSY)

    def forget(self, holder: Hashable, session: FileSession) -> None:
        """Close the descriptors that a connection leaves."""
        self._holders.discard(holder)
        passing.close_apart(session.take_files())


def _receive(sock: socket.socket, size: int, session: FileSession) -> tuple[bytes, int, int]:
    """Receive once; return the bytes, and how many descriptors and what else came with them.

    Raises RemoteProtocolError where the descriptors are more than one, or were lost.
    """
    data, along, flags, _ = sock.recvmsg(size, _ROOM, _FLAGS)
    descriptors = passing.descriptors_in(along)
    if flags & socket.MSG_CTRUNC:  # there is room for all, so it is the process that has none
        passing.close_apart(descriptors)
        text = "a file could not be received: the receiver has too many open"
        raise RemoteProtocolError(text, code=RejectCode.BUSY)
    if descriptors and passing.unclosed() > MAX_FILES:
        passing.close_apart(descriptors)
        text = f"more than {MAX_FILES} files are still to be closed: try again later"
        raise RemoteProtocolError(text, code=RejectCode.BUSY)
    if len(descriptors) > 1:
        passing.close_apart(descriptors)
        text = f"{len(descriptors)} descriptors at once: a FILE frame has one"
        raise RemoteProtocolError(text, code=RejectCode.UNEXPECTED)
    session.waiting += descriptors
    return data, len(descriptors), len(along) - bool(descriptors)


class FileReader:
    """Reads from a socket through which files come.

    The kernel ends a read behind the data that a descriptor came with.
    """

    def __init__(self, sock: socket.socket, session: FileSession) -> None:
        self._socket = sock
        self._session = session

    def read(self, rooms: list[memoryview], size: int) -> tuple[int, bytes]:
        """Read beside the rooms; raise RemoteProtocolError where descriptors break a rule."""
        for each in rooms:
            each.release()
        return 0, _receive(self._socket, size, self._session)[0]


class FilePacketEnd:
    """Reads the packets of a connection through which files come."""

    def __init__(self, sock: socket.socket, session: FileSession) -> None:
        self._socket = sock
        self._session = session
        self._most = HEADER.size + session.max_frame
        self._peeked = bytearray(1)

    def read(self) -> tuple[list[bytes], bool, RemoteProtocolError | None]:
        """Read packets like ``PacketEnd.read``, up to one with a file."""
        found: list[bytes] = []
        try:
            while len(found) < PACKETS_PER_READ:
                size = self._socket.recv_into(self._peeked, 1, socket.MSG_PEEK | socket.MSG_TRUNC)
                if size > self._most:
                    return found, False, too_large("a packet is longer than a message may be")
                data, passed, sender = _receive(self._socket, size + 1, self._session)
                if not data and not sender:  # an empty packet has a sender
                    return found, True, None
                found.append(data)
                if passed:
                    break
        except BlockingIOError:
            if not found:
                raise
        except RemoteProtocolError as exc:
            return found, False, exc
        return found, False, None
