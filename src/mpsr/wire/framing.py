"""Name the framings, and say what finds the messages of one in a stream of bytes.

A deframer is fed what a connection brings, in pieces of any size, and appends what is whole to
a list. Where the bytes break the framing it raises RemoteProtocolError, after appending all
that was good before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from mpsr.errors import RemoteProtocolError
from mpsr.wire.frames import RejectCode

Framing = Literal[
    "auto", "native", "lines", "null", "length", "length-le", "octet-counted", "eof", "packet"
]
FIRST_BYTES: Final[dict[int, Framing]] = {0x89: "native", 0x00: "length"}  # any other is text
LENGTH_PREFIX: Final = 4  # bytes
ByteOrder = Literal["big", "little"]


class Run(NamedTuple):
    """Whole messages that arrived together, not yet split."""

    length: int
    nbytes: int
    split: Callable[[], list[bytes]]


T = TypeVar("T")


class Deframer(Protocol[T]):
    """Finds what is whole in a stream of bytes."""

    @property
    def held(self) -> bytes:
        """The message or frame that has begun and is not whole, as far as it has come."""

    @property
    def pending(self) -> int:
        """Bytes of a message or frame that has begun and is not whole."""

    def feed(self, data: memoryview, out: list[T]) -> None:
        """Take what the connection brought; append what is whole."""

    def finish(self, out: list[T]) -> None:
        """Take the end of the stream; append what it completes."""


def detect(first_byte: int) -> Framing:
    """Return the framing that a connection's first byte stands for; "auto" for text."""
    return FIRST_BYTES.get(first_byte, "auto")


def single(body: bytes) -> Run:
    """Return the run of one message."""
    return Run(1, len(body), partial(list, (body,)))


def too_large(what: str) -> RemoteProtocolError:
    """Return the error for what is larger than a limit."""
    return RemoteProtocolError(f"too large: {what}", code=RejectCode.TOO_LARGE)
