"""Read datagrams and packets, whose boundaries the kernel keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mpsr._speedups import packets
from mpsr.batch import UNKNOWN_PEER, Batch, Peer, batch_of
from mpsr.engine.receiving.complaints import Complaints
from mpsr.engine.transport import unasked
from mpsr.errors import Explanation
from mpsr.limits import PACKET_MEMORY, PACKETS_PER_READ
from mpsr.system import closing
from mpsr.wire.foreign import messages_in
from mpsr.wire.frames import HEADER, max_frame
from mpsr.wire.framing import too_large

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from logging import Logger

    from mpsr.engine.receiving.senders import Senders
    from mpsr.errors import RemoteProtocolError
    from mpsr.wire.framing import Framing

_UNTOLD: Final = (0, 65_534, 65_534)  # no pid, overflowuid and overflowgid of the kernel


def packet_reader(max_message: int) -> packets.PacketReader:
    """Return a reader of packets, each of which may be a native frame of a message so long."""
    size = HEADER.size + max_frame(max_message)
    count = max(1, min(PACKETS_PER_READ, PACKET_MEMORY // size))
    while True:
        try:
            return packets.PacketReader(size, count)
        except (MemoryError, OSError) as exc:  # as under ulimit -v
            if count == 1:
                what = f"there is no memory to read datagrams of up to {size:,} bytes"
                why = "a receiver needs that much at once for the longest message"
                advice = "set a smaller max_message, or raise ulimit -v"
                raise MemoryError(Explanation(what, why, advice)) from exc
            count //= 2


class DatagramReader:
    """Reads from a datagram socket, in which each datagram tells its sender.

    Attributes:
        discarded: datagrams that were too long.

    """

    def __init__(
        self,
        reader: packets.PacketReader,
        *,
        address: str,
        framing: Framing,
        senders: Senders,
        max_message: int,
        decode: Callable[[bytes], Any] | None,
        logger: Logger,
    ) -> None:
        self._reader = reader
        self._address = address
        self._senders = senders
        self._framing: Framing = framing
        self._max_message = max_message
        self._decode = decode
        self._logger = logger
        self._complaints = Complaints(logger)
        self._count = 0
        self.discarded: int = 0

    def read(self, sock: socket.socket) -> list[Batch[Any]]:
        """Read datagrams once; neighbours from one sender make one batch."""
        runs: list[tuple[Peer, list[bytes]]] = []
        try:
            read = self._reader.read(sock)
        except (BlockingIOError, ConnectionError):
            return []
        for data, sender, descriptors in read:
            if descriptors:
                closing.close_apart(descriptors, None if sender is None else sender[1])
            if data is None or len(data) > self._max_message:
                self.discarded += 1
                what = "discarded a datagram of more than %d bytes"
                self._complaints.tell(what, self._max_message)
                continue
            peer = _peer(sender)
            if self._senders.refusal(peer, self._logger) is not None:
                continue
            if not runs or runs[-1][0] != peer:
                runs.append((peer, []))
            runs[-1][1].append(data)
        return [self._batch(peer, messages_in(data, self._framing)) for peer, data in runs]

    def _batch(self, peer: Peer, bodies: list[bytes]) -> Batch[Any]:
        first_seq, self._count = self._count, self._count + len(bodies)
        return batch_of(
            bodies, peer, first_seq=first_seq, decode=self._decode, address=self._address
        )


def _peer(sender: tuple[int, int, int] | None) -> Peer:
    """Return who sent a datagram, unless the kernel did not note it when it was sent."""
    if sender is None or sender == _UNTOLD:
        return UNKNOWN_PEER
    return Peer(sender[0] or None, *sender[1:])


class PacketEnd:
    """Reads the packets of a connection."""

    def __init__(self, reader: packets.PacketReader, sock: socket.socket) -> None:
        self._reader = reader
        self._socket = sock

    def read(self) -> tuple[list[bytes], bool, RemoteProtocolError | None]:
        """Read packets once, without waiting.

        Raises BlockingIOError where there is nothing, or OSError.

        Returns:
            The packets, whether the connection has ended, and what is wrong with the next one.

        """
        found: list[bytes] = []
        ended, failure = False, None
        for data, sender, descriptors in self._reader.read(self._socket):
            if descriptors:
                closing.close_apart(descriptors)
                failure = failure or unasked()
            elif data is None:
                failure = failure or too_large("a packet is longer than a message may be")
            elif not data and sender is None:
                ended = True
            elif failure is None:
                found.append(data)
        return found, ended, failure
