"""Write and read what a JetStream message says beside its body: headers, and packed messages."""

from __future__ import annotations

import json
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote

from mpsr._speedups import codec
from mpsr.batch import Peer, ProducerIdentity
from mpsr.forwarding import Forwarded, taken_apart

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
    origin: Mapping[str, Any] | None
    """What a funnel before the last claims of its origin."""


def unpack(headers: Mapping[str, str] | None, data: bytes) -> Stored:
    """Return what a message holds; one that is no sink's has a body, and nothing is known of it."""
    known = headers or {}
    seq = _number(known.get(SEQ)) or 0
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
    host, label = known.get(HOST), known.get(LABEL)
    producer = None
    if PRODUCER in known:
        producer = ProducerIdentity(_hex(known[PRODUCER]), unquote(label or ""))
    peer = Peer(*(_number(known.get(name)) for name in (PID, UID, GID)))
    return Stored(
        bodies,
        seq,
        _number(known.get(LOST)) or 0,
        None if host is None else unquote(host),
        peer,
        producer,
        _number(known.get(TIME)) or 0,
        _object(known.get(ORIGIN)),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _object(text: str | None) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
