"""Pack and split messages: the pure-Python twin of the hot functions.

A message or a buffer is any bytes-like object; one of wide items, or with gaps between them,
stands for its items' bytes, in order. Messages come back as bytes. A malformed buffer raises
ValueError, which says what is wrong with it, and nothing is read that was not checked before.
All arguments are positional. The C twin, _codec.c, gives the same answer to every call, errors
and their words included.
"""

from __future__ import annotations

import struct
import sys
from array import array
from itertools import accumulate, pairwise
from operator import index, le
from threading import RLock
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Buffer

BATCH_HEAD: Final = struct.Struct("<QII")  # first sequence number, count, zero
_FRAME: Final = struct.Struct("<IBBHQII")  # frame header and batch head in one
_LENGTH: Final = struct.Struct(">I")
_BATCH: Final = 3  # the frame type
_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_FIRST_ROOM: Final = 16 * 1024  # bytes set aside when nothing has come
_SURE_ROOM: Final = 128 * 1024  # bytes: once so much has come, room is made for all
_NEWLINE: Final = b"\n"
_MESSAGE_COST: Final = 8  # bytes that a packer counts for a message beside its own
_MAX_COST: Final = _U32 - BATCH_HEAD.size - 4  # so that what a packer took always fits a frame


def to_bytes(message: Buffer, /) -> bytes:
    """Return a message as bytes: itself, or a copy that nobody else can change.

    Raises TypeError for what is not bytes-like (text, numbers).
    """
    if type(message) is bytes:
        return message
    try:
        return bytes(memoryview(message))
    except TypeError:
        kind = type(message).__name__
        error = f"a message is bytes-like, not {kind}: encode it, or give the producer encode="
        raise TypeError(error) from None


def _whole(data: Buffer) -> bytes:
    return data if type(data) is bytes else bytes(memoryview(data))


def longest(messages: Sequence[Buffer], /) -> int:
    """Return the length of the longest message, 0 where there is none; TypeError as to_bytes."""
    return max((len(to_bytes(message)) for message in messages), default=0)


# -- native ---------------------------------------------------------------------------------


def pack_batch(messages: Sequence[Buffer], first_seq: int, /) -> bytes:
    """Return one whole BATCH frame, header included, that carries the messages."""
    first_seq = index(first_seq)
    bodies = [to_bytes(message) for message in messages]
    if not bodies:
        raise ValueError("a batch holds at least one message")
    return b"".join([_batch_head(map(len, bodies), len(bodies), first_seq), *bodies])


def _batch_head(lengths: Iterable[int], count: int, first_seq: int) -> bytes:
    """Return what stands before the bodies: frame header, batch head, offsets."""
    _check_seq(first_seq, count)
    ends = list(accumulate(lengths, initial=0))
    length = BATCH_HEAD.size + 4 * len(ends) + ends[-1]
    if length > _U32:
        raise ValueError("a batch must be shorter than 4 GiB")
    head = _FRAME.pack(length, _BATCH, 0, 0, first_seq, count, 0)
    return head + _little_endian(array("I", ends)).tobytes()


def _check_seq(first_seq: int, count: int) -> None:
    if not 0 <= first_seq <= _U64 - count:
        raise ValueError("the sequence numbers of a batch must fit in 64 bits")


def scan_batch(payload: Buffer, /) -> tuple[int, int, int]:
    """Check a BATCH payload; return its first sequence number, count and bytes of messages."""
    data = _whole(payload)
    if len(data) < BATCH_HEAD.size:
        raise ValueError("the batch is shorter than its head")
    first_seq, count, zero = BATCH_HEAD.unpack_from(data)
    if zero != 0:
        raise ValueError("the batch's reserved field is not zero")
    if count == 0:
        raise ValueError("the batch is empty")
    if first_seq > _U64 - count:
        raise ValueError("the batch's sequence numbers do not fit in 64 bits")
    nbytes = len(data) - BATCH_HEAD.size - 4 * (count + 1)
    if nbytes < 0:
        raise ValueError("the batch is shorter than its offsets")
    offsets = _offsets(data, count)
    if offsets[0] != 0 or offsets[-1] != nbytes or not all(map(le, offsets, offsets[1:])):
        raise ValueError("the batch's offsets do not run from 0 to its end")
    return first_seq, count, nbytes


def split_batch(payload: Buffer, start: int, /) -> list[bytes]:
    """Return the messages of a BATCH payload, from the start-th; check it as ``scan_batch``."""
    start = index(start)
    data = _whole(payload)
    _, count, _ = scan_batch(data)
    _check_start(start, count)
    base = BATCH_HEAD.size + 4 * (count + 1)
    ends = [base + offset for offset in _offsets(data, count)[start:]]
    return [data[begin:end] for begin, end in pairwise(ends)]


def _check_start(start: int, count: int) -> None:
    if not 0 <= start <= count:
        raise ValueError("the start lies outside the messages")


