"""Keep, with a message that one funnel passes to another, where the first one had it from.

A forwarded message is the eight bytes ``89 4d 50 53 52 3e 0d 0a``, a u32 (little-endian), as many
bytes of a JSON object in UTF-8, which is the origin, and then the message as it was sent.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.json_format import local_time, origin, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mpsr.batch import Batch

MAGIC: Final = b"\x89MPSR>\r\n"
_LENGTH: Final = struct.Struct("<I")
_BEGIN: Final = len(MAGIC) + _LENGTH.size
_LONGEST: Final = 4096  # bytes of an origin: it names somebody, and is no message


class Forwarded(NamedTuple):
    """A message, and where the funnel that passed it on says that it came from."""

    body: bytes
    """The message, as its producer sent it."""
    origin: Mapping[str, Any] | None
    """``host``, ``time``, ``peer``, ``producer`` and ``seq``, as ``mpsr recv -o json`` names them:
    a claim of the process that passed it on, which the kernel vouches for. None for a message
    that came from its producer itself."""


def forwarded(message: bytes) -> Forwarded:
    """Take the origin off a message that another funnel has passed on; good as ``decode=``.

    A message that no funnel has passed on, or whose origin makes no sense, is left as it is.
    """
    if not message.startswith(MAGIC) or len(message) < _BEGIN:
        return Forwarded(message, None)
    (length,) = _LENGTH.unpack_from(message, len(MAGIC))
    end = _BEGIN + length
    if length > _LONGEST or end > len(message):
        return Forwarded(message, None)
    try:
        found = json.loads(message[_BEGIN:end])
    except ValueError:
        return Forwarded(message, None)
    if not isinstance(found, dict):
        return Forwarded(message, None)
    return Forwarded(message[end:], found)


def taken_apart(bodies: Sequence[bytes]) -> list[Forwarded] | None:
    """Return what the messages of a batch are, without their origins; None if they have none.

    A batch has one sender: the first message tells.
    """
    if not bodies or not bodies[0].startswith(MAGIC):
        return None
    return [forwarded(body) for body in bodies]


def claim_of(message: Forwarded) -> str:
    """Return the item of a JSON object that holds the origin; "" without one."""
    return "" if message.origin is None else f',"origin":{to_json(message.origin)}'


def wrapped(batch: Batch[Any], host: str) -> Iterator[bytes]:
    """Give the messages of a batch with their origin; what has one already keeps it."""
    head = to_json({"host": host})[:-1] + ","
    head += origin(local_time(batch.received_at or 0), batch.peer, batch.producer)[1:] + ',"seq":'
    losing = f',"lost":{batch.lost}' if batch.lost else ""
    for seq, body in enumerate(batch.iter_raw(), batch.first_seq):
        if body.startswith(MAGIC):
            yield body
        else:
            text = f"{head}{seq}{losing}}}".encode()
            losing = ""
            yield b"".join((MAGIC, _LENGTH.pack(len(text)), text, body))
