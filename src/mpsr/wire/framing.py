"""Find the messages in a stream of bytes: native, length, lines, null, stream.

A deframer is fed what a connection brings, in pieces of any size, and appends what is whole to
a list. Where the bytes break the framing it raises RemoteProtocolError, after appending all
that was good before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeVar

from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_CONTROL_FRAME
from mpsr.wire import codec
from mpsr.wire.frames import HEADER, FrameType, RejectCode, malformed, max_frame

if TYPE_CHECKING:
    from typing_extensions import Buffer

Framing = Literal["auto", "native", "length", "lines", "null", "stream"]

FIRST_BYTES: Final[dict[int, Framing]] = {0x89: "native", 0x00: "length"}  # else lines
LENGTH_PREFIX: Final = 4  # bytes


class Run(NamedTuple):
    """Whole messages that arrived together, not yet split."""

    length: int
    nbytes: int
    split: Callable[[], list[bytes]]


class RawFrame(NamedTuple):
    """One native frame, its payload not yet decoded."""

    kind: int
    payload: bytes


T = TypeVar("T")
Pack = Callable[[Sequence["Buffer"]], bytes]


class Deframer(Protocol[T]):
    """Finds what is whole in a stream of bytes."""

    @property
    def pending(self) -> int:
        """Bytes of a message or frame that has begun and is not whole."""

    def feed(self, data: memoryview, out: list[T]) -> None:
        """Take what the connection brought; append what is whole."""

    def finish(self, out: list[T]) -> None:
        """Take the end of the stream; append what it completes."""


def detect(first_byte: int) -> Framing:
    """Return the framing that a connection's first byte stands for."""
    return FIRST_BYTES.get(first_byte, "lines")


def deframer(framing: Framing, max_message: int) -> Deframer[Run]:
    """Return a new deframer for one of the foreign framings."""
    match framing:
        case "length":
            return LengthDeframer(max_message)
        case "lines":
            return DelimitedDeframer(b"\n", max_message)
        case "null":
            return DelimitedDeframer(b"\0", max_message)
        case "stream":
            return StreamDeframer(max_message)
        case _:
            error = f"{framing} is not a foreign framing"
            raise ValueError(error)


class ForeignFraming(NamedTuple):
    """How to send messages in a foreign framing."""

    pack: Pack
    split: Callable[[bytes], list[bytes]]
    """Gives the messages in what ``pack`` returned."""
    alone: bool = False
    """Whether a message must travel alone, because nothing marks where it ends."""


FOREIGN_FRAMINGS: Final[dict[Framing, ForeignFraming]] = {
    "length": ForeignFraming(codec.pack_length, codec.split_length),
    "lines": ForeignFraming(
        partial(codec.pack_delimited, delimiter=b"\n"),
        partial(codec.split_delimited, delimiter=b"\n"),
    ),
    "null": ForeignFraming(
        partial(codec.pack_delimited, delimiter=b"\0"),
        partial(codec.split_delimited, delimiter=b"\0"),
    ),
    "stream": ForeignFraming(b"".join, lambda data: [data], alone=True),
}


def single(body: bytes) -> Run:
    """Return the run of one message."""
    return Run(1, len(body), partial(list, (body,)))


class NativeDeframer:
    """Finds native frames."""

    def __init__(self, max_message: int) -> None:
        self._max_frame = max_frame(max_message)
        self._head = bytearray()  # a header that is not whole
        self._kind: int | None = None  # the frame whose payload is awaited
        self._payload = bytearray()
        self._length = 0

    @property
    def pending(self) -> int:
        begun = HEADER.size if self._kind is not None else 0
        return begun + len(self._head) + len(self._payload)

    def feed(self, data: memoryview, out: list[RawFrame]) -> None:
        while data:
            if self._kind is None:
                take = HEADER.size - len(self._head)
                self._head += data[:take]
                data = data[take:]
                if len(self._head) < HEADER.size:
                    return
                self._begin()
            data = self._continue(data, out)

    def finish(self, out: list[RawFrame]) -> None:
        """Do nothing: a frame that is not whole ends with its connection."""

    def _begin(self) -> None:
        length, kind, flags, zero = HEADER.unpack(self._head)
        self._head.clear()
        if flags or zero:
            raise malformed("frame", "its flags and reserved field must be zero")
        limit = self._max_frame if kind == FrameType.BATCH else MAX_CONTROL_FRAME
        if length > limit:
            raise too_large(f"a frame of {length} bytes, the most is {limit}")
        self._kind = kind
        self._length = length

    def _continue(self, data: memoryview, out: list[RawFrame]) -> memoryview:
        missing = self._length - len(self._payload)
        piece, rest = data[:missing], data[missing:]
        if len(piece) < missing:
            self._payload += piece
            return rest
        if self._payload:
            self._payload += piece
            payload = bytes(self._payload)
            self._payload = bytearray()
        else:
            payload = bytes(piece)
        kind, self._kind = self._kind, None
        assert kind is not None  # noqa: S101 - for the type checker
        out.append(RawFrame(kind, payload))
        return rest


