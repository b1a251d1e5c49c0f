"""Read what a fuzzer gives: settings first, then how to cut the stream, then the stream.

Whatever the bytes are, they mean something: what is missing counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Final

MOST_PIECES: Final = 100  # behind them, all the rest comes at once
LONGEST: Final = 160 * 1024  # bytes of a stream, once its runs are written out
RUN: Final = 0xF7  # stands before a run's length and byte
RUN_UNIT: Final = 256  # bytes: what a run's length counts


class Source:
    """Gives the bytes of an input, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Tell whether anything is left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next bytes, or as many as there are."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def number(self, size: int = 1) -> int:
        """Return a little-endian number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def sizes(self) -> list[int]:
        """Return the sizes of pieces, to be used in turn; none: all in one piece."""
        return [piece_size(size) for size in self.take(self.number() % 8)]

    def rest(self, *, runs: bool = False) -> bytes:
        """Return what is left, with its runs written out if it has any."""
        data = self.take(len(self._data))
        return written_out(data) if runs else data


def piece_size(number: int) -> int:
    """Return the size that a byte stands for: every small one, and some up to 128 KiB."""
    return number + 1 if number < 128 else (number - 127) << 10


def written_out(data: bytes) -> bytes:
    """Return data with every ``RUN, length, byte`` written out; length 0: the mark itself."""
    first, *others = data.split(bytes([RUN]))
    parts, size = [first], len(first)
    for other in others:
        length = other[0] if other else 0
        run = other[1:2] * (length * RUN_UNIT) if length else bytes([RUN])
        parts += (run, other[2:] if length else other[1:])
        size += len(run) + len(parts[-1])
        if size >= LONGEST:
            break
    return b"".join(parts)[:LONGEST]


def length_together(pieces: list[bytes]) -> list[bytes]:
    """Return the pieces; the first four bytes are in one if they are a length that holds a newline.

    A little-endian length comes in one piece, and only then no line of text precedes its refusal.
    """
    opening = b"".join(pieces)[:4]
    if opening[2:] != b"\0\0" or b"\n" not in opening[:2]:
        return pieces
    first, rest = b"", list(pieces)
    while len(first) < len(opening):
        first += rest.pop(0)
    return [first, *rest]


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Give the data in pieces of these sizes, in turn."""
    begin = 0
    for _, size in zip(range(MOST_PIECES), cycle(sizes), strict=False):
        if begin >= len(data):
            return
        yield data[begin : begin + size]
        begin += size
    if begin < len(data):
        yield data[begin:]
