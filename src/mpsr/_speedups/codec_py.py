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
from bisect import bisect_right
from collections import deque
from io import BytesIO
from itertools import accumulate, groupby, islice
from operator import index, sub
from typing import TYPE_CHECKING, Final, Literal, final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from typing_extensions import Buffer

    ByteOrder = Literal["big", "little"]

_BATCH_HEAD: Final = struct.Struct("<QII")  # first sequence number, count, zero
_HEADER: Final = struct.Struct("<IBBH")  # of a frame: length, type, flags, zero
_FRAME: Final = struct.Struct("<IBBHQII")  # frame header and batch head in one
_LENGTHS: Final = {"big": struct.Struct(">I"), "little": struct.Struct("<I")}
_LENGTH_SIZE: Final = 4  # bytes
_BATCH: Final = 3  # the frame type
_U32: Final = 0xFFFF_FFFF
_MAX_SEQ: Final = 2**63 - 1  # of the number after the last message: outputs have signed integers
_SHARED: Final = 8 * 1024  # bytes: a message so long is not copied, but held (limits.LONG_MESSAGE)
_SHARED_PART: Final = 8  # a payload shares the data's memory, if it is no smaller a part of it …
_LEAST_SHARED: Final = 1024  # … and no shorter than this
_FIRST_ROOM: Final = 16 * 1024  # bytes set aside when nothing has come
_SURE_ROOM: Final = 128 * 1024  # bytes: once so much has come, room is made for more
_AHEAD: Final = 1024 * 1024  # bytes of room beyond the message that has begun
_MOST_ROOMS: Final = 64  # fewer than one read may fill
_NEWLINE: Final = b"\n"
_MESSAGE_COST: Final = 8  # bytes that a packer counts for a message beside its own
_MAX_COST: Final = _U32 - _BATCH_HEAD.size - 4  # so that what a packer took always fits a frame


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
        error = (
            f"a message is bytes-like, not {kind}: encode it, as text.encode() does, or give the "
            "producer an encode= that returns bytes"
        )
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
    length = _BATCH_HEAD.size + 4 * len(ends) + ends[-1]
    if length > _U32:
        raise ValueError("a batch must be shorter than 4 GiB")
    head = _FRAME.pack(length, _BATCH, 0, 0, first_seq, count, 0)
    return head + _little_endian(array("I", ends)).tobytes()


def _check_seq(first_seq: int, count: int) -> None:
    if not 0 <= first_seq <= _MAX_SEQ - count:
        raise ValueError("the sequence numbers of a batch must fit in signed 64 bits")


def scan_batch(payload: Buffer, /) -> tuple[int, int, int]:
    """Check a BATCH payload; return its first sequence number, count and bytes of messages."""
    data = _whole(payload)
    first_seq, offsets = _scan(data, len(data))
    return first_seq, len(offsets) - 1, offsets[-1]


def scan_head(head: Buffer, length: int, /) -> tuple[int, list[int]]:
    """Check the beginning of a BATCH payload of that length, offsets included, as scan_batch does.

    Return its first sequence number and the sizes of its messages.
    """
    length = index(length)
    first_seq, offsets = _scan(_whole(head), length)
    return first_seq, list(map(sub, offsets[1:], offsets))


def _scan(data: bytes, length: int) -> tuple[int, list[int]]:
    """Check what a payload of that length begins with; return first sequence number, offsets."""
    if len(data) < _BATCH_HEAD.size:
        raise ValueError("the batch is shorter than its head")
    first_seq, count, zero = _BATCH_HEAD.unpack_from(data)
    if zero != 0:
        raise ValueError("the batch's reserved field is not zero")
    if count == 0:
        raise ValueError("the batch is empty")
    if first_seq > _MAX_SEQ - count:
        raise ValueError("the batch's sequence numbers do not fit in signed 64 bits")
    before = _BATCH_HEAD.size + 4 * (count + 1)
    if min(length, len(data)) < before:
        raise ValueError("the batch is shorter than its offsets")
    numbers = array("I")
    numbers.frombytes(data[_BATCH_HEAD.size : before])
    offsets = _little_endian(numbers).tolist()
    if offsets[0] != 0 or offsets[-1] != length - before or offsets != sorted(offsets):
        raise ValueError("the batch's offsets do not run from 0 to its end")
    return first_seq, offsets