class DelimitedDeframer:
    """Finds messages that end with a delimiter; what is left at the end is a message too."""

    def __init__(self, delimiter: bytes, max_message: int) -> None:
        self._delimiter = delimiter
        self._max_message = max_message
        self._removed = (b"\r",) if delimiter == b"\n" else ()  # with the delimiter, if before it
        self._tail = bytearray()

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: memoryview, out: list[Run]) -> None:
        piece = bytes(data)
        end = piece.rfind(self._delimiter) + 1
        if end:
            body = bytes(self._tail) + piece[:end] if self._tail else piece[:end]
            self._tail = bytearray(piece[end:])
            if len(body) > self._max_message:
                self._check(body, out)
            out.append(self._run(body))
        else:
            self._tail += piece
        if len(self._tail) > self._max_message + self._tail.endswith(self._removed):
            raise self._too_large()

    def finish(self, out: list[Run]) -> None:
        if len(self._tail) > self._max_message:
            raise self._too_large()
        if self._tail:
            out.append(single(bytes(self._tail)))
            self._tail.clear()

    def _run(self, body: bytes) -> Run:
        count, nbytes = codec.scan_delimited(body, self._delimiter)
        return Run(count, nbytes, partial(codec.split_delimited, body, self._delimiter))

    def _check(self, body: bytes, out: list[Run]) -> None:
        """Raise if a message in the body is too large, after appending those before it."""
        messages = codec.split_delimited(body, self._delimiter)
        if max(map(len, messages)) <= self._max_message:
            return
        good = list(takewhile(lambda message: len(message) <= self._max_message, messages))
        if good:
            out.append(Run(len(good), sum(map(len, good)), partial(list, good)))
        raise self._too_large()

    def _too_large(self) -> RemoteProtocolError:
        return too_large(f"a message of more than {self._max_message} bytes")


class LengthDeframer:
    """Finds messages behind their lengths (u32, big-endian).

    The format of tokio's LengthDelimitedCodec in its default configuration.
    """

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._tail = bytearray()
        self._needed = LENGTH_PREFIX  # bytes in the tail before a scan can find anything

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: memoryview, out: list[Run]) -> None:
        self._tail += data
        if len(self._tail) < self._needed:
            return
        body = bytes(self._tail)
        count, end, nbytes = codec.scan_length(body, self._max_message)
        if count:
            out.append(Run(count, nbytes, partial(codec.split_length, body[:end])))
        self._tail = bytearray(body[end:])
        self._needed = LENGTH_PREFIX
        if len(self._tail) >= LENGTH_PREFIX:
            length = int.from_bytes(self._tail[:LENGTH_PREFIX], "big")
            if length > self._max_message:
                raise too_large(f"a message of {length} bytes, the most is {self._max_message}")
            self._needed += length

    def finish(self, out: list[Run]) -> None:  # noqa: ARG002 - nothing whole can be left
        if self._tail:
            error = f"the connection ended {len(self._tail)} bytes into a message"
            raise RemoteProtocolError(error, code=RejectCode.MALFORMED)


class StreamDeframer:
    """Takes the whole connection for one message; one that says nothing has no message."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._tail = bytearray()

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: memoryview, out: list[Run]) -> None:  # noqa: ARG002 - only at the end
        self._tail += data
        if len(self._tail) > self._max_message:
            raise too_large(f"a message of more than {self._max_message} bytes")

    def finish(self, out: list[Run]) -> None:
        if self._tail:
            out.append(single(bytes(self._tail)))
            self._tail.clear()


def too_large(what: str) -> RemoteProtocolError:
    """Return the error for what is larger than a limit."""
    return RemoteProtocolError(f"too large: {what}", code=RejectCode.TOO_LARGE)
