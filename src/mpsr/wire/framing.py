"""Find the messages in a stream of bytes, in any framing.

A deframer is fed what a connection brings, in pieces of any size, and appends what is whole to
a list. Where the bytes break the framing it raises RemoteProtocolError, after appending all
that was good before.
"""

from __future__ import annotations

import re
import struct
from _thread import RLock
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeVar

from mpsr.errors import RemoteProtocolError
from mpsr.limits import APART, DIRECT_READ, MAX_CONTROL_FRAME, MESSAGE_COST
from mpsr.wire import codec
from mpsr.wire.codec import Assembly
from mpsr.wire.frames import HEADER, TAKES_RING, FrameType, RejectCode, malformed, max_frame

if TYPE_CHECKING:
    from typing_extensions import Buffer

Framing = Literal[
    "auto", "native", "lines", "null", "length", "length-le", "octet-counted", "stream"
]

FIRST_BYTES: Final[dict[int, Framing]] = {0x89: "native", 0x00: "length"}  # any other is text
LENGTH_PREFIX: Final = 4  # bytes
ByteOrder = Literal["big", "little"]

_COUNT: Final = re.compile(rb"([1-9][0-9]{0,9}) ")
_BEGUN_COUNT: Final = re.compile(rb"[1-9][0-9]{0,9}|")
_COUNTED_SYSLOG: Final = re.compile(rb"[1-9][0-9]{0,9} <[0-9]{1,3}>")
_OPENING: Final = 16  # bytes: the longest beginning that _COUNTED_SYSLOG matches
_SEPARATOR: Final = re.compile(rb"[\n\0]")
_BATCH_HEAD: Final = struct.Struct("<QII")  # first sequence number, count, zero


class Run(NamedTuple):
    """Whole messages that arrived together, not yet split."""

    length: int
    nbytes: int
    split: Callable[[], list[bytes]]


class RawFrame(NamedTuple):
    """One native frame, its payload not yet decoded."""

    kind: int
    payload: bytes
    flags: int
    bodies: list[bytes] | None = None
    """The messages of a batch of long ones; the payload is then what stands before them."""


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
    """Return the framing that a connection's first byte stands for; "auto" for text."""
    return FIRST_BYTES.get(first_byte, "auto")


def deframer(framing: Framing, max_message: int) -> Deframer[Run]:
    """Return a new deframer for one of the foreign framings, or for text ("auto")."""
    make = _DEFRAMERS.get(framing)
    if make is None:
        error = f"{framing} is not a foreign framing"
        raise ValueError(error)
    return make(max_message)


def _pack_counted(messages: Sequence[Buffer]) -> bytes:
    """Return the messages, each behind its length in digits and a space."""
    parts: list[bytes] = []
    for body in map(codec.to_bytes, messages):
        if not body:
            raise ValueError("an octet-counted message has at least one byte")
        parts += (b"%d " % len(body), body)
    return b"".join(parts)


def _split_counted(data: Buffer, limit: int | None = None) -> tuple[list[bytes], int]:
    """Return the whole messages at the head of ``data``, and where they end.

    They end before a message longer than ``limit``, as before one that is not whole.
    """
    body = bytes(data)
    messages: list[bytes] = []
    end = 0
    while count := _COUNT.match(body, end):
        length = int(count[1])
        if length > len(body) - count.end() or (limit is not None and length > limit):
            break
        end = count.end() + length
        messages.append(body[count.end() : end])
    return messages, end


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
    "octet-counted": ForeignFraming(_pack_counted, lambda data: _split_counted(data)[0]),
    "lines": ForeignFraming(
        lambda messages: codec.pack_delimited(messages, b"\n"),
        lambda data: codec.split_delimited(data, b"\n"),
    ),
    "null": ForeignFraming(
        lambda messages: codec.pack_delimited(messages, b"\0"),
        lambda data: codec.split_delimited(data, b"\0"),
    ),
    "stream": ForeignFraming(b"".join, lambda data: [data], alone=True),
}


FRAMINGS: Final[tuple[Framing, ...]] = ("native", *FOREIGN_FRAMINGS)