def _offsets(data: bytes, count: int) -> array[int]:
    offsets = array("I")
    offsets.frombytes(data[BATCH_HEAD.size : BATCH_HEAD.size + 4 * (count + 1)])
    return _little_endian(offsets)


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":  # pragma: no cover - big-endian machines
        numbers.byteswap()
    return numbers


@final
class Packer:
    """Gathers messages for one BATCH frame, copying each once.

    It takes messages of up to ``max_message`` bytes, only while it is open, and only as long
    as their cost stays within the limit: each costs its length and eight bytes. Any thread
    may call any method at any time, a signal handler too; each call takes effect as a whole.
    A call that raises changes nothing.
    """

    __slots__ = ("_cost", "_given_up", "_last", "_limit", "_lock", "_max_message", "_messages")

    def __init__(self, max_message: int, /) -> None:
        self._max_message = index(max_message)
        self._limit = -1  # of the cost; negative while closed
        self._cost = 0
        self._messages: list[bytes] = []
        self._given_up: tuple[int, list[bytes]] = (0, [])
        self._last: tuple[list[bytes], tuple[int, int, bytes, bytes]] | None = None
        self._lock = RLock()  # reentrant: a signal handler may append while its thread does

    def open(self, limit: int, /) -> None:
        """Take messages from now on, as long as the cost stays within the limit.

        The limit replaces the one before. What was appended stays, whatever it costs.
        """
        limit = index(limit)
        with self._lock:
            self._limit = min(limit, _MAX_COST)

    def append(self, message: Buffer, /) -> bool:
        """Take a message; False, and nothing is taken, if it is too large or does not fit.

        Raises TypeError for what is not bytes-like, whether the packer is open or not.
        """
        body = message if type(message) is bytes else to_bytes(message)
        size = len(body)
        with self._lock:
            cost = self._cost + size + _MESSAGE_COST
            if size > self._max_message or cost > self._limit:
                return False
            self._cost = cost  # before the call, which may let a signal handler in
            self._messages.append(body)
            return True

    def extend(self, messages: Sequence[Buffer], start: int, /) -> int:
        """Append the messages from the start-th on; return the index where it stopped.

        It stops at the end, at the first message that ``append`` does not take, and at one
        that makes ``append`` raise; where that is the start-th itself, it raises the same.
        """
        start = index(start)
        if type(messages) not in (list, tuple):
            messages = list(messages)
        _check_start(start, len(messages))
        position = start
        while position < len(messages):
            try:
                if not self.append(messages[position]):
                    break
            except Exception:
                if position == start:
                    raise
                break
            position += 1
        return position

    def take(self, first_seq: int, /) -> tuple[int, bytes, bytes]:
        """Close the packer and give up what it holds: the count, the head and the bodies.

        Head and bodies together are the frame that ``pack_batch`` makes of the messages; of
        none both are empty.
        """
        first_seq = index(first_seq)
        with self._lock:
            _check_seq(first_seq, len(self._messages))
            # From here to the lock's end nothing is called, so no signal handler comes in.
            self._limit = -1
            messages = self._messages
            self._given_up = (first_seq, messages)
            self._messages = []
            self._cost = 0
        return self._packed(first_seq, messages)[1:]

    @property
    def taken(self) -> tuple[int, int, bytes, bytes]:
        """The last first_seq, and what ``take`` gave or would have, had nothing broken in."""
        return self._packed(*self._given_up)

    def _packed(self, first_seq: int, messages: list[bytes]) -> tuple[int, int, bytes, bytes]:
        last = self._last
        if last is None or last[0] is not messages:
            count = len(messages)
            head = _batch_head(map(len, messages), count, first_seq) if count else b""
            last = self._last = (messages, (first_seq, count, head, b"".join(messages)))
        return last[1]

    def close(self) -> None:
        """Take no more until the packer is opened again; what was appended stays."""
        with self._lock:
            self._limit = -1

    def __len__(self) -> int:
        """Return how many messages there are now."""
        return len(self._messages)

    @property
    def cost(self) -> int:
        """The bytes of the messages there are now, and eight for each."""
        return self._cost


# -- lines and null -------------------------------------------------------------------------


def pack_delimited(messages: Sequence[Buffer], delimiter: bytes, /) -> bytes:
    """Return the messages, each followed by the delimiter (one byte).

    Raises ValueError for a message that would not come back as it was: one that holds the
    delimiter, or, in lines, that ends in a carriage return.
    """
    _check_delimiter(delimiter)
    bodies = [to_bytes(message) for message in messages]
    for body in bodies:
        if delimiter in body:
            raise ValueError(f"the message holds the delimiter {delimiter!r}")
        if delimiter == _NEWLINE and body.endswith(b"\r"):
            raise ValueError("the message ends in a carriage return, which lines do not keep")
    bodies.append(b"")
    return delimiter.join(bodies)


