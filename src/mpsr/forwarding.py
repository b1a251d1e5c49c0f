"""Keep, with a message that one funnel passes to another, where the first one had it from.

A forwarded message is the eight bytes ``89 4d 50 53 52 3e 0d 0a``, a u32 (little-endian), as many
bytes of a JSON object in UTF-8, which is the origin, and then the message as it was sent.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NotRequired, TypedDict

from mpsr.json_format import local_time, origin, to_json
from mpsr.json_reader import from_json
from mpsr.limits import MAX_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpsr.batch import Batch

MAGIC: Final = b"\x89MPSR>\r\n"
_LENGTH: Final = struct.Struct("<I")
_BEGIN: Final = len(MAGIC) + _LENGTH.size


class OriginPeer(TypedDict):
    """Credentials of the process that sent a message to the first funnel.

    Attributes:
        pid: its process; None where the kernel did not tell, as with uid and gid.
        uid: its user.
        gid: its group.

    """

    pid: int | None
    uid: int | None
    gid: int | None


class OriginProducer(TypedDict):
    """Identity that a native producer gave to the first funnel.

    Attributes:
        id: the producer's id in hexadecimal digits.
        label: its label.

    """

    id: str
    label: str


class Origin(TypedDict):
    """Where a funnel received a message, as ``mpsr recv -o json`` names the fields.

    It is a claim of the process that passed the message on: the kernel does not vouch for it.

    Attributes:
        host: name of the funnel's host.
        time: when the funnel received the message, in ISO 8601; None if it does not know.
        peer: the sender's credentials, as the kernel reported them to the funnel.
        producer: the native producer; None in foreign framings.
        seq: sequence number of the message.
        lost: messages that the producer dropped before this one; missing if there are none.

    """

    host: str
    time: str | None
    peer: OriginPeer
    producer: OriginProducer | None
    seq: int
    lost: NotRequired[int]


class Forwarded(NamedTuple):
    """A message, and where the funnel that passed it on says that it came from.

    Attributes:
        body: the message, as its producer sent it.
        origin: an ``Origin``: a claim of the process that passed it on, whose credentials the
            kernel reports. None for a message that came from its producer itself.

    """

    body: bytes
    origin: Origin | None


def forwarded(message: bytes) -> Forwarded:
    """Separate a message that another funnel has passed on from its origin; usable as ``decode=``.

    A message without an origin is returned unchanged. So is a message whose origin is longer than
    4,096 bytes, or is not a JSON object with the fields of ``Origin`` and their types. Other fields
    of the object are ignored.

    Args:
        message: bytes, as they were received.

    """
    if not message.startswith(MAGIC) or len(message) < _BEGIN:
        return Forwarded(message, None)
    (length,) = _LENGTH.unpack_from(message, len(MAGIC))
    end = _BEGIN + length
    if end > len(message):
        return Forwarded(message, None)
    try:
        found = from_json(message[_BEGIN:end], Origin, most=MAX_ORIGIN)
    except ValueError:
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
