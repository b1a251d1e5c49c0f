"""Hold a sealed batch until it is accepted, or the note that messages were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpsr._speedups import codec
from mpsr.wire.frames import HEADER, Lost, LostReason, decode_file, encode, encode_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.system.files import KeptFile


class FileMessage(NamedTuple):
    """A message, and the file that goes with it."""

    body: bytes
    file: KeptFile


class SendBatch:
    """Messages with consecutive sequence numbers, packed as they are sent.

    Attributes:
        first_seq: the sequence number of the first message.
        end_seq: the sequence number behind the last message.
        buffers: what is written, in order.
        nbytes: bytes in the buffers.
        cost: bytes of the producer's buffer that it takes.
        reason: why the messages were lost; None if they were not.
        file: what goes along with its one message; None in most.

    """

    __slots__ = (
        "_split",
        "buffers",
        "cost",
        "end_seq",
        "file",
        "first_seq",
        "nbytes",
        "reason",
    )

    def __init__(
        self,
        first_seq: int,
        end_seq: int,
        buffers: list[bytes],
        cost: int,
        *,
        split: Callable[[bytes], list[bytes]] | None = None,
        reason: LostReason | None = None,
    ) -> None:
        self.first_seq: int = first_seq
        self.end_seq: int = end_seq
        self.buffers: list[bytes] = buffers
        self.nbytes: int = sum(map(len, buffers))
        self.cost: int = cost
        self.reason: LostReason | None = reason
        self.file: KeptFile | None = None
        self._split = split  # None for a native frame

    @property
    def count(self) -> int:
        """How many messages it holds, or says were lost."""
        return self.end_seq - self.first_seq

    def split(self) -> list[bytes]:
        """Return the messages."""
        data = b"".join(self.buffers)
        if self._split is not None:
            return self._split(data)
        if self.reason is not None:
            return []
        if self.file is not None:
            return [decode_file(data[HEADER.size :])[1]]
        return codec.split_batch(memoryview(data)[HEADER.size :], 0)


def file_batch(seq: int, message: FileMessage, cost: int) -> SendBatch:
    """Return a message that goes with a file, as a native producer sends it."""
    batch = SendBatch(seq, seq + 1, encode_file(seq, message.body), cost)
    batch.file = message.file
    return batch


def lost_batch(first_seq: int, end_seq: int, reason: LostReason) -> SendBatch:
    """Return the note that messages were lost, as a native producer sends it."""
    buffers = [encode(Lost(first_seq, end_seq - first_seq, reason))]
    return SendBatch(first_seq, end_seq, buffers, 0, reason=reason)
