"""Write a batch as the records of a file."""

from __future__ import annotations

import struct
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from mpsr.forwarding import claim_of, taken_apart
from mpsr.json_format import content, local_time, origin, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpsr.batch import Batch

_LENGTH: Final = struct.Struct(">I")


def json_lines(batch: Batch[Any], more: str = "") -> bytes:
    """Return one object per line, as ``mpsr log -o json`` prints it, with more items of JSON.

    A loss that precedes no message has no body.
    """
    head = f"{origin(local_time(batch.received_at or 0), batch.peer, batch.producer)[1:]}"
    if batch.address is not None and batch.position is None:  # a journal keeps none
        head += f',"address":{to_json(batch.address)}'
    seq = batch.first_seq
    losing = f',"lost":{batch.lost}' if batch.lost else ""
    if more:
        head = f"{head},{more}"
    if not batch:
        place = "" if batch.position is None else f'"position":{batch.position},'
        return f'{{{place}{head},"seq":{seq}{losing}}}\n'.encode()
    bodies, claims = _apart(batch)
    first = None if batch.position is None else batch.position - len(batch) + 1
    lines: list[str] = []
    for index, (body, claim) in enumerate(zip(bodies, claims, strict=False)):
        place = "" if first is None else f'"position":{first + index},'
        lines.append(f'{{{place}{head},"seq":{seq + index}{losing}{claim},{content(body)}}}\n')
        losing = ""
    return "".join(lines).encode()


def _apart(batch: Batch[Any]) -> tuple[list[bytes], Iterable[str]]:
    """Return the messages, and what the items are that tell where a funnel had each from."""
    bodies = list(batch.iter_raw())
    apart = taken_apart(bodies)
    if apart is None:
        return bodies, repeat("")
    return [each.body for each in apart], map(claim_of, apart)


def text_lines(batch: Batch[Any]) -> bytes:
    """Return each message with a newline behind it."""
    return b"\n".join([*_apart(batch)[0], b""])


def raw(batch: Batch[Any]) -> bytes:
    """Return the messages, with nothing between them."""
    return b"".join(_apart(batch)[0])


def length_prefixed(batch: Batch[Any]) -> bytes:
    """Return each message behind its length, u32, big-endian."""
    parts: list[bytes] = []
    for body in _apart(batch)[0]:
        parts += (_LENGTH.pack(len(body)), body)
    return b"".join(parts)


RECORDS: Final[dict[str, Callable[[Batch[Any]], bytes]]] = {
    "json": json_lines,
    "lines": text_lines,
    "length": length_prefixed,
    "raw": raw,
}
