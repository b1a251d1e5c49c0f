"""Hold one connection to a receiver: its socket, its session, and what carries the messages."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mpsr.engine.sending.states import CARRIER_TRANSITIONS, Carrier, CarrierEvent
from mpsr.engine.transport import FileWriter, RingWriter, SocketWriter, WriteEnd
from mpsr.limits import MAX_CONTROL_FRAME, SEND_BUFFER, WRITE_TIMEOUT
from mpsr.system import closing, passing, primitives, ring
from mpsr.system.address import SOCKET_TYPES
from mpsr.system.calls import naming
from mpsr.system.descriptors import DONTWAIT
from mpsr.system.sockets import peer_of, wrap
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from mpsr.system.address import Address, SocketType
    from mpsr.system.descriptors import Socket
    from mpsr.system.files import KeptFile
    from mpsr.wire.sending import SendingSession

_WRITE_TIMEOUT: Final = struct.pack("@ll", *divmod(int(WRITE_TIMEOUT * 1e6), 10**6))  # timeval
_OPEN: Final = State.OPEN  # to look it up in the enum takes longer than to compare
_PACKET_OVERHEAD: Final = 32  # bytes of SO_SNDBUF that Linux keeps: unix_dgram_sendmsg()


def largest_packet(address: Address, type: SocketType) -> int:  # noqa: A002 - the standard library's word for it
    """Return how long a datagram or packet may be that is sent to an address."""
    if address.kind == "fd":
        sock = wrap(address, type, "reach")
        try:
            return _room(sock)
        finally:
            sock.detach()
    with naming("socket"):
        probe = primitives.socket(socket.AF_UNIX, SOCKET_TYPES[type])
    with probe:
        if type != "dgram":
            with suppress(OSError):  # then it has the system's size
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        return _room(probe)


def _room(sock: socket.socket) -> int:
    with naming("getsockopt"):
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _PACKET_OVERHEAD


class Connection:
    """A connected socket, and all that is known of the connection.

    Attributes:
        session: the producer's end of a native connection; None under other framings.
        control: what is to be written before any message: preface and HELLO, MOVE or BYE.
        writer: takes what is written.
        carrier: what that is.
        pid: the process that receives, where the kernel tells it.

    """

    def __init__(self, sock: Socket, session: SendingSession | None, *, is_ours: bool) -> None:
        """Take a connected socket; ``is_ours`` says that its options may be changed."""
        self._socket = sock
        if is_ours and sock.type != socket.SOCK_DGRAM:
            with suppress(OSError):  # without them, no write waits in the kernel
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _WRITE_TIMEOUT)
                sock.setblocking(True)  # every call but a write that waits says MSG_DONTWAIT
        self.pid: int | None = peer_of(sock).pid
        self.session = session
        self.control: bytes = b"" if session is None else session.data_to_send()
        self.writer: WriteEnd = SocketWriter(sock)
        self.carrier: Carrier = Carrier.SOCKET
        self._ring: RingWriter | None = None
        self._descriptor: int | None = None  # of a ring that may come
        takes_ring = session is not None and session.takes_ring
        self._refuses = not takes_ring and passing.refuse(sock)  # descriptors: the kernel does

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self.session is None or self.session.state is _OPEN

    def holds(self) -> bool:
        """Tell whether the descriptor is still the socket's: the program may have closed it."""
        return self._socket.holds()

    def read(self, buffer: memoryview) -> memoryview:
        """Read once, without waiting; return what was read, which is nothing at the end.

        Raises BlockingIOError where there is nothing to read, or OSError.
        """
        self._socket.check()  # here: another thread may be closing all descriptors
        if self._refuses:
            return buffer[: self._socket.recv_into(buffer, 0, DONTWAIT)]
        data, descriptors = passing.receive(self._socket, MAX_CONTROL_FRAME, DONTWAIT)
        if descriptors:
            self._keep_descriptor(descriptors)
        return memoryview(data)

    def writer_of(self, file: KeptFile | None) -> WriteEnd:
        """Return what writes, and passes a file with it; that goes through the socket alone."""
        if file is None:
            return self.writer
        return FileWriter(self._socket, file)

    def control_written(self, size: int) -> bool:
        """Note that ``size`` bytes of ``control`` were written; return whether that is all."""
        self.control = self.control[size:]
        if not self.control and self.carrier is Carrier.SWITCHING and self._ring is not None:
            self._change(CarrierEvent.MOVE)
            self.writer = self._ring
        return not self.control

    def say_bye(self) -> None:
        """Prepare to say that this is an orderly end."""
        if self.session is not None:
            self.session.bye()
            self.control = self.session.data_to_send()

    def close(self) -> None:
        """Close the descriptors, and unmap the ring."""
        self._forget_descriptor()
        if self._ring is not None:
            self._ring.close()
        if self._refuses:
            with suppress(OSError):
                self._socket.close()
        else:
            passing.close_socket(self._socket)

    # -- the ring ---------------------------------------------------------------------------

    def take_ring(self, size: int) -> None:
        """Take the ring that the receiver gives, if it is as it should be; else go on without."""
        if self._descriptor is not None:
            mapped = ring.attach(self._descriptor, size)
            if mapped is not None:
                self._ring = RingWriter(mapped, self._socket)
                self._change(CarrierEvent.RING)
                primitives.close(self._descriptor)
                self._descriptor = None
        self._forget_descriptor()
        self._refuses = passing.refuse(self._socket)  # there is but one ring

    def switch(self) -> None:
        """Prepare to say, between two frames, that what follows comes through the ring."""
        if self.session is not None and self.is_open and not self.control:
            self.session.move()
            self.control = self.session.data_to_send()

    def _change(self, event: CarrierEvent) -> None:
        self.carrier = CARRIER_TRANSITIONS[self.carrier, event]

    def _keep_descriptor(self, descriptors: list[int]) -> None:
        """Keep the first descriptor, if it may be a ring's, and close the others."""
        takes_ring = self.session is not None and self.session.takes_ring
        if takes_ring:
            self._forget_descriptor()
            self._descriptor = descriptors.pop(0)
        closing.close_apart(descriptors)

    def _forget_descriptor(self) -> None:
        if self._descriptor is not None:
            closing.close_apart([self._descriptor])  # nobody knows what it is of
            self._descriptor = None
