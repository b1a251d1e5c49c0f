"""Pack and split messages: the pure-Python twin of the hot functions.

Every function takes messages and buffers as any contiguous bytes-like object and gives
messages back as bytes. A malformed buffer raises ValueError, which says where.
"""

from __future__ import annotations

import struct
import sys
from array import array
from itertools import accumulate, pairwise
from operator import le
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

BATCH_HEAD: Final = struct.Struct("<QII")  # first sequence number, count, zero
_FRAME: Final = struct.Struct("<IBBHQII")  # frame header and batch head in one
_LENGTH: Final = struct.Struct(">I")
_BATCH: Final = 3  # the frame type
_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_NEWLINE: Final = b"\n"


def to_bytes(message: Buffer) -> bytes:
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


# -- native ---------------------------------------------------------------------------------


def pack_batch(messages: Sequence[Buffer], first_seq: int) -> bytes:
    """Return one whole BATCH frame, header included, that carries the messages."""
    bodies = [to_bytes(message) for message in messages]
    if not bodies:
        raise ValueError("a batch holds at least one message")
    if not 0 <= first_seq <= _U64 - len(bodies):
        raise ValueError("the sequence numbers of a batch must fit in 64 bits")
    ends = list(accumulate(map(len, bodies), initial=0))
    length = BATCH_HEAD.size + 4 * len(ends) + ends[-1]
    if length > _U32:
        raise ValueError("a batch must be shorter than 4 GiB")
    head = _FRAME.pack(length, _BATCH, 0, 0, first_seq, len(bodies), 0)
    return b"".join([head, _little_endian(array("I", ends)).tobytes(), *bodies])


def scan_batch(payload: Buffer) -> tuple[int, int, int]:
    """Check a BATCH payload; return its first sequence number, count and bytes of messages."""
    view = memoryview(payload)
    if len(view) < BATCH_HEAD.size:
        raise ValueError("the batch is shorter than its head")
    first_seq, count, zero = BATCH_HEAD.unpack_from(view)
    if zero != 0:
        raise ValueError("the batch's reserved field is not zero")
    if count == 0:
        raise ValueError("the batch is empty")
    if first_seq > _U64 - count:
        raise ValueError("the batch's sequence numbers do not fit in 64 bits")
    nbytes = len(view) - BATCH_HEAD.size - 4 * (count + 1)
    if nbytes < 0:
        raise ValueError("the batch is shorter than its offsets")
    offsets = _offsets(view, count)
    if offsets[0] != 0 or offsets[-1] != nbytes or not all(map(le, offsets, offsets[1:])):
        raise ValueError("the batch's offsets do not run from 0 to its end")
    return first_seq, count, nbytes


def split_batch(payload: Buffer, start: int) -> list[bytes]:
    """Return the messages of a BATCH payload that ``scan_batch`` found good, from the start-th."""
    data = _whole(payload)
    count = BATCH_HEAD.unpack_from(data)[1]
    base = BATCH_HEAD.size + 4 * (count + 1)
    ends = [base + offset for offset in _offsets(memoryview(data), count)[start:]]
    return [data[begin:end] for begin, end in pairwise(ends)]


def _offsets(view: memoryview, count: int) -> array[int]:
    offsets = array("I")
    offsets.frombytes(view[BATCH_HEAD.size : BATCH_HEAD.size + 4 * (count + 1)])
    return _little_endian(offsets)


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":  # pragma: no cover - big-endian machines
        numbers.byteswap()
    return numbers


# -- lines and null -------------------------------------------------------------------------


def pack_delimited(messages: Sequence[Buffer], delimiter: bytes) -> bytes:
    """Return the messages, each followed by the delimiter (one byte).

    Raises ValueError for a message that would not come back as it was: one that holds the
    delimiter, or, in lines, that ends in a carriage return.
    """
    bodies = [to_bytes(message) for message in messages]
    for body in bodies:
        if delimiter in body:
            raise ValueError(f"the message holds the delimiter {delimiter!r}")
        if delimiter == _NEWLINE and body.endswith(b"\r"):
            raise ValueError("the message ends in a carriage return, which lines do not keep")
    bodies.append(b"")
    return delimiter.join(bodies)


def scan_delimited(data: Buffer, delimiter: bytes) -> tuple[int, int]:
    """Return the count and bytes of the messages in ``data``, which ends with the delimiter."""
    body = _whole(data)
    count = body.count(delimiter)
    nbytes = len(body) - count
    if delimiter == _NEWLINE:
        nbytes -= body.count(b"\r\n")
    return count, nbytes


def split_delimited(data: Buffer, delimiter: bytes) -> list[bytes]:
    """Return the messages in ``data``, which ends with the delimiter."""
    body = _whole(data)
    if delimiter == _NEWLINE:
        body = body.replace(b"\r\n", _NEWLINE)
    messages = body.split(delimiter)
    messages.pop()
    return messages


# -- length ---------------------------------------------------------------------------------


def pack_length(messages: Sequence[Buffer]) -> bytes:
    """Return the messages, each behind its length (u32, big-endian)."""
    parts: list[bytes] = []
    for message in messages:
        body = to_bytes(message)
        if len(body) > _U32:
            raise ValueError("a length-delimited message must be shorter than 4 GiB")
        parts += (_LENGTH.pack(len(body)), body)
    return b"".join(parts)


def scan_length(data: Buffer, limit: int) -> tuple[int, int, int]:
    """Return the count, end and bytes of the whole messages at the head of ``data``.

    The scan stops at a message longer than ``limit``, as it does at one that is not whole.
    """
    view = memoryview(data)
    count = end = 0
    size = len(view)
    while size - end >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(view, end)
        if length > limit or size - end - _LENGTH.size < length:
            break
        end += _LENGTH.size + length
        count += 1
    return count, end, end - _LENGTH.size * count


def split_length(data: Buffer) -> list[bytes]:
    """Return the messages in ``data``, all of which ``scan_length`` found whole."""
    body = _whole(data)
    messages: list[bytes] = []
    begin = 0
    while begin < len(body):
        (length,) = _LENGTH.unpack_from(body, begin)
        begin += _LENGTH.size
        messages.append(body[begin : begin + length])
        begin += length
    return messages
