"""Write and read what a JetStream message says beside its body: headers, and packed messages."""

from __future__ import annotations

import json
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote

from mpsr._speedups import codec
from mpsr.batch import Peer, ProducerIdentity
from mpsr.forwarding import Forwarded, Origin, taken_apart
from mpsr.json_reader import from_json
from mpsr.limits import MAX_INTEGER, MAX_LABEL, MAX_ORIGIN
from mpsr.wire.frames import PRODUCER_ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mpsr.batch import Batch

HOST: Final = "Mpsr-Host"
PID: Final = "Mpsr-Pid"
UID: Final = "Mpsr-Uid"
GID: Final = "Mpsr-Gid"
PRODUCER: Final = "Mpsr-Producer"
LABEL: Final = "Mpsr-Label"
TIME: Final = "Mpsr-Time"
SEQ: Final = "Mpsr-Seq"
LOST: Final = "Mpsr-Lost"
ORIGIN: Final = "Mpsr-Origin"
PACKED: Final = "Mpsr-Packed"
EMPTY: Final = "Mpsr-Empty"
JOURNAL: Final = "Mpsr-Journal"
POSITION: Final = "Mpsr-Position"
PREVIOUS: Final = "Mpsr-Previous"

_FRAME_HEAD: Final = 8  # bytes of a native frame before its payload
_COUNT: Final = slice(8, 12)  # of a BATCH payload
_DIGITS: Final = len(str(MAX_INTEGER))
_HEAD: Final = 16  # bytes of a BATCH payload before its offsets
_SAFE: Final = "!#$&'()*+,/:;=?@[]<>^`{|}~"  # in a header; % is what quotes the rest


def who(batch: Batch[Any], host: str) -> str:
    """Return the headers that say who sent a batch, a line each."""
    peer, producer = batch.peer, batch.producer
    given: list[tuple[str, object]] = [
        (HOST, quote(host, _SAFE)),
        (PID, peer.pid),
        (UID, peer.uid),
        (GID, peer.gid),
        (TIME, batch.received_at),
    ]
    if producer is not None:
        given += [(PRODUCER, producer.id.hex()), (LABEL, quote(producer.label, _SAFE))]
    return "".join(f"{name}: {value}\r\n" for name, value in given if value is not None)


def apart(bodies: Sequence[bytes]) -> Iterable[tuple[bytes, str]]:
    """Give each message, and the header that says where a funnel before had it from."""
    forwarded = taken_apart(bodies)
    if forwarded is None:
        return zip(bodies, repeat(""), strict=False)
    return [(each.body, _claim(each)) for each in forwarded]


def _claim(message: Forwarded) -> str:
    return "" if message.origin is None else f"{ORIGIN}: {json.dumps(message.origin)}\r\n"


def packed(bodies: Sequence[bytes], first_seq: int) -> bytes:
    """Return messages as the payload of a BATCH frame."""
    return codec.pack_batch(bodies, first_seq)[_FRAME_HEAD:]


class Stored(NamedTuple):
    """What one JetStream message holds."""

    bodies: list[bytes]
    """None where it tells of a loss alone."""
    first_seq: int
    lost: int
    host: str | None
    peer: Peer
    producer: ProducerIdentity | None
    received_at: int
    """Nanoseconds since 1970; 0 if unknown."""
    origin: Origin | None
    """What a funnel before the last claims of its origin."""


def unpack(headers: Mapping[str, object] | None, data: bytes) -> Stored:
    """Return what a message holds.

    Anyone may have published it: a header that is not as a sink writes it counts as missing.
    """
    # nats-py gives a header that is not ASCII as an object of another type.
    known = {name: text for name, text in (headers or {}).items() if isinstance(text, str)}
    seq = number(known.get(SEQ)) or 0
    bodies = [] if known.get(EMPTY) else [data]
    if known.get(PACKED) and len(data) >= _HEAD:
        count = int.from_bytes(data[_COUNT], "little")
        try:
            bodies = list(codec.iter_batch(data, 0))
            seq = int.from_bytes(data[:8], "little")
        except ValueError:
            count = 0
        if not count:
            bodies = [data]
    host = known.get(HOST)
    return Stored(
        bodies,
        seq if seq <= MAX_INTEGER - len(bodies) else 0,
        number(known.get(LOST)) or 0,
        None if host is None else unquote(host),
        Peer(*(number(known.get(name)) for name in (PID, UID, GID))),
        _producer(known.get(PRODUCER), known.get(LABEL, "")),
        number(known.get(TIME)) or 0,
        _origin(known.get(ORIGIN)),
    )


def number(text: str | None) -> int | None:
    """Return the number in a header; None without one that fits in signed 64 bits."""
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS:
        return None
    found = int(text)
    return found if found <= MAX_INTEGER else None


def _producer(digits: str | None, label: str) -> ProducerIdentity | None:
    try:
        producer_id = bytes.fromhex(digits or "")
    except ValueError:
        return None
    if len(producer_id) != PRODUCER_ID_SIZE:
        return None
    return ProducerIdentity(producer_id, unquote(label)[:MAX_LABEL])


def _origin(text: str | None) -> Origin | None:
    if text is None:
        return None
    try:
        return from_json(text.encode(), Origin, most=3 * MAX_ORIGIN)  # it is escaped to ASCII
    except ValueError:
        return None
