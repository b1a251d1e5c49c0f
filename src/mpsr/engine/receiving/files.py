"""Read a connection through which files may come, and bound how many each user has there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_FILES, PACKETS_PER_READ
from mpsr.system import closing, passing
from mpsr.wire.frames import HEADER, RejectCode
from mpsr.wire.framing import too_large

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.wire.files import FileSession

_ROOM: Final = passing.ROOM + 1024  # bytes: who sent a packet, and what systemd may ask for beside
_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Holder(Protocol):
    """A connection that may have files."""

    @property
    def uid(self) -> int | None:
        """The user at the other end."""


H = TypeVar("H", bound=Holder)


class Files(Generic[H]):
    """The descriptors that a receiver holds, by user: those of unfinished frames, or to be closed.

    MAX_FILES are shared equally among the users that have some. Once a user has its share, its
    connections that have sent files are stalled: they are not read, so that their producers wait.
    Once it has twice as many, because others have begun to send, so are all that may send files.

    Attributes:
        stalled: the connections that are not read for now, by user.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Begin with none; ``wake`` is called from any thread when a connection may be read."""
        self.stalled: dict[int | None, set[H]] = {}
        self._unfinished: dict[int | None, set[H]] = {}
        self._wake = wake
        self._bound = True

    def stalls(self, connection: H, session: FileSession) -> bool:
        """Stall a connection if its user has its share; return whether it did."""
        uid = connection.uid
        shares = 1 if session.sent_some else 2
        if session.waiting or not self._full(uid, shares):  # the rest of a frame makes room
            return False
        self.stalled.setdefault(uid, set()).add(connection)
        if self._await(uid):
            return True
        self._resumed(connection)
        return False

    def may_resume(self) -> bool:
        """Return whether a stalled connection may be read again."""
        return any(not self._full(uid) for uid in tuple(self.stalled))

    def resume(self) -> list[H]:
        """Return the connections that may be read again."""
        resumed: list[H] = []
        for uid in tuple(self.stalled):
            if not (self._full(uid) and self._await(uid)):
                resumed += self.stalled.pop(uid)
        return resumed

    def unbound(self) -> list[H]:
        """Stall no connection from now on; return those that were stalled."""
        self._bound = False
        return self.resume()

    def _share(self, uid: int | None) -> int:
        users = {uid, *self._unfinished, *closing.owners()} - {None}
        return max(1, MAX_FILES // max(1, len(users)))

    def _full(self, uid: int | None, shares: int = 1) -> bool:
        held = len(self._unfinished.get(uid, ())) + closing.unclosed(uid)
        return self._bound and held >= shares * self._share(uid)

    def _await(self, uid: int | None) -> bool:
        """Have the engine woken when a user has room again; return False if that cannot be."""
        unfinished = len(self._unfinished.get(uid, ()))
        most = max(0, self._share(uid) // 2 - unfinished)
        return closing.call_at(uid, most, self._wake) or unfinished > 0

    def _resumed(self, connection: H) -> None:
        stalled = self.stalled.get(connection.uid)
        if stalled is not None:
            stalled.discard(connection)
            if not stalled:
                del self.stalled[connection.uid]

    def check(self, connection: H, session: FileSession) -> RemoteProtocolError | None:
        """Look at a connection after a read; return why it must be closed, if it must."""
        closing.close_apart(session.unwanted, connection.uid)
        session.unwanted = []
        failure = session.check_files()
        if failure is None and session.waiting:
            self._unfinished.setdefault(connection.uid, set()).add(connection)
        else:
            self._finish(connection)
        return failure

    def _finish(self, connection: H) -> None:
        unfinished = self._unfinished.get(connection.uid)
        if unfinished is None or connection not in unfinished:
            return
        unfinished.discard(connection)
        if not unfinished:
            del self._unfinished[connection.uid]
        if connection.uid in self.stalled:
            self._wake()

    def forget(self, connection: H, session: FileSession) -> None:
        """Close the descriptors that a connection leaves."""
        self._resumed(connection)
        self._finish(connection)
        closing.close_apart(session.take_files(), connection.uid)


def _receive(
    sock: socket.socket, size: int, session: FileSession, uid: int | None
) -> tuple[bytes, int, int]:
    """Receive once; return the bytes, and how many descriptors and what else came with them.

    Raises RemoteProtocolError where the descriptors are more than one, or were lost.
    """
    data, along, flags, _ = sock.recvmsg(size, _ROOM, _FLAGS)
    descriptors = passing.descriptors_in(along)
    if flags & socket.MSG_CTRUNC:  # there is room for all, so it is the process that has none
        closing.close_apart(descriptors, uid)
        text = "a file could not be received: the receiver has too many open"
        raise RemoteProtocolError(text, code=RejectCode.BUSY)
    if len(descriptors) > 1:
        closing.close_apart(descriptors, uid)
        text = f"{len(descriptors)} descriptors at once: a FILE frame has one"
        raise RemoteProtocolError(text, code=RejectCode.UNEXPECTED)
    session.waiting += descriptors
    session.sent_some = session.sent_some or bool(descriptors)
    return data, len(descriptors), len(along) - bool(descriptors)


class FileReader:
    """Reads from a socket through which files come.

    The kernel ends a read behind the data that a descriptor came with.
    """

    def __init__(self, sock: socket.socket, session: FileSession, uid: int | None) -> None:
        self._socket = sock
        self._session = session
        self._uid = uid

    def read(self, rooms: list[memoryview], size: int) -> tuple[int, bytes]:
        """Read beside the rooms; raise RemoteProtocolError where descriptors break a rule."""
        for each in rooms:
            each.release()
        return 0, _receive(self._socket, size, self._session, self._uid)[0]


class FilePacketEnd:
    """Reads the packets of a connection through which files come."""

    def __init__(self, sock: socket.socket, session: FileSession, uid: int | None) -> None:
        self._socket = sock
        self._session = session
        self._uid = uid
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
                data, passed, sender = _receive(self._socket, size + 1, self._session, self._uid)
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