class ForeignPacker:
    """Gathers messages in a foreign framing, as the codec's Packer does for native."""

    def __init__(self, foreign: ForeignFraming, max_message: int) -> None:
        self._foreign = foreign
        self._max_message = max_message
        self._lock = RLock()
        self._limit = 0
        self._pieces: list[bytes] = []
        self.cost = 0
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


def single(body: bytes) -> Run:
    """Return the run of one message."""
    return Run(1, len(body), partial(list, (body,)))


class NativeDeframer:
    """Finds native frames.

    A large frame that has begun has a place of its own for the rest (``wanted``), so that
    whoever reads can read straight into it. Where its messages are long, each has its own place,
    so that it never needs another copy.
    """

    def __init__(self, max_message: int) -> None:
        self._max_frame = max_frame(max_message)
        self._header = bytearray()  # a header that is not whole
        self._kind: int | None = None  # the frame whose payload is awaited
        self._flags = 0
        self._length = 0
        self._head: bytes | None = None  # of a batch of long messages
        self._rest: Assembly | None = None  # what has come of the payload, or of those messages
        self._trusted = False  # whether a large frame has come whole before
        self.apart = False  # whether the last frame's messages came apart

    @property
    def begun(self) -> bool:
        """Whether a frame has begun that is not whole."""
        return self._kind is not None or len(self._header) > 0

    @property
    def pending(self) -> int:
        begun = HEADER.size if self._kind is not None else 0
        begun += len(self._header) + len(self._head or b"")
        return begun + (self._rest.filled if self._rest is not None else 0)

    def wanted(self) -> list[memoryview]:
        """Return where the rest of a large frame belongs, if one has begun."""
        rest = self._rest
        return [] if rest is None or rest.missing < DIRECT_READ else rest.rooms()

    def feed_wanted(self, size: int, out: list[RawFrame]) -> None:
        """Take note that ``size`` bytes were read into what ``wanted`` gave."""
        if self._rest is not None:
            self._rest.advance(size)
            self._finish_rest(self._rest, out)

    def feed(self, data: memoryview, out: list[RawFrame]) -> None:
        while data:
            if self._kind is None:
                data = self._feed_header(data)
                if self._kind is None:
                    return
            if self._rest is None:
                data = self._feed_first(data, out)
                if out and out[-1].kind == FrameType.MOVE:
                    return  # behind it there are no frames, but bells
            else:
                piece, data = data[: self._rest.missing], data[self._rest.missing :]
                self._rest.extend(piece)
                self._finish_rest(self._rest, out)

    def finish(self, out: list[RawFrame]) -> None:
        """Do nothing: a frame that is not whole ends with its connection."""

    def _feed_header(self, data: memoryview) -> memoryview:
        if not self._header and len(data) >= HEADER.size:
            self._begin(data[: HEADER.size])
            return data[HEADER.size :]
        take = HEADER.size - len(self._header)
        self._header += data[:take]
        if len(self._header) == HEADER.size:
            self._begin(self._header)
            self._header = bytearray()
        return data[take:]

    def _begin(self, header: Buffer) -> None:
        length, kind, flags, zero = HEADER.unpack(header)
        if (flags and (kind, flags) != (FrameType.HELLO, TAKES_RING)) or zero:
            raise malformed("frame", "its flags and reserved field must be zero")
        limit = self._max_frame if kind == FrameType.BATCH else MAX_CONTROL_FRAME
        if length > limit:
            raise too_large(f"a frame of {length} bytes, the most is {limit}")
        self._kind = kind
        self._flags = flags
        self._length = length

    def _feed_first(self, data: memoryview, out: list[RawFrame]) -> memoryview:
        """Take the first piece of a payload."""
        piece, rest = data[: self._length], data[self._length :]
        if len(piece) == self._length:
            self._finish_frame(bytes(piece), None, out)
            return rest
        sizes = self._sizes(piece)
        if sizes is not None:
            before = self._length - sum(sizes)
            self._head, piece = bytes(piece[:before]), piece[before:]
        self._rest = Assembly([self._length] if sizes is None else sizes, self._trusted)
        self._rest.extend(piece)
        return rest

    def _sizes(self, piece: memoryview) -> list[int] | None:
        """Return the sizes of a batch's messages, if they are long, and all of them have come."""
        if self._kind != FrameType.BATCH or len(piece) < _BATCH_HEAD.size:
            return None
        count = _BATCH_HEAD.unpack_from(piece)[1]
        if count * APART > self._length:
            return None
        try:
            return codec.scan_head(piece[: _BATCH_HEAD.size + 4 * (count + 1)], self._length)[1]
        except ValueError:  # all of it is looked at once it has come
            return None

    def _finish_rest(self, rest: Assembly, out: list[RawFrame]) -> None:
        if not rest.missing:
            self._trusted = True
            bodies = rest.take()
            if self._head is None:
                self._finish_frame(bodies[0], None, out)
            else:
                self._finish_frame(self._head, bodies, out)

    def _finish_frame(
        self, payload: bytes, bodies: list[bytes] | None, out: list[RawFrame]
    ) -> None:
        kind, self._kind = self._kind, None
        self._rest = self._head = None
        self.apart = bodies is not None
        if kind is not None:
            out.append(RawFrame(kind, payload, self._flags, bodies))


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
    """Finds messages behind their lengths (u32).

    In big-endian, it is the format of tokio's LengthDelimitedCodec in its default configuration.
    """

    def __init__(self, byteorder: ByteOrder, max_message: int) -> None:
        self._max_message = max_message
        self._byteorder: ByteOrder = byteorder
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
        count, end, nbytes = codec.scan_length(body, self._max_message, self._byteorder)
        if count:
            split = partial(codec.split_length, body[:end], self._byteorder)
            out.append(Run(count, nbytes, split))
        self._tail = bytearray(body[end:])
        self._needed = LENGTH_PREFIX
        if len(self._tail) >= LENGTH_PREFIX:
            length = int.from_bytes(self._tail[:LENGTH_PREFIX], self._byteorder)
            if length > self._max_message:
                what = f"a message of {length} bytes, the most is {self._max_message}"
                raise too_large(what + self._hint(self._max_message))
            self._needed += length

    def finish(self, out: list[Run]) -> None:  # noqa: ARG002 - nothing whole can be left
        if self._tail:
            error = f"the connection ended {len(self._tail)} bytes into a message"
            error += self._hint(len(self._tail) - LENGTH_PREFIX)
            raise RemoteProtocolError(error, code=RejectCode.MALFORMED)

    def _hint(self, most: int) -> str:
        """Return what to try if the length, read in the other byte order, is no more than that."""
        if len(self._tail) < LENGTH_PREFIX:
            return ""
        other: ByteOrder = "little" if self._byteorder == "big" else "big"
        framing: Framing = "length-le" if other == "little" else "length"
        length = int.from_bytes(self._tail[:LENGTH_PREFIX], other)
        return "" if length > most else f"; {_read_as(other, length, framing)}"


