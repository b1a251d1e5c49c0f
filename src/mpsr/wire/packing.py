"""Pack messages in any framing but native."""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr._speedups import codec
from mpsr.limits import MESSAGE_COST
from mpsr.wire.foreign import split_counted
from mpsr.wire.framing import Framing

if TYPE_CHECKING:
    from typing_extensions import Buffer

Pack = Callable[[Sequence["Buffer"]], bytes]


def _pack_counted(messages: Sequence[Buffer]) -> bytes:
    """Return the messages, each behind its length in digits and a space."""
    parts: list[bytes] = []
    for body in map(codec.to_bytes, messages):
        if not body:
            raise ValueError("an octet-counted message has at least one byte")
        parts += (b"%d " % len(body), body)
    return b"".join(parts)


class ForeignFraming(NamedTuple):
    """How to send messages in a foreign framing."""

    pack: Pack
    split: Callable[[bytes], list[bytes]]
    """Gives the messages in what ``pack`` returned."""
    alone: bool = False
    """Whether a message must travel alone, because nothing marks where it ends."""


FOREIGN_FRAMINGS: Final[dict[Framing, ForeignFraming]] = {
    "length": ForeignFraming(
        lambda messages: codec.pack_length(messages, "big"),
        lambda data: codec.split_length(data, "big"),
    ),
    "length-le": ForeignFraming(
        lambda messages: codec.pack_length(messages, "little"),
        lambda data: codec.split_length(data, "little"),
    ),
    "octet-counted": ForeignFraming(_pack_counted, lambda data: split_counted(data)[0]),
    "lines": ForeignFraming(
        lambda messages: codec.pack_delimited(messages, b"\n"),
        lambda data: codec.split_delimited(data, b"\n"),
    ),
    "null": ForeignFraming(
        lambda messages: codec.pack_delimited(messages, b"\0"),
        lambda data: codec.split_delimited(data, b"\0"),
    ),
    "eof": ForeignFraming(b"".join, lambda data: [data], alone=True),
}
PACKET: Final = FOREIGN_FRAMINGS["eof"]
"""How to send a message alone in its packet, as "eof" sends it alone in its connection."""
FRAMINGS: Final[tuple[Framing, ...]] = ("native", *FOREIGN_FRAMINGS)

# Where the kernel keeps boundaries, a message travels alone in its packet.
PRODUCER_FRAMINGS: Final[dict[str, tuple[Framing, ...]]] = {
    "stream": FRAMINGS,
    "dgram": ("packet",),
    "seqpacket": ("native", "packet"),
}
"""By the type of socket; the first one is the default."""
RECEIVER_FRAMINGS: Final[dict[str, tuple[Framing, ...]]] = {
    "stream": ("auto", *FRAMINGS),
    "dgram": ("auto", "packet", "lines", "null"),
    "seqpacket": ("auto", "native", "packet", "lines", "null"),
}
"""By the type of socket; the first one is the default."""


class ForeignPacker:
    """Gathers messages in a foreign framing, as the codec's Packer does for native."""

    def __init__(self, foreign: ForeignFraming, max_message: int) -> None:
        self._foreign = foreign
        self._max_message = max_message
        self._lock = RLock()
        self._limit = 0
        self._pieces: list[bytes] = []
        self.cost: int = 0
        self.taken: tuple[int, int, bytes, list[bytes]] = (0, 0, b"", [])
        """What was taken last: its first sequence number, and what ``take`` returned."""

    def __len__(self) -> int:
        return len(self._pieces)

    def open(self, limit: int) -> None:
        """Take messages from now on, as long as their cost stays within the limit."""
        with self._lock:
            self._limit = limit

    def append(self, message: Buffer) -> bool:
        """Take a message, unless it does not fit, or cannot be carried."""
        body = codec.to_bytes(message)
        cost = len(body) + MESSAGE_COST
        with self._lock:
            if self.cost + cost > self._limit or len(body) > self._max_message:
                return False
            try:
                self._pieces.append(self._foreign.pack([body]))
            except ValueError:
                return False
            self.cost += cost
            return True

    def extend(self, messages: Sequence[Buffer], start: int) -> int:
        """Take messages from the start-th on; return the index of the first not taken."""
        while start < len(messages) and self.append(messages[start]):
            start += 1
        return start

    def try_extend(self, messages: Sequence[Buffer]) -> int:  # noqa: ARG002 - as the Packer's
        """Take none: each has to be looked at."""
        return 0

    def take(self, first_seq: int) -> tuple[int, bytes, list[bytes]]:
        """Close; return how many messages there are, no head, and their bytes."""
        with self._lock:
            self._limit = 0  # first: a signal handler may break in behind every call
            data = b"".join(self._pieces)
            self.taken = (first_seq, len(self._pieces), b"", [data])
            self.cost = 0
            self._pieces = []
        return self.taken[1:]

    def close(self) -> None:
        """Take no more until ``open``."""
        with self._lock:
            self._limit = 0