def scan_batches(
    data: Buffer, first_seq: int, limit: int, /
) -> tuple[int, list[tuple[int, int, int, Buffer]]]:
    """Find the BATCH frames that data begins with: whole, good, and numbered on from first_seq.

    Return where they end, and of each what ``scan_batch`` returns, and its payload, of up to
    ``limit`` bytes. What is not such a frame is left alone, with all behind it.
    """
    first_seq, limit = index(first_seq), index(limit)
    body = _whole(data)
    view = memoryview(body)
    end = 0
    found: list[tuple[int, int, int, Buffer]] = []
    while len(body) - end > _HEADER.size:
        length, kind, flags, zero = _HEADER.unpack_from(body, end)
        begin = end + _HEADER.size
        whole = length <= min(limit, len(body) - begin)
        if kind != _BATCH or flags or zero or not whole:
            break
        payload: Buffer = view[begin : begin + length]
        if length < _LEAST_SHARED or length * _SHARED_PART < len(body):
            payload = bytes(payload)
        try:
            seq, count, nbytes = scan_batch(payload)
        except ValueError:
            break
        if seq != first_seq:
            break
        found.append((seq, count, nbytes, payload))
        first_seq += count
        end = begin + length
    return end, found


def split_batch(payload: Buffer, start: int, /) -> list[bytes]:
    """Return the messages of a BATCH payload, from the start-th; check it as ``scan_batch``."""
    start = index(start)
    data = _whole(payload)
    _, offsets = _scan(data, len(data))
    _check_start(start, len(offsets) - 1)
    bodies = BytesIO(data)  # which cuts faster than slices do
    bodies.seek(len(data) - offsets[-1] + offsets[start])
    return list(map(bodies.read, map(sub, offsets[start + 1 :], offsets[start:])))


def iter_batch(payload: Buffer, start: int, /) -> Iterator[bytes]:
    """Iterate over what ``split_batch`` returns; the iterator has a length hint."""
    return iter(split_batch(payload, start))


