"""Make batches of any value that the protocol accepts, from frames, as an engine does."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from hypothesis import strategies as st

from mpsr._speedups import codec
from mpsr.batch import Batch, Peer, ProducerIdentity
from mpsr.forwarding import MAGIC
from mpsr.limits import MAX_INTEGER, MAX_LABEL
from mpsr.store.records import HEAD_SIZE, Entry, Kind, Place, pack_entry, unpack_entry, unpack_head
from mpsr.wire.frames import PREFACE, Hello, Lost, LostReason, encode
from mpsr.wire.ledger import Ledger
from mpsr.wire.receiving import ReceivingSession
from tests.outputs.everywhere import HONEST

PRODUCER_ID: Final = b"\x00\xff" * 8
_RECORD_SEPARATORS: Final = "\u2028\x85\x0b\x1c"

# -- JSON that decoders disagree about, or that an output could not write -------------------------

JSON_VALUES: Final = (
    "0",
    "-0.0",
    "1e308",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "true",
    "null",
    "[]",
    "{}",
    str(2**63 - 1),
    str(2**63),
    str(-(2**63)),
    str(-(2**63) - 1),
    str(2**64),
    "9" * 4000,
    "9" * 5000,
    "1.7976931348623157e308",
    "253402300800",
    "-62135596801",
    "1e17",
    '""',
    '"a.a"',
    json.dumps("a" + ".a" * 300),
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\udc00\\ud800"',
    '"\\u0000\\u001b[2J"',
    json.dumps(_RECORD_SEPARATORS, ensure_ascii=False),
    '"0001-01-01T00:00:00+14:00"',
    '"9999-12-31T23:59:59-14:00"',
    '"2026-11-27T10:00:00Z"',
    '"WARNING"',
    "[" * 32 + "]" * 32,
    "[" * 1500 + "]" * 1500,
    '{"a":' * 1500 + "1" + "}" * 1500,
    '{"a":1,"a":2}',
    '{"a b":"c d"}',
)
LOG_FIELDS: Final = (
    "level",
    "message",
    "levelno",
    "logger",
    "time",
    "process",
    "process_name",
    "thread",
    "thread_name",
    "task",
    "module",
    "function",
    "line",
    "path",
    "extra",
    "exception",
    "stack",
    "other",
)
ORIGIN_FIELDS: Final = ("host", "time", "peer", "producer", "seq", "lost", "other")
BODIES: Final = (
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'{"level":"\xed\xa0\x80","message":""}',
    b"\x1b]0;title\x07\x1b[2J",
    b"\xc2\x9b2J",
    "\u202e".encode(),
    b"\xef\xbb\xbf{}",
    b"{",
    b"[" * 1500,
    '{"level":"INFO","message":"x"}'.encode("utf-16"),
    '{"level":"INFO","message":"x"}'.encode("utf-16-le"),
    '{"level":"INFO","message":"x"}'.encode("utf-32"),
    b"<13>1 0000-01-01T00:00:00Z - - - - - x",
    b"<13>1 0001-01-01T00:00:00+23:59 h a p m - \xff",
    b"<191>Feb 29 23:59:59 h t[1]: \xed\xa0\x80",
    b'<0>1 9999-12-31T23:59:59.999999-23:59 - - - - [a b="\\"\xff"] x',
    MAGIC,
    MAGIC + b"\xff" * 4,
    b"x" * 9000,
)


def _object(fields: dict[str, str]) -> bytes:
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


_value: Final = st.sampled_from(JSON_VALUES) | st.text(max_size=20).map(json.dumps)
_record: Final = st.dictionaries(st.sampled_from(LOG_FIELDS), _value, max_size=6).map(
    lambda given: _object({"level": '"INFO"', "message": '"m"', **given})
)
_peer: Final = st.fixed_dictionaries(dict.fromkeys(("pid", "uid", "gid"), _value)).map(
    lambda given: _object(given).decode()
)
_honest_origin: Final = {
    "host": '"h"',
    "time": "null",
    "peer": '{"pid":1,"uid":null,"gid":0}',
    "producer": "null",
    "seq": "0",
}
_origin: Final = st.dictionaries(st.sampled_from(ORIGIN_FIELDS), _value | _peer, max_size=3).map(
    lambda given: _object({**_honest_origin, **given})
)


def _forwarded(origin: bytes, body: bytes) -> bytes:
    return MAGIC + len(origin).to_bytes(4, "little") + origin + body


_plain: Final = st.sampled_from(BODIES) | st.binary(max_size=40) | _record
_message: Final = _plain | st.builds(_forwarded, _origin, _plain)
_label: Final = (
    st.sampled_from(("", "\0", "\x1b[2J", "é" * 127, "\u202e\u2028\x85", "x" * 255, '"\\\n', "a=b"))
    | st.text(st.characters(codec="utf-8"), max_size=63)
).filter(lambda label: len(label.encode()) <= MAX_LABEL)
_number: Final = st.sampled_from((0, 1, 2**31, 2**53 + 1, 2**61)) | st.integers(0, 2**61)
_credential: Final = st.sampled_from((None, 0, 1, 2**31 - 1, 2**32 - 1))


class Sent(NamedTuple):
    """Messages of a producer, with its credentials and the receiver's position and time."""

    label: str
    lowest: int
    lost: int
    groups: list[list[bytes]]
    peer: Peer
    received_at: int
    position: int | None
    """Of the first message; None without a journal."""