def scan_delimited(data: Buffer, delimiter: bytes, /) -> tuple[int, int]:
    """Return the count and bytes of the messages in ``data``, which ends with the delimiter."""
    _check_delimiter(delimiter)
    body = _ended(data, delimiter)
    count = body.count(delimiter)
    nbytes = len(body) - count
    if delimiter == _NEWLINE:
        nbytes -= body.count(b"\r\n")
    return count, nbytes


def split_delimited(data: Buffer, delimiter: bytes, /) -> list[bytes]:
    """Return the messages in ``data``, which ends with the delimiter."""
    _check_delimiter(delimiter)
    body = _ended(data, delimiter)
    if delimiter == _NEWLINE:
        body = body.replace(b"\r\n", _NEWLINE)
    messages = body.split(delimiter)
    messages.pop()
    return messages


def _check_delimiter(delimiter: bytes) -> None:
    if type(delimiter) is not bytes or len(delimiter) != 1:
        raise ValueError(f"a delimiter is one byte, not {delimiter!r}")


def _ended(data: Buffer, delimiter: bytes) -> bytes:
    body = _whole(data)
    if body and not body.endswith(delimiter):
        raise ValueError(f"the data does not end with the delimiter {delimiter!r}")
    return body


# -- length ---------------------------------------------------------------------------------


def pack_length(messages: Sequence[Buffer], /) -> bytes:
    """Return the messages, each behind its length (u32, big-endian)."""
    bodies = [to_bytes(message) for message in messages]
    parts: list[bytes] = []
    for body in bodies:
        if len(body) > _U32:
            raise ValueError("a length-delimited message must be shorter than 4 GiB")
        parts += (_LENGTH.pack(len(body)), body)
    return b"".join(parts)


def scan_length(data: Buffer, limit: int, /) -> tuple[int, int, int]:
    """Return the count, end and bytes of the whole messages at the head of ``data``.

    The scan stops at a message longer than ``limit``, as it does at one that is not whole.
    """
    limit = index(limit)
    body = _whole(data)
    count = end = 0
    size = len(body)
    while size - end >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(body, end)
        if length > limit or size - end - _LENGTH.size < length:
            break
        end += _LENGTH.size + length
        count += 1
    return count, end, end - _LENGTH.size * count


def split_length(data: Buffer, /) -> list[bytes]:
    """Return the messages in ``data``, which ends with the last of them."""
    body = _whole(data)
    messages: list[bytes] = []
    begin = 0
    size = len(body)
    while begin < size:
        end = begin + _LENGTH.size
        if end <= size:
            (length,) = _LENGTH.unpack_from(body, begin)
            begin, end = end, end + length
        if end > size:
            raise ValueError("the data ends within a message")
        messages.append(body[begin:end])
        begin = end
    return messages


# -- assembling ------------------------------------------------------------------------------


class Assembly:
    """Gathers bytes that come in pieces, up to a length that is known, and may be a lie.

    So at first it sets aside no more than what has come, and as much again.
    """

    __slots__ = ("_data", "_length", "filled")

    def __init__(self, length: int, /) -> None:
        self._length = index(length)
        if not 0 <= self._length <= _U32:
            raise ValueError("the length must fit in 32 bits")
        self._data = bytearray()
        self.filled = 0
        """The bytes that have come."""

    @property
    def missing(self) -> int:
        """The bytes that have not come."""
        return self._length - self.filled

    def room(self) -> memoryview:
        """Return where the next bytes belong; release it before anything else."""
        self._grow()
        return memoryview(self._data)[self.filled :]

    def _grow(self) -> None:
        """Make room for one byte more at least."""
        if self.filled == len(self._data) < self._length:
            sure = self.filled >= _SURE_ROOM
            size = self._length if sure else min(self._length, max(_FIRST_ROOM, 2 * self.filled))
            self._data += bytes(size - self.filled)

    def advance(self, size: int, /) -> None:
        """Take note that so many bytes were put into the room."""
        if not 0 <= index(size) <= len(self._data) - self.filled:
            raise ValueError("there is no room for so many bytes")
        self.filled += size

    def extend(self, piece: Buffer, /) -> None:
        """Take a piece."""
        body = memoryview(piece).cast("B")
        if len(body) > self.missing:
            raise ValueError("there is no room for so many bytes")
        while body:
            self._grow()
            end = min(self.filled + len(body), len(self._data))
            piece, body = body[: end - self.filled], body[end - self.filled :]
            self._data[self.filled : end] = piece
            self.filled = end

    def take(self) -> bytes:
        """Return all, once nothing is missing; then there is nothing more to come."""
        if self.missing:
            raise ValueError("something is missing, or the room is not released")
        data = bytes(self._data)
        self._data = bytearray()
        self._length = self.filled = 0
        return data