def _check_start(start: int, count: int) -> None:
    if not 0 <= start <= count:
        raise ValueError("the start lies outside the messages")


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

    A lock would cost more than all the rest. What has to be whole is therefore one call of a
    method of the deque, with no other call between it and the look at the limit; and threads that
    get in each other's way may at most count wrongly what there is: so ``take`` counts anew, and
    leaves what is too much for the next batch.
    """

    __slots__ = (
        "_counted",
        "_given_up",
        "_last",
        "_limit",
        "_max_message",
        "_messages",
        "_most",
        "_taking",
    )

    def __init__(self, max_message: int, /) -> None:
        self._max_message = index(max_message)
        self._limit = -1  # of the cost; negative while closed
        self._most = -1  # the highest limit that some of the messages were taken under
        self._taking = False  # whether a call of ``take`` is under way
        self._counted = 0  # the cost, unless two threads counted at once
        self._messages: deque[bytes] = deque()
        self._given_up: tuple[int, list[bytes]] = (0, [])
        self._last: tuple[list[bytes], tuple[int, int, bytes, list[bytes]]] | None = None

    def open(self, limit: int, /) -> None:
        """Take messages from now on, as long as the cost stays within the limit.

        The limit replaces the one before. What was appended stays, whatever it costs.
        """
        limit = min(index(limit), _MAX_COST)
        self._counted = self.cost
        self._most = max(self._most, limit) if self._messages else limit
        self._limit = limit

    def append(self, message: Buffer, /) -> bool:
        """Take a message; False, and nothing is taken, if it is too large or does not fit.

        Raises TypeError for what is not bytes-like, whether the packer is open or not.
        """
        body = message if type(message) is bytes else to_bytes(message)
        size = len(body)
        cost = self._counted + size + _MESSAGE_COST
        if size > self._max_message or cost > self._limit:
            return False
        self._counted = cost  # before the call, which may let a signal handler in
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

    def try_extend(self, messages: Sequence[Buffer], /) -> int:
        """Append the messages, if they are bytes in a list or tuple, and all fit; else none.

        Return how many were appended.
        """
        if type(messages) not in (list, tuple) or not {bytes}.issuperset(map(type, messages)):
            return 0
        sizes = list(map(len, messages))  # type: ignore[arg-type]  # they are bytes
        added = sum(sizes) + _MESSAGE_COST * len(sizes)
        if max(sizes, default=0) > self._max_message:
            return 0
        cost = self._counted + added
        if cost > self._limit:
            return 0
        self._counted = cost
        self._messages.extend(messages)  # type: ignore[arg-type]
        return len(sizes)

    def take(self, first_seq: int, /) -> tuple[int, bytes, list[bytes]]:
        """Close the packer and give up what it holds: the count, the head and the bodies.

        The bodies come in pieces. Put together, head and pieces are the frame that ``pack_batch``
        makes of the messages; of none the head is empty, and there are no pieces.
        """
        first_seq = index(first_seq)
        if self._taking:  # this is a signal handler: what there is belongs to whom it broke in on
            return 0, b"", []
        try:
            self._taking = True
            _check_seq(first_seq, len(self._messages))
            self._limit = -1
            messages: list[bytes] = []
            most = self._fitting()
            self._given_up = (first_seq, messages)
            # One call, in which nobody else comes to the turn.
            messages.extend(islice(iter(self._messages.popleft, None), most))
            self._counted = self.cost
            return self._packed(first_seq, messages)[1:]
        finally:
            self._taking = False

    def _fitting(self) -> int:
        """Return how many messages fit a batch: nearly always all."""
        messages = self._messages.copy()  # others may go on meanwhile
        if _cost_of(messages) <= self._most:
            return len(messages)
        costs = accumulate(len(message) + _MESSAGE_COST for message in messages)
        return bisect_right(list(costs), self._most)

    @property
    def taken(self) -> tuple[int, int, bytes, list[bytes]]:
        """The last first_seq, and what ``take`` gave or would have, had nothing broken in."""
        return self._packed(*self._given_up)

    def _packed(self, first_seq: int, messages: list[bytes]) -> tuple[int, int, bytes, list[bytes]]:
        if not messages:  # and be it that they are still to come
            return first_seq, 0, b"", []
        last = self._last
        if last is None or last[0] is not messages:
            sizes = list(map(len, messages))
            head = _batch_head(sizes, len(sizes), first_seq)
            shared = max(sizes) >= _SHARED
            pieces = _shared_pieces(messages) if shared else [b"".join(messages)]
            last = self._last = (messages, (first_seq, len(sizes), head, pieces))
        return last[1]

    def close(self) -> None:
        """Take no more until the packer is opened again; what was appended stays."""
        self._limit = -1

    def __len__(self) -> int:
        """Return how many messages there are now."""
        return len(self._messages)

    @property
    def cost(self) -> int:
        """The bytes of the messages there are now, and eight for each."""
        return _cost_of(self._messages.copy())  # others may go on meanwhile


def _cost_of(messages: Collection[bytes]) -> int:
    return sum(map(len, messages)) + _MESSAGE_COST * len(messages)


def _shared_pieces(messages: list[bytes]) -> list[bytes]:
    """Join what is short; leave what is long as it is."""
    pieces: list[bytes] = []
    for is_long, group in groupby(messages, lambda message: len(message) >= _SHARED):
        together = list(group)
        pieces += together if is_long else [b"".join(together)]
    return pieces


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


def pack_length(messages: Sequence[Buffer], byteorder: ByteOrder, /) -> bytes:
    """Return the messages, each behind its length (u32)."""
    layout = _length(byteorder)
    bodies = [to_bytes(message) for message in messages]
    parts: list[bytes] = []
    for body in bodies:
        if len(body) > _U32:
            raise ValueError("a length-delimited message must be shorter than 4 GiB")
        parts += (layout.pack(len(body)), body)
    return b"".join(parts)


def scan_length(data: Buffer, limit: int, byteorder: ByteOrder, /) -> tuple[int, int, int]:
    """Return the count, end and bytes of the whole messages at the head of ``data``.

    The scan stops at a message longer than ``limit``, as it does at one that is not whole.
    """
    limit = index(limit)
    layout = _length(byteorder)
    body = _whole(data)
    count = end = 0
    size = len(body)
    while size - end >= _LENGTH_SIZE:
        (length,) = layout.unpack_from(body, end)
        if length > limit or size - end - _LENGTH_SIZE < length:
            break
        end += _LENGTH_SIZE + length
        count += 1
    return count, end, end - _LENGTH_SIZE * count


def split_length(data: Buffer, byteorder: ByteOrder, /) -> list[bytes]:
    """Return the messages in ``data``, which ends with the last of them."""
    layout = _length(byteorder)
    body = _whole(data)
    messages: list[bytes] = []
    begin = 0
    size = len(body)
    while begin < size:
        end = begin + _LENGTH_SIZE
        if end <= size:
            (length,) = layout.unpack_from(body, begin)
            begin, end = end, end + length
        if end > size:
            raise ValueError("the data ends within a message")
        messages.append(body[begin:end])
        begin = end
    return messages


def _length(byteorder: ByteOrder) -> struct.Struct:
    if type(byteorder) is not str or byteorder not in _LENGTHS:
        raise ValueError("a byte order is 'big' or 'little'")
    return _LENGTHS[byteorder]


# -- assembling ------------------------------------------------------------------------------


@final
class Assembly:
    """Gathers messages that come in pieces, and whose sizes are known, and may be a lie.

    So at first it sets aside no more than what has come, and as much again; unless the sizes
    are to be trusted.
    """

    __slots__ = ("_bodies", "_current", "_sizes", "_total", "_trusted", "_used", "filled")

    def __init__(self, sizes: Iterable[int], trusted: bool, /) -> None:  # noqa: FBT001 - as in C
        self._trusted = bool(trusted)
        self._sizes = list(sizes)
        self._total = 0
        for number, size in enumerate(self._sizes):
            self._sizes[number] = index(size)
            if not 0 <= self._sizes[number] <= _U32 - self._total:
                raise ValueError("the sizes must fit in 32 bits, all together")
            self._total += self._sizes[number]
        self._bodies: list[bytearray] = []  # those that have begun
        self._current = 0  # the first that is not whole
        self._used = 0  # what has come of it
        self.filled = 0
        """The bytes that have come."""
        self._pass_whole()

    @property
    def missing(self) -> int:
        """The bytes that have not come."""
        return self._total - self.filled

    def rooms(self) -> list[memoryview]:
        """Return where the next bytes belong, in order; release them before anything else."""
        self._make_room()
        if self._current == len(self._sizes):
            return []
        current, *ahead = self._bodies[self._current :]
        rooms = [memoryview(current)[self._used :]]
        if len(current) == self._sizes[self._current]:
            rooms += map(memoryview, filter(None, ahead))
        return rooms

    def _make_room(self) -> None:
        """Make room for one byte more at least."""
        if self._current == len(self._sizes):
            return
        if self._current == len(self._bodies):
            self._bodies.append(bytearray())
        size, body = self._sizes[self._current], self._bodies[self._current]
        sure = self._trusted or self.filled >= _SURE_ROOM
        if self._used == len(body) < size:
            more = size if sure else min(size, max(_FIRST_ROOM, 2 * self._used))
            body += bytes(more - self._used)
        if sure and len(body) == size:
            ahead = sum(self._sizes[self._current + 1 : len(self._bodies)])
            for size in self._sizes[len(self._bodies) :]:
                ahead += size
                if ahead > _AHEAD or len(self._bodies) - self._current >= _MOST_ROOMS:
                    break
                self._bodies.append(bytearray(size))

    def _pass_whole(self) -> None:
        """Go on behind what is whole."""
        while self._current < len(self._sizes) and self._used == self._sizes[self._current]:
            if self._current == len(self._bodies):
                self._bodies.append(bytearray())
            self._current += 1
            self._used = 0

    def _room(self) -> int:
        """Return the room there is."""
        if self._current >= len(self._bodies):
            return 0
        current, *ahead = map(len, self._bodies[self._current :])
        whole = current == self._sizes[self._current]
        return current - self._used + (sum(ahead) if whole else 0)

    def advance(self, size: int, /) -> None:
        """Record that so many bytes were put into the rooms."""
        size = index(size)
        if not 0 <= size <= self._room():
            raise ValueError("there is no room for so many bytes")
        self._fill(size)

    def _fill(self, size: int) -> None:
        self.filled += size
        while True:
            room = len(self._bodies[self._current]) - self._used if size else 0
            part = min(size, room)
            self._used += part
            size -= part
            self._pass_whole()
            if not size:
                return

    def extend(self, piece: Buffer, /) -> None:
        """Take a piece."""
        view = memoryview(piece)
        rest = view.cast("B") if view.c_contiguous else memoryview(bytes(view))
        if len(rest) > self.missing:
            raise ValueError("there is no room for so many bytes")
        while rest:
            self._make_room()
            body = self._bodies[self._current]
            part, rest = rest[: len(body) - self._used], rest[len(body) - self._used :]
            body[self._used : self._used + len(part)] = part
            self._fill(len(part))

    def take(self) -> list[bytes]:
        """Return all, once nothing is missing; then there is nothing more to come."""
        if self.missing:
            raise ValueError("something is missing, or the rooms are not released")
        bodies = list(map(bytes, self._bodies))
        self._bodies, self._sizes = [], []
        self._current = self._used = self._total = self.filled = 0
        return bodies
