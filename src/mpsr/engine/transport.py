"""Carry bytes between a producer and its receiver: through a socket, or a ring of shared memory.

The producer has the write end of either, the receiver the read end. Both have the same methods.
Beside a ring there is always the socket: it carries what the receiver says, and a byte of the
producer's, the doorbell, where the receiver has nothing to read and has to be woken.
"""

from __future__ import annotations

import errno
import socket
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from mpsr.errors import RemoteProtocolError
from mpsr.limits import WRITE_TIMEOUT
from mpsr.system import closing, passing
from mpsr.system.descriptors import DONTWAIT
from mpsr.system.poller import READ, WRITE
from mpsr.wire.frames import RejectCode

if TYPE_CHECKING:
    from mpsr._speedups import _c
    from mpsr.system.descriptors import Socket
    from mpsr.system.files import KeptFile

Buffers = Sequence[bytes | memoryview]


class WriteEnd(Protocol):
    """Takes a producer's bytes."""

    room_events: int
    """What to wait for on the socket while it is full."""

    def write(self, buffers: Buffers, *, wait: bool) -> int | OSError:
        """Write what there is room for; return how many bytes, or the error if it is none.

        With ``wait`` a full transport is waited for, WRITE_TIMEOUT without progress at most.
        """

    def is_full(self) -> bool:
        """Tell, behind a write that left something, whether room will be announced."""

    def break_off(self) -> None:
        """End a write that waits in another thread."""


class SocketWriter:
    """Writes to a connected socket, unless its descriptor is another file's by now."""

    room_events = READ | WRITE

    def __init__(self, sock: Socket) -> None:
        self._socket = sock
        self._along: Sequence[tuple[int, int, array[int]]] = ()  # what a write passes

    def write(self, buffers: Buffers, *, wait: bool) -> int | OSError:
        """Write with one system call."""
        try:
            if not self._socket.holds():
                what = "its descriptor was closed by the program"
                return ConnectionAbortedError(errno.ECONNABORTED, what)
            return self._socket.sendmsg(buffers, self._along, 0 if wait else DONTWAIT)
        except OSError as exc:
            return exc

    def is_full(self) -> bool:
        """Return True: the socket becomes writable."""
        return True

    def break_off(self) -> None:
        """Shut the connection down."""
        if self._socket.holds():
            with suppress(OSError):  # it has ended already
                self._socket.shutdown(socket.SHUT_RDWR)


class FileWriter(SocketWriter):
    """Writes to a socket like its base, and passes a file along with the first byte."""

    def __init__(self, sock: Socket, file: KeptFile) -> None:
        super().__init__(sock)
        self._file = file

    def write(self, buffers: Buffers, *, wait: bool) -> int | OSError:
        """Write with one system call; if that takes anything at all, the file is passed."""
        if not self._file.holds():
            return OSError(errno.EBADF, "its descriptor was closed by the program")
        self._along = passing.along(self._file.descriptor)
        return super().write(buffers, wait=wait)


class RingWriter:
    """Writes to a ring, and rings the doorbell of a receiver that sleeps."""

    room_events = READ  # the receiver says so

    def __init__(self, ring: _c.Writer, sock: Socket) -> None:
        self._ring = ring
        self._socket = sock

    def write(self, buffers: Buffers, *, wait: bool) -> int | OSError:
        """Write piece by piece, as the receiver makes room."""
        left, done = sum(map(len, buffers)), 0
        try:
            while left:
                size = self._ring.write(buffers, done)
                done += size
                left -= size
                if size:
                    if self._ring.reader_sleeps() and self._socket.holds():
                        self._ring_doorbell()
                elif not wait or not self._ring.wait_for_room(WRITE_TIMEOUT):
                    break
        except ValueError as exc:
            return ConnectionAbortedError(errno.ECONNABORTED, str(exc))
        except OSError as exc:
            return exc
        return BlockingIOError() if left and not done else done

    def _ring_doorbell(self) -> None:
        with suppress(BlockingIOError):  # then there are doorbells that it has not read yet
            self._socket.send(b"\0", DONTWAIT)

    def is_full(self) -> bool:
        """Ask the receiver to announce room; return False if there is some already."""
        try:
            return self._ring.announce_room()
        except ValueError:
            return False  # the next write tells

    def break_off(self) -> None:
        """Wake the thread that waits for room."""
        self._ring.interrupt()

    def close(self) -> None:
        """Unmap the ring."""
        self._ring.close()


class ReadEnd(Protocol):
    """Gives a receiver its bytes."""

    def read(self, rooms: list[memoryview], size: int) -> tuple[int, bytes]:
        """Read once, without waiting; raise BlockingIOError where there is nothing, or OSError.

        Args:
            rooms: where the next bytes belong, if that is known; they are released.
            size: bytes to read at most, if it is not.

        Returns:
            How many bytes were read into the rooms, and what else was read.

        """


class SocketReader:
    """Reads from a socket for which the kernel refuses descriptors."""

    def __init__(self, sock: socket.socket, behind: memoryview) -> None:
        self._socket = sock
        self._behind = behind

    def read(self, rooms: list[memoryview], size: int) -> tuple[int, bytes]:
        """Read into the rooms, and a little behind them, where the next frame begins."""
        if not rooms:
            return 0, self._socket.recv(size, DONTWAIT)
        room = sum(map(len, rooms))
        try:
            size = self._socket.recvmsg_into([*rooms, self._behind], 0, DONTWAIT)[0]
        finally:
            _release(rooms)
        return min(size, room), bytes(self._behind[: max(0, size - room)])


class GuardedSocketReader:
    """Reads from a socket through which anybody can pass descriptors; who does is refused."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self, rooms: list[memoryview], size: int) -> tuple[int, bytes]:
        """Read beside the rooms; raise RemoteProtocolError where a descriptor came along."""
        _release(rooms)
        data, descriptors = passing.receive(self._socket, size, DONTWAIT)
        if descriptors:
            closing.close_apart(descriptors)
            raise unasked()
        return 0, data


def unasked() -> RemoteProtocolError:
    """Return the error for who passes a descriptor that nobody asked for."""
    text = "it passed a descriptor, which nobody asked for"
    return RemoteProtocolError(text, code=RejectCode.UNEXPECTED)


class RingReader:
    """Reads from a ring."""

    def __init__(self, ring: _c.Reader) -> None:
        self._ring = ring

    def read(self, rooms: list[memoryview], size: int) -> tuple[int, bytes]:
        """Read into the rooms alone: what is behind them stays in the ring."""
        if not rooms:
            return 0, self._ring.recv(size)
        try:
            return self._ring.recv_into(rooms), b""
        finally:
            _release(rooms)

    def wake_writer(self) -> bool:
        """Wake, behind a read, a producer that waits for room; True if the socket has to."""
        return self._ring.wake_writer()

    def filled(self) -> int:
        """Return how many bytes are in the ring; raise ValueError if that cannot be true."""
        return self._ring.filled()

    def close(self) -> None:
        """Unmap the ring."""
        self._ring.close()


def _release(rooms: list[memoryview]) -> None:
    for each in rooms:
        each.release()
