"""Find messages in a stream of bytes, in any framing but native."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from mpsr._speedups import codec
from mpsr.errors import RemoteProtocolError
from mpsr.wire.frames import RejectCode, malformed
from mpsr.wire.framing import LENGTH_PREFIX, ByteOrder, Deframer, Framing, Run, single, too_large

if TYPE_CHECKING:
    from typing_extensions import Buffer

_COUNT: Final = re.compile(rb"([1-9][0-9]{0,9}) ")
_BEGUN_COUNT: Final = re.compile(rb"[1-9][0-9]{0,9}|")
_COUNTED_SYSLOG: Final = re.compile(rb"[1-9][0-9]{0,9} <[0-9]{1,3}>")
_MAY_BE_SYSLOG: Final = re.compile(rb"(?:[1-9][0-9]{0,9} )?<[0-9]{1,3}>")
_OPENING: Final = 16  # bytes: the longest beginning that _COUNTED_SYSLOG matches
_SEPARATOR: Final = re.compile(rb"[\n\0]")


def deframer(framing: Framing, max_message: int) -> Deframer[Run]:
    """Return a new deframer for one of the foreign framings, or for text ("auto")."""
    make = _DEFRAMERS.get(framing)
    if make is None:
        error = f"{framing} is not a foreign framing"
        raise ValueError(error)
    return make(max_message)


def split_counted(data: Buffer, limit: int | None = None) -> tuple[list[bytes], int]:
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


def messages_in(packets: list[bytes], framing: Framing) -> list[bytes]:
    """Return the messages in datagrams or packets, whose boundaries the kernel keeps.

    With "packet" each is a message. With "auto" too, but a syslog message loses what some clients
    put around it: a zero byte or newline behind it, or its length before it. With "lines" and
    "null" each holds messages that end with the delimiter, or with the packet.
    """
    if framing == "packet":
        return packets
    if framing == "auto":
        return [_bare(each) if _MAY_BE_SYSLOG.match(each) else each for each in packets]
    delimiter = b"\n" if framing == "lines" else b"\0"
    return [
        message
        for each in packets
        for message in codec.split_delimited(
            each if each.endswith(delimiter) else each + delimiter, delimiter
        )
    ]


def _bare(packet: bytes) -> bytes:
    """Return a syslog message without what is around it, and all else as it is."""
    count = _COUNTED_SYSLOG.match(packet) and _COUNT.match(packet)
    if count is not None:
        body = packet[count.end() :]
        return body if len(body) == int(count[1]) else packet
    if packet[-1:] == b"\n":
        return packet[:-1].removesuffix(b"\r")
    return packet.removesuffix(b"\0")


class DelimitedDeframer:
    """Finds messages that end with a delimiter; what is left at the end is a message too."""

    def __init__(self, delimiter: bytes, max_message: int) -> None:
        self._delimiter = delimiter
        self._max_message = max_message
        self._removed = (b"\r",) if delimiter == b"\n" else ()  # with the delimiter, if before it
        self._tail = bytearray()

    @property
    def held(self) -> bytes:
        return bytes(self._tail)

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
    def held(self) -> bytes:
        return bytes(self._tail)

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
    def held(self) -> bytes:
        return bytes(self._tail)

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: memoryview, out: list[Run]) -> None:
        self._tail += data
        if len(self._tail) < self._needed:
            return
        messages, end = split_counted(self._tail, self._max_message)
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

    If the first four bytes are a little-endian length, what follows is no text, and is refused.
    A zero byte waits for them before it decides. A newline does not, because a program may send
    one short line and then nothing: it relies on a length that comes in one piece.
    """

    def __init__(self, max_message: int) -> None:
        self.framing: Framing = "auto"
        """What it turned out to be; "auto" while nobody knows."""
        self._max_message = max_message
        self._opening = b""  # its first bytes
        self._begun = bytearray()  # what has come while nobody knows
        self._deframer: Deframer[Run] | None = None  # once it is known

    @property
    def held(self) -> bytes:
        return bytes(self._begun) if self._deframer is None else self._deframer.held

    @property
    def pending(self) -> int:
        return len(self._begun) if self._deframer is None else self._deframer.pending

    def feed(self, data: memoryview, out: list[Run]) -> None:
        before = len(self._opening)
        self._opening += bytes(data[: _OPENING - before])
        if before < LENGTH_PREFIX and self._opens_little_endian():
            if self._deframer is None:
                self._begun += data[: LENGTH_PREFIX - before]
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


class EofDeframer:
    """Takes the whole connection for one message; one that says nothing has no message."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._tail = bytearray()

    @property
    def held(self) -> bytes:
        return bytes(self._tail)

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
    "eof": EofDeframer,
}


def _read_as(byteorder: ByteOrder, length: int, framing: Framing) -> str:
    """Return what a length is in that byte order, and how to have it read so."""
    unit = "byte" if length == 1 else "bytes"
    return f"read {byteorder}-endian it would be {length} {unit}: choose framing {framing}"