@st.composite
def sent(draw: st.DrawFn) -> Sent:
    """Return what a producer may send; the last message is an honest one."""
    groups = draw(st.lists(st.lists(_message, min_size=1, max_size=4), max_size=3))
    count = sum(map(len, groups)) + 1
    lowest, lost = draw(_number), draw(st.sampled_from((0, 0, 1)) | _number)
    if draw(st.booleans()):  # up to the last number that there is
        lowest, lost = draw(
            st.sampled_from(((MAX_INTEGER - count, 0), (0, MAX_INTEGER - count), (1, 2**62)))
        )
    return Sent(
        draw(_label),
        lowest,
        lost,
        groups,
        Peer(draw(_credential), draw(_credential), draw(_credential)),
        draw(st.sampled_from((0, 1, 10**9, 2**63 - 1, -1, -(2**63))) | st.integers(0, 2**62)),
        draw(st.none() | st.sampled_from((1, 2**53, MAX_INTEGER - 2 * count - 1))),
    )


def frames(given: Sent, producer_id: bytes = PRODUCER_ID) -> bytes:
    """Return what the producer writes to its connection."""
    parts = [PREFACE, encode(Hello(producer_id, given.lowest, given.label))]
    seq = given.lowest
    if given.lost:
        parts.append(encode(Lost(seq, given.lost, LostReason.DROPPED_OLDEST)))
        seq += given.lost
    for group in [*given.groups, [HONEST]]:
        parts.append(codec.pack_batch(group, seq))
        seq += len(group)
    return b"".join(parts)


def received(given: Sent) -> list[Batch[bytes]]:
    """Return the batches that a receiver hands out: directly, or out of its journal."""
    session = ReceivingSession(peer=given.peer, address="app.sock")
    batches: list[Batch[bytes]] = []
    session.receive_data(frames(given))
    while events := session.events_received():
        for event in events:
            if isinstance(event, Batch):
                batches.append(event)
            elif isinstance(event, Hello):
                identity = ProducerIdentity(event.producer_id, event.label)
                uid = given.peer.uid
                session.welcome(Ledger().open(uid, identity, event.lowest_seq, 0.0))
    if given.position is None:
        return batches
    return _journaled(batches, given)


def _journaled(batches: list[Batch[bytes]], given: Sent) -> list[Batch[bytes]]:
    """Write batches as records of a journal, and read them again."""
    position = given.position or 0
    again: list[Batch[bytes]] = []
    for batch in batches:
        payload = codec.pack_batch(batch.raw, batch.first_seq)[8:] if batch else b""
        entry = Entry(
            payload,
            len(batch),
            batch.nbytes,
            batch.first_seq,
            batch.lost,
            batch.peer,
            batch.producer,
            1,
            given.received_at,
        )
        head = unpack_head(pack_entry(entry, Place(bytes(16), 1, 1, 0, 0, position)), 0)
        assert head is not None
        assert (head.kind, head.size >= HEAD_SIZE) == (Kind.BATCH, True)
        read = unpack_entry(head, payload).batch()
        position += entry.span
        read.position = position - 1
        again.append(read)
    return again
