"""Hold one accepted connection: its socket, its session, and what its bytes are read from."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mpsr.engine.receiving.files import FilePacketEnd, FileReader
from mpsr.engine.transport import GuardedSocketReader, ReadEnd, RingReader, SocketReader
from mpsr.errors import RemoteProtocolError
from mpsr.limits import READ_BEHIND
from mpsr.system import closing, passing
from mpsr.system.clock import monotonic
from mpsr.system.descriptors import DONTWAIT
from mpsr.system.processes import peer_named
from mpsr.system.sockets import unread_in
from mpsr.wire.files import FileSession
from mpsr.wire.frames import HEADER, frame_size

if TYPE_CHECKING:
    from mpsr.batch import Peer
    from mpsr.engine.receiving.datagrams import PacketEnd
    from mpsr.engine.receiving.files import Files
    from mpsr.system.descriptors import Socket
    from mpsr.wire.ledger import ProducerState
    from mpsr.wire.receiving import ReceivingSession

_PEEK: Final = int(socket.MSG_PEEK) | DONTWAIT


class Connection:
    """An accepted connection.

    Attributes:
        open: whether it is not closed.
        order: its number among all that were accepted.
        peer: who is at the other end.
        session: the receiver's end of it.
        reader: what its bytes are read from: the socket, or a ring.
        packets: reads its packets instead, if the kernel keeps their boundaries.
        ring: the ring that it was given.
        in_ring: whether the producer has moved to it: then it is the reader.
        state: where its native producer stands, while the connection speaks for one.
        heard_at: when it last brought something whole, or else when it came.
        heard: whether it has brought something whole.
        unfinished: bytes of a message or frame that has begun and not ended.
        until_ring: bytes to come before it is given a ring; 0 if it is to have none.
        files: set where its producer may send files: bounds how many of its user are open.
        ended: whether its socket has ended, while there may be something in the ring.
        out: what the peer has not taken yet.
        refused: the error of the last write that failed, until it is reported.
        lost: messages that it reported as dropped.
        opened_at: when it was accepted, on the monotonic clock.

    """

    __slots__ = (
        "_behind",
        "_refuses",
        "_spared_at",
        "ended",
        "files",
        "heard",
        "heard_at",
        "in_ring",
        "lost",
        "open",
        "opened_at",
        "order",
        "out",
        "packets",
        "peer",
        "reader",
        "refused",
        "ring",
        "session",
        "socket",
        "state",
        "unfinished",
        "until_ring",
    )

    def __init__(
        self,
        sock: Socket,
        peer: Peer,
        session: ReceivingSession,
        order: int,
        *,
        behind: memoryview,
        refuses: bool,
    ) -> None:
        """Take an accepted socket; ``refuses``: the kernel refuses descriptors for it.

        ``behind`` is memory that all connections of a receiver share.
        """
        self.open: bool = True
        self.order: int = order
        self.socket: Socket = sock
        self.peer: Peer = peer
        self.session: ReceivingSession = session
        self._behind = behind
        self._refuses = refuses
        reader = SocketReader(sock, behind) if refuses else GuardedSocketReader(sock)
        self.reader: ReadEnd = reader
        self.packets: PacketEnd | FilePacketEnd | None = None
        self.files: Files[Connection] | None = None
        self.ring: RingReader | None = None
        self.in_ring: bool = False
        self.state: ProducerState | None = None
        self.heard_at: float = 0.0
        self.heard: bool = False
        self._spared_at: float | None = None  # the value of heard_at then
        self.unfinished: int = 0
        self.until_ring: int = 0
        self.ended: bool = False
        self.out: bytes = b""
        self.refused: OSError | None = None
        self.lost: int = 0
        self.opened_at: float = monotonic()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def accept_files(self, files: Files[Connection]) -> bool:
        """Let files come from now on; return False if the receiver takes none."""
        session = self.session
        if not isinstance(session, FileSession):
            return False
        session.accept_files()
        self.files = files
        self._refuses = False
        passing.allow(self.socket)
        if self.packets is None:
            self.reader = FileReader(self.socket, session, self.uid)
        else:
            self.packets = FilePacketEnd(self.socket, session, self.uid)
        return True

    def stalls(self) -> bool:
        """Return whether its user has so many files that it is not read for now."""
        if self.files is None or not isinstance(self.session, FileSession):
            return False
        return self.files.stalls(self, self.session)

    def _check_files(self) -> RemoteProtocolError | None:
        """Return what is wrong with the descriptors that came with what was read."""
        if self.files is None or not isinstance(self.session, FileSession):
            return None
        return self.files.check(self, self.session)

    @property
    def uid(self) -> int | None:
        """The user at the other end."""
        return self.peer.uid

    @property
    def native(self) -> bool:
        """Whether it is a producer's of ours, which comes back if it is closed."""
        return self.session.framing == "native"

    def feed(self, placed: int, data: bytes, *, ended: bool = False) -> RemoteProtocolError | None:
        """Have the session take what was read, or the end; return what is wrong with it."""
        try:
            if placed:
                self.session.receive_wanted(placed)
            if data:
                self.session.receive_data(data)
            if ended:
                self.session.receive_eof()
        except RemoteProtocolError as exc:
            return exc
        return self._check_files()

    def feed_packets(self, packets: list[bytes]) -> RemoteProtocolError | None:
        """Have the session take packets; return what is wrong with them."""
        try:
            self.session.receive_packets(packets)
        except RemoteProtocolError as exc:
            return exc
        return self._check_files()

    def flush(self, descriptor: int | None = None) -> bool:
        """Send what the peer will take now; return whether it began or ceased to leave a rest.

        A descriptor goes with it, or not at all. In packets, each frame is one.
        """
        had = bool(self.out)
        if self.packets is not None:
            return self._flush_packets(descriptor) != had
        out = self.out + self.session.data_to_send()
        if not out:
            return False
        try:
            self.socket.check()
            if descriptor is None:
                sent = self.socket.send(out)
            else:
                sent = self.socket.sendmsg([out], passing.along(descriptor))
        except BlockingIOError:
            sent = 0
        except OSError as exc:  # gone: reading will tell
            self.refused = exc
            sent = len(out)
        self.out = out[sent:]
        return bool(self.out) != had

    def _flush_packets(self, descriptor: int | None) -> bool:
        """Send frame by frame, a descriptor with the first; return whether there is a rest."""
        self.out += self.session.data_to_send()
        while self.out:
            frame = self.out[: frame_size(self.out)]
            try:
                self.socket.check()
                if descriptor is None:
                    self.socket.send(frame)
                else:
                    self.socket.sendmsg([frame], passing.along(descriptor))
                    descriptor = None
            except BlockingIOError:
                return True
            except OSError as exc:  # gone: reading will tell
                self.refused = exc
                self.out = b""
                break
            self.out = self.out[len(frame) :]
        return False

    def clear_doorbell(self) -> bool:
        """Read the doorbells; return whether the socket has ended."""
        if not self.ended:
            try:
                if self._refuses:
                    self.ended = not self.socket.recv_into(self._behind, 0, DONTWAIT)
                else:
                    data, descriptors = passing.receive(self.socket, READ_BEHIND, DONTWAIT)
                    closing.close_apart(descriptors, self.uid)
                    self.ended = not data
            except BlockingIOError:
                pass
            except OSError:
                self.ended = True
        return self.ended

    def has_ended(self) -> bool:
        """Tell whether the peer may have closed the connection."""
        if self.packets is not None:
            return True  # an empty packet looks alike
        if self.in_ring:
            return self.clear_doorbell()
        try:
            return not self.socket.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def unread(self) -> int:
        """Return how many bytes there are to be read."""
        unread = 0 if self.in_ring else unread_in(self.socket)
        if self.ring is not None:
            with suppress(ValueError):  # reading tells
                unread += self.ring.filled()
        return unread

    def has_message(self) -> bool:
        """Return whether a message, or a part of one, may wait to be read: more than a BYE."""
        return self.unread() > (HEADER.size if self.session.settled else 0)

    def spare(self) -> bool:
        """Return whether it must be read before it counts as silent; at most once per message.

        A peer that sends a message byte by byte is spared once.
        """
        if self._spared_at == self.heard_at or not self.unread():
            return False
        self._spared_at = self.heard_at
        return True

    def close(self, *, inherited: bool = False) -> None:
        """Close the descriptors, and unmap the ring; ``inherited``: the parent has the socket."""
        if self.files is not None and isinstance(self.session, FileSession):
            self.files.forget(self, self.session)
        if self._refuses or (inherited and self.files is not None):
            self.socket.close()
        else:  # what was passed and not read is closed with it
            passing.close_socket(self.socket, self.uid)
        if self.ring is not None:
            self.ring.close()

    def __str__(self) -> str:
        pid, uid = self.peer.pid, self.peer.uid
        name = f"pid {pid}, uid {uid}" if pid is not None else f"{peer_named(pid, uid)}, uid {uid}"
        if self.state is not None and self.state.identity.label:
            name += f", {self.state.identity.label!r}"
        return name