class OctetCountedDeframer:
    """Finds messages behind their lengths in decimal digits and a space: ``5 hello``.

    It is octet counting, by which syslog travels over streams (RFC 6587, section 3.4.1).
    """

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._tail = bytearray()
        self._needed = 1  # bytes in the tail before a look can find anything

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: memoryview, out: list[Run]) -> None:
        self._tail += data
        if len(self._tail) < self._needed:
            return
        messages, end = _split_counted(self._tail, self._max_message)
        if messages:
            out.append(Run(len(messages), sum(map(len, messages)), partial(list, messages)))
            del self._tail[:end]
        self._needed = 1
        count = _COUNT.match(self._tail)
        if count is None:
            if _BEGUN_COUNT.fullmatch(self._tail):
                return
            raise malformed("octet count", "it is no length in digits with a space behind it")
        if int(count[1]) > self._max_message:
            raise too_large(f"a message of {int(count[1])} bytes, the most is {self._max_message}")
        self._needed = count.end() + int(count[1])

    def finish(self, out: list[Run]) -> None:  # noqa: ARG002 - nothing whole can be left
        if self._tail:
            error = f"the connection ended {len(self._tail)} bytes into a message"
            raise RemoteProtocolError(error, code=RejectCode.MALFORMED)


class TextDeframer:
    """Takes text for what it turns out to be: lines, null or octet-counted.

    The first separator decides, a newline or a zero byte; or a length in digits and the priority
    that opens a syslog message: ``34 <165>``. Text that has neither, up to its end, is a line.

    Where a zero byte comes first, four bytes are awaited before it decides. If they are a
    little-endian length, what follows is no text, and is refused.
    """

    def __init__(self, max_message: int) -> None:
        self.framing: Framing = "auto"
        """What it turned out to be; "auto" while nobody knows."""
        self._max_message = max_message
        self._opening = b""  # its first bytes
        self._begun = bytearray()  # what has come while nobody knows
        self._deframer: Deframer[Run] | None = None  # once it is known

    @property
    def pending(self) -> int:
        return len(self._begun) if self._deframer is None else self._deframer.pending

    def feed(self, data: memoryview, out: list[Run]) -> None:
        before = len(self._opening)
        self._opening += bytes(data[: _OPENING - before])
        if before < LENGTH_PREFIX and self._opens_little_endian():
            self._take(data[: LENGTH_PREFIX - before], out)
            length = int.from_bytes(self._opening[:LENGTH_PREFIX], "little")
            raise malformed("text", f"zero bytes; {_read_as('little', length, 'length-le')}")
        self._take(data, out)

    def finish(self, out: list[Run]) -> None:
        if self._deframer is None:
            self._settle("null" if b"\0" in self._begun else "lines", out).finish(out)
        else:
            self._deframer.finish(out)

    def _take(self, data: memoryview, out: list[Run]) -> None:
        if self._deframer is not None:
            self._deframer.feed(data, out)
            return
        self._begun += data
        framing = self._found(data)
        if framing != "auto":
            self._settle(framing, out)
        elif len(self._begun) > max(self._max_message + len(b"\r"), _OPENING):
            raise too_large(f"a message of more than {self._max_message} bytes")

    def _found(self, data: memoryview) -> Framing:
        if _COUNTED_SYSLOG.match(self._opening):
            return "octet-counted"
        separator = _SEPARATOR.search(self._opening) or _SEPARATOR.search(data)
        if separator is None:
            return "auto"
        if separator[0] == b"\n":
            return "lines"
        tells = len(self._opening) >= LENGTH_PREFIX and not self._opens_little_endian()
        return "null" if tells else "auto"

    def _opens_little_endian(self) -> bool:
        """Tell whether the first four bytes are a length below 64 KiB, the low byte first."""
        return self._opening[2:LENGTH_PREFIX] == b"\0\0"

    def _settle(self, framing: Framing, out: list[Run]) -> Deframer[Run]:
        """Have the framing's deframer take what has begun, and go on."""
        self.framing = framing
        self._deframer = deframer(framing, self._max_message)
        begun, self._begun = bytes(self._begun), bytearray()
        self._deframer.feed(memoryview(begun), out)
        return self._deframer


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


_DEFRAMERS: Final[dict[Framing, Callable[[int], Deframer[Run]]]] = {
    "auto": TextDeframer,
    "lines": partial(DelimitedDeframer, b"\n"),
    "null": partial(DelimitedDeframer, b"\0"),
    "length": partial(LengthDeframer, "big"),
    "length-le": partial(LengthDeframer, "little"),
    "octet-counted": OctetCountedDeframer,
    "stream": StreamDeframer,
}


def _read_as(byteorder: ByteOrder, length: int, framing: Framing) -> str:
    """Return what a length is in that byte order, and how to have it read so."""
    unit = "byte" if length == 1 else "bytes"
    return f"read {byteorder}-endian it would be {length} {unit}: choose framing {framing}"


def too_large(what: str) -> RemoteProtocolError:
    """Return the error for what is larger than a limit."""
    return RemoteProtocolError(f"too large: {what}", code=RejectCode.TOO_LARGE)
