"""Write a batch as the records of a file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from mpsr.json_format import content, local_time, origin, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch

_LENGTH: Final = struct.Struct(">I")


def json_lines(batch: Batch[Any]) -> bytes:
    """Return an object a line, as ``mpsr log -o json`` prints it; a loss alone has no body."""
    head = f"{origin(local_time(batch.received_at or 0), batch.peer, batch.producer)[1:]}"
    if batch.address is not None and batch.position is None:  # a journal keeps none
        head += f',"address":{to_json(batch.address)}'
    seq = batch.first_seq
    losing = f',"lost":{batch.lost}' if batch.lost else ""
    if not batch:
        place = "" if batch.position is None else f'"position":{batch.position},'
        return f'{{{place}{head},"seq":{seq}{losing}}}\n'.encode()
    lines: list[str] = []
    if batch.position is None:
        for number, body in enumerate(batch.iter_raw(), seq):
            lines.append(f'{{{head},"seq":{number}{losing},{content(body)}}}\n')
            losing = ""
    else:
        position = batch.position - len(batch) + 1
        ahead = seq - position
        for number, body in enumerate(batch.iter_raw(), position):
            lines.append(
                f'{{"position":{number},{head},"seq":{number + ahead}{losing},{content(body)}}}\n'
            )
            losing = ""
    return "".join(lines).encode()


def text_lines(batch: Batch[Any]) -> bytes:
    """Return each message with a newline behind it."""
    return b"\n".join([*batch.iter_raw(), b""])


def raw(batch: Batch[Any]) -> bytes:
    """Return the messages, with nothing between them."""
    return b"".join(batch.iter_raw())


def length_prefixed(batch: Batch[Any]) -> bytes:
    """Return each message behind its length, u32, big-endian."""
    parts: list[bytes] = []
    for body in batch.iter_raw():
        parts += (_LENGTH.pack(len(body)), body)
    return b"".join(parts)


RECORDS: Final[dict[str, Callable[[Batch[Any]], bytes]]] = {
    "json": json_lines,
    "lines": text_lines,
    "length": length_prefixed,
    "raw": raw,
}
