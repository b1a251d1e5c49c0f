"""Call the codec's functions that take a peer's bytes: C and Python give the same answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Any, Final

from tests.fuzz.feeding import Source, cut
from tests.fuzz.trees import TREES, same

BUFFERS: Final[list[Callable[[bytes], Any]]] = [
    bytes,
    memoryview,
    bytearray,
    lambda data: memoryview(b"?" + data)[1:],
    lambda data: memoryview(data)[::2],
]
NUMBERS: Final = [0, -1, 1 << 31, 1 << 32, (1 << 64) - 1, 1 << 64, -(1 << 70), 1 << 63]
MOST: Final = 160 * 1024  # bytes that an assembly is told of
Calls = Callable[[Any, Source, Callable[[bytes], Any]], Any]


def number(source: Source) -> int:
    """Return a small number, or an edge."""
    kind = source.number()
    return source.number(2) if kind & 8 else kind >> 4 if kind & 1 else NUMBERS[kind >> 5]


def scan_batches(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    """Scan with some limit, and with those about the length of the first frame."""
    first_seq, limit = number(source), number(source)
    data = source.rest()
    length = int.from_bytes(data[:4], "little")
    limits = (limit, length - 1, length)
    return [codec.scan_batches(buffer(data), first_seq, each) for each in limits]


def scan_head(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    length = number(source)
    return codec.scan_head(buffer(source.rest()), length)


def split_batch(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    start = number(source)
    return codec.split_batch(buffer(source.rest()), start)


def iter_batch(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    """Iterate, and let go of some messages at once, as their memory may then be used again."""
    start, kept = number(source), source.number()
    messages: list[Any] = []
    for place, message in enumerate(codec.iter_batch(buffer(source.rest()), start)):
        again = kept >> place % 8 & 1
        messages.append(message if again else (len(message), message[:1], hash(message)))
    return messages


def scan_delimited(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    mark = source.take(1)
    return codec.scan_delimited(buffer(source.rest() + mark), mark)


def split_delimited(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    mark = source.take(1)
    return codec.split_delimited(buffer(source.rest()), mark)


def scan_length(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    order = ("big", "little")[source.number() % 2]
    limit = number(source)
    return codec.scan_length(buffer(source.rest()), limit, order)


def split_length(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    order = ("big", "little")[source.number() % 2]
    return codec.split_length(buffer(source.rest()), order)


def assemble(codec: Any, source: Source, buffer: Callable[[bytes], Any]) -> Any:
    """Put messages together from pieces, some of them read into the rooms."""
    trusted, by_room, cuts = source.number() % 2, source.number(), source.sizes()
    sizes: list[int] = []
    for _ in range(source.number() % 9):
        sizes.append(source.number(3) % max(1, MOST - sum(sizes)))
    told: list[Any] = []
    assembly = codec.Assembly(sizes, bool(trusted))
    for place, piece in enumerate(cut(source.rest(runs=True), cuts)):
        if by_room >> place % 8 & 1:
            rooms = assembly.rooms()
            told.append(list(map(len, rooms)))
            told.append(_fill(rooms, piece))
            for room in rooms:
                room.release()
            assembly.advance(told[-1])
        else:
            assembly.extend(buffer(piece[: assembly.missing + place % 2]))
        told.append((assembly.filled, assembly.missing))
    told.append(assembly.take())
    return told


def _fill(rooms: list[memoryview], piece: bytes) -> int:
    filled = 0
    for room in rooms:
        part = piece[filled : filled + len(room)]
        room[: len(part)] = part
        filled += len(part)
    return filled


CALLS: Final[list[Calls]] = [
    lambda codec, source, buffer: codec.scan_batch(buffer(source.rest())),
    scan_batches,
    scan_head,
    split_batch,
    iter_batch,
    scan_delimited,
    split_delimited,
    scan_length,
    split_length,
    assemble,
]


def run(data: bytes) -> None:
    """Make the call that the first byte says, of each twin."""
    same([answer(tree.codec, data) for tree in TREES])


def answer(codec: Any, data: bytes) -> object:
    source = Source(data)
    which = source.number()
    try:
        call = CALLS[which % len(CALLS)]
        return described(call(codec, source, BUFFERS[which // 16 % len(BUFFERS)]))
    except (ValueError, TypeError) as exc:
        return type(exc), str(exc)


def described(result: object) -> object:
    """Return a result with the types of all that is in it."""
    if isinstance(result, list | tuple):
        return type(result), [described(item) for item in result]
    if isinstance(result, Iterator):
        return length_hint(result), [described(item) for item in result]
    return type(result), result
