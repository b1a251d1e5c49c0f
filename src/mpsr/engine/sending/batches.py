"""Hold a sealed batch until it is accepted, or the note that messages were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr._speedups import codec
from mpsr.wire.frames import HEADER, Lost, LostReason, encode

if TYPE_CHECKING:
    from collections.abc import Callable


class SendBatch:
    """Messages with consecutive sequence numbers, packed as they are sent.

    Attributes:
        first_seq: the sequence number of the first message.
        end_seq: the sequence number behind the last message.
        buffers: what is written, in order.
        nbytes: bytes in the buffers.
        cost: bytes of the producer's buffer that it takes.
        reason: why the messages were lost; None if they were not.

    """

    __slots__ = ("_split", "buffers", "cost", "end_seq", "first_seq", "nbytes", "reason")

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
        return codec.split_batch(memoryview(data)[HEADER.size :], 0)


def lost_batch(first_seq: int, end_seq: int, reason: LostReason) -> SendBatch:
    """Return the note that messages were lost, as a native producer sends it."""
    buffers = [encode(Lost(first_seq, end_seq - first_seq, reason))]
    return SendBatch(first_seq, end_seq, buffers, 0, reason=reason)
