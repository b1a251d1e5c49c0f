"""Make messages that tell where they come from and whether they are whole."""

from __future__ import annotations

import os
import random
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable

    import mpsr

_FILL: Final = random.Random(1).randbytes(1 << 16)


class Source(NamedTuple):
    """One producer: its process, and which of the producers there it is."""

    pid: int
    stream: int


class Stamp(NamedTuple):
    """What a message says of itself."""

    source: Source
    number: int


def stamped(number: int, *, stream: int = 0, size: int = 0) -> bytes:
    """Return the message of a number: a head that names its source, and ``size`` bytes more."""
    begin = number * 31 % len(_FILL)
    body = (_FILL * (1 + (begin + size) // len(_FILL)))[begin : begin + size]
    return b"%d %d %d %d %d|%b" % (os.getpid(), stream, number, size, crc32(body), body)


def stamp_of(message: bytes) -> Stamp:
    """Return what a message says of itself; fail if it is not whole."""
    head, _, body = message.partition(b"|")
    pid, stream, number, size, check = map(int, head.split())
    assert len(body) == size
    assert crc32(body) == check
    return Stamp(Source(pid, stream), number)


def digest_of(messages: Iterable[bytes]) -> int:
    """Return a number for these messages; the numbers of parts add up to that of the whole."""
    digests = (blake2b(message, digest_size=6).digest() for message in messages)
    return sum(map(int.from_bytes, digests))


class Tally:
    """Counts the messages of every source; fails at one out of order, or of another sender."""

    def __init__(self) -> None:
        self.counts: dict[Source, int] = {}
        self.sources: dict[bytes, Source] = {}  # by producer id

    def take(self, batch: mpsr.Batch) -> None:
        for message in batch:
            source, number = stamp_of(message)
            assert source.pid == batch.peer.pid
            if batch.producer is not None:
                assert self.sources.setdefault(batch.producer.id, source) == source
            assert (source, number) == (source, self.counts.get(source, 0))
            self.counts[source] = number + 1
