"""Read datagrams, each of which is a message."""

from __future__ import annotations

import socket
import struct
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final

from mpsr.batch import UNKNOWN_PEER, Batch, Peer, batch_of
from mpsr.limits import DATAGRAMS_PER_ROUND
from mpsr.system import passing

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class DatagramReader:
    """Reads from a datagram socket.

    Attributes:
        discarded: datagrams that were too long.

    """

    def __init__(
        self, max_message: int, decode: Callable[[bytes], Any] | None, logger: Logger
    ) -> None:
        self._max_message = max_message
        self._decode = decode
        self._logger = logger
        self._buffer = memoryview(mmap(-1, max_message + 1))  # untouched pages take no memory
        self._count = 0
        self.discarded: int = 0

    def read(self, sock: socket.socket, *, refuses: bool) -> list[Batch[Any]]:
        """Read a round of datagrams; neighbours from one sender make one batch.

        ``refuses`` says that the kernel refuses descriptors for the socket.
        """
        runs: list[tuple[Peer, list[bytes]]] = []
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + (0 if refuses else passing.ROOM)
        for _ in range(DATAGRAMS_PER_ROUND):
            try:
                size, ancillary, flags, _ = sock.recvmsg_into([self._buffer], room)
            except (BlockingIOError, ConnectionError):
                break
            if not refuses:
                passing.close_apart(passing.descriptors_in(ancillary))
            if flags & socket.MSG_TRUNC or size > self._max_message:
                self.discarded += 1
                what = "discarded a datagram of more than %d bytes"
                self._logger.warning(what, self._max_message)
                continue
            sender = _sender(ancillary)
            if not runs or runs[-1][0] != sender:
                runs.append((sender, []))
            runs[-1][1].append(bytes(self._buffer[:size]))
        return [self._batch(sender, bodies) for sender, bodies in runs]

    def _batch(self, peer: Peer, bodies: list[bytes]) -> Batch[Any]:
        first_seq, self._count = self._count, self._count + len(bodies)
        return batch_of(bodies, peer, first_seq=first_seq, decode=self._decode)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> Peer:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, getattr(socket, "SCM_CREDENTIALS", None)):
            pid, uid, gid = _CREDENTIALS.unpack_from(data)
            return Peer(pid or None, uid, gid)
    return UNKNOWN_PEER
