"""Turn what a journal holds into bytes and back: segment headers, records, states.

Pure functions and values, without I/O. ``docs/journal-format.md`` has the layout, byte by byte.
"""

from __future__ import annotations

import enum
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from mpsr._speedups import codec
from mpsr.batch import UNKNOWN_PEER, Batch, Peer, ProducerIdentity
from mpsr.wire.frames import encode_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Buffer

    ProducerKey = tuple[int | None, bytes]

MAGIC: Final = b"\x89MPSRJ\r\n"
VERSION: Final = 1
MARKER: Final = b"\xa5MPR"
_HEADER: Final = struct.Struct("<8sHHI16sQ24x")  # magic, version, kind, checksum, id, first
HEADER_SIZE: Final = _HEADER.size
_HEADER_SUM: Final = slice(12, 16)
_HEAD: Final = struct.Struct("<4sIIIHHI16sQQQQ")
HEAD_SIZE: Final = _HEAD.size
MAX_HEAD: Final = 512  # bytes of a record up to its payload: a label is short
_SUMMED_FROM: Final = 8  # bytes of a head before what its checksum covers
_BATCH: Final = struct.Struct("<qQQQQIIqqq16s")  # the details; then the label
_COUNTS: Final = struct.Struct("<III")  # cursors, producers, forgotten producers
_CURSOR: Final = struct.Struct("<QH")  # position, length of the name
_PRODUCER: Final = struct.Struct("<q16sQIH")  # uid, id, expected_seq, epoch, length of the label
_FORGOTTEN: Final = struct.Struct("<q16s")  # uid, id
_DROPPED: Final = 2**64 - 1  # stands for the position of a cursor that is gone
_NOBODY: Final = -1  # stands for None among numbers
_HAS_PRODUCER: Final = 1
_BATCH_COUNT: Final = struct.Struct("<8xI")  # where a BATCH payload says how many it holds
_OFFSET: Final = struct.Struct("<I")
_OFFSETS_AT: Final = 16  # bytes of a BATCH payload before its offsets


class Use(enum.IntEnum):
    """Whose log it is."""

    JOURNAL = 1
    SPOOL = 2


_USES: Final = frozenset(Use)


class Kind(enum.IntEnum):
    """What a record holds."""

    BATCH = 1
    CHANGES = 2
    SNAPSHOT = 3
    SEAL = 4


class Header(NamedTuple):
    """The beginning of a segment."""

    id: bytes
    """16 random bytes, the same in all segments of a log."""
    use: int
    first: int
    """The position of the segment's first message."""


class Place(NamedTuple):
    """Where a record stands: what its head repeats, so that no other can take its place."""

    id: bytes
    use: int
    segment: int
    """The position of the segment's first message."""
    offset: int
    """Bytes from the segment's beginning."""
    group: int
    """The offset of the first record that was written and synced together with it."""
    position: int
    """Of its first message; of the next message, where it has none."""


class Head(NamedTuple):
    """What a record says of itself before its payload."""

    kind: int
    place: Place
    details: bytes
    length: int
    """Bytes of the payload."""
    checksum: int
    """CRC-32 of the payload."""

    @property
    def size(self) -> int:
        """Bytes of the record up to its payload."""
        return HEAD_SIZE + len(self.details)

    @property
    def end(self) -> int:
        """The offset behind the record."""
        return self.place.offset + self.size + self.length


class Entry(NamedTuple):
    """One batch, as it is written and read."""

    payload: Buffer
    """A native BATCH payload, whose last ``length`` messages count; empty if they are gone."""
    length: int
    nbytes: int
    """Bytes of the ``length`` messages."""
    first_seq: int = 0
    lost: int = 0
    peer: Peer = UNKNOWN_PEER
    producer: ProducerIdentity | None = None
    epoch: int = 0
    received_at: int = 0
    """Nanoseconds since 1970."""
    checksum: int | None = None
    """CRC-32 of the payload, where it is known."""

    @property
    def span(self) -> int:
        """How many positions it takes."""
        return self.length or 1

    @property
    def empty(self) -> bool:
        """Whether there is no message in it."""
        return not memoryview(self.payload).nbytes

    @property
    def gone(self) -> int:
        """How many of its messages a damage has taken."""
        return self.length if self.empty else 0

    @property
    def state(self) -> KnownProducer | None:
        """Where its native producer stands behind it."""
        if self.producer is None:
            return None
        return KnownProducer(self.peer.uid, self.producer, self.epoch, self.first_seq + self.length)

    def batch(self, decode: Callable[[bytes], Any] | None = None) -> Batch[Any]:
        """Return it as a lazy batch; messages that are gone count as lost."""
        length = self.length - self.gone
        skip = _BATCH_COUNT.unpack_from(self.payload)[0] - length if length else 0
        batch = Batch(
            partial(codec.iter_batch, self.payload, skip) if length else list,
            length,
            self.nbytes,
            self.peer,
            self.producer,
            self.first_seq,
            self.lost + self.gone,
            decode,
            self.payload if length else None,
        )
        batch.received_at = self.received_at or None
        return batch

    def after(self, skip: int) -> Entry:
        """Return it without its first ``skip`` messages (fewer than it has)."""
        if not skip:
            return self
        rest = self._replace(length=self.length - skip, first_seq=self.first_seq + skip, lost=0)
        if self.gone:
            return rest
        before = _BATCH_COUNT.unpack_from(self.payload)[0] - rest.length
        (offset,) = _OFFSET.unpack_from(self.payload, _OFFSETS_AT + _OFFSET.size * before)
        bodies = memoryview(self.payload).nbytes - _OFFSETS_AT
        bodies -= _OFFSET.size * (before + rest.length + 1)
        return rest._replace(nbytes=bodies - offset)


class Record(NamedTuple):
    """What the journal holds at a position: that of the entry's last message."""

    position: int
    entry: Entry


class KnownProducer(NamedTuple):
    """Where one native producer stands."""

    uid: int | None
    producer: ProducerIdentity
    epoch: int
    expected_seq: int

    @property
    def key(self) -> ProducerKey:
        """What tells it from all others."""
        return self.uid, self.producer.id


class Changes(NamedTuple):
    """What a record says of cursors and producers; a snapshot says all there is."""

    cursors: Mapping[str, int | None]
    """Positions; None for a cursor that is gone."""
    producers: Iterable[KnownProducer] = ()
    forgotten: Iterable[ProducerKey] = ()


# -- segments -------------------------------------------------------------------------------------


def pack_header(header: Header) -> bytes:
    """Return the first bytes of a segment."""
    packed = bytearray(_HEADER.pack(MAGIC, VERSION, header.use, 0, header.id, header.first))
    packed[_HEADER_SUM] = crc32(packed).to_bytes(4, "little")
    return bytes(packed)


def unpack_header(data: bytes) -> tuple[Header, int] | None:
    """Return a segment's header and the version of its format; None if it is not whole.

    The header is the same in every version.
    """
    if len(data) < HEADER_SIZE:
        return None
    magic, version, use, checksum, log_id, first = _HEADER.unpack_from(data)
    zeroed = bytearray(data[:HEADER_SIZE])
    zeroed[_HEADER_SUM] = bytes(4)
    if magic != MAGIC or crc32(zeroed) != checksum or (version == VERSION and use not in _USES):
        return None
    return Header(log_id, use, first), version


# -- records --------------------------------------------------------------------------------------


def pack_head(
    kind: Kind, place: Place, *, details: bytes = b"", length: int = 0, checksum: int = 0
) -> bytes:
    """Return a record up to its payload."""
    log_id, use, segment, offset, group, position = place
    head = _HEAD.pack(
        MARKER,
        0,
        checksum,
        length,
        kind,
        len(details),
        use,
        log_id,
        segment,
        offset,
        group,
        position,
    )
    own = crc32(details, crc32(head[_SUMMED_FROM:]))
    return b"".join((MARKER, own.to_bytes(4, "little"), head[_SUMMED_FROM:], details))


def unpack_head(data: Buffer, at: int) -> Head | None:
    """Return the head of the record that begins there; None if there is none, or not whole."""
    view = memoryview(data)
    if len(view) < at + HEAD_SIZE:
        return None
    (marker, own, checksum, length, kind, size, use, log_id, segment, offset, group, position) = (
        _HEAD.unpack_from(view, at)
    )
    end = at + HEAD_SIZE + size
    if marker != MARKER or len(view) < end or crc32(view[at + _SUMMED_FROM : end]) != own:
        return None
    details = bytes(view[at + HEAD_SIZE : end])
    return Head(
        kind, Place(log_id, use, segment, offset, group, position), details, length, checksum
    )


def pack_record(kind: Kind, place: Place, payload: bytes) -> bytes:
    """Return a record that is no batch."""
    return pack_head(kind, place, length=len(payload), checksum=crc32(payload)) + payload


def pack_entry(entry: Entry, place: Place) -> bytes:
    """Return the record of a batch, up to its payload."""
    producer = entry.producer
    flags, log_id, label = 0, b"", b""
    if producer is not None:
        flags, log_id, label = _HAS_PRODUCER, producer.id, encode_label(producer.label)
    pid, uid, gid = (_NOBODY if number is None else number for number in entry.peer)
    details = _BATCH.pack(
        entry.received_at,
        entry.first_seq,
        entry.length,
        entry.nbytes,
        entry.lost,
        entry.epoch,
        flags,
        pid,
        uid,
        gid,
        log_id,
    )
    checksum = crc32(entry.payload) if entry.checksum is None else entry.checksum
    length = memoryview(entry.payload).nbytes
    return pack_head(Kind.BATCH, place, details=details + label, length=length, checksum=checksum)


def unpack_entry(head: Head, payload: Buffer) -> Entry:
    """Return the batch of a record."""
    received_at, first_seq, length, nbytes, lost, epoch, flags, pid, uid, gid, log_id = (
        _BATCH.unpack_from(head.details)
    )
    producer = None
    if flags & _HAS_PRODUCER:
        producer = ProducerIdentity(log_id, head.details[_BATCH.size :].decode())
    peer = Peer(*(None if number == _NOBODY else number for number in (pid, uid, gid)))
    return Entry(
        payload, length, nbytes, first_seq, lost, peer, producer, epoch, received_at, head.checksum
    )


# -- states ---------------------------------------------------------------------------------------


def pack_changes(changes: Changes) -> bytes:
    """Return the payload of CHANGES or SNAPSHOT."""
    producers, forgotten = list(changes.producers), list(changes.forgotten)
    parts = [_COUNTS.pack(len(changes.cursors), len(producers), len(forgotten))]
    for name, position in changes.cursors.items():
        text = name.encode("utf-8", "surrogateescape")
        parts += (_CURSOR.pack(_DROPPED if position is None else position, len(text)), text)
    for uid, (log_id, label), epoch, expected_seq in producers:
        text = encode_label(label)
        number = _NOBODY if uid is None else uid
        parts += (_PRODUCER.pack(number, log_id, expected_seq, epoch, len(text)), text)
    for uid, log_id in forgotten:
        parts.append(_FORGOTTEN.pack(_NOBODY if uid is None else uid, log_id))
    return b"".join(parts)


def unpack_changes(payload: Buffer) -> Changes:
    """Return what the payload of CHANGES or SNAPSHOT says."""
    data = bytes(memoryview(payload))
    cursors: dict[str, int | None] = {}
    producers: list[KnownProducer] = []
    forgotten: list[ProducerKey] = []
    counts, at = _COUNTS.unpack_from(data), _COUNTS.size
    for _ in range(counts[0]):
        position, size = _CURSOR.unpack_from(data, at)
        begin, at = at + _CURSOR.size, at + _CURSOR.size + size
        name = data[begin:at].decode("utf-8", "surrogateescape")
        cursors[name] = None if position == _DROPPED else position
    for _ in range(counts[1]):
        uid, log_id, expected_seq, epoch, size = _PRODUCER.unpack_from(data, at)
        begin, at = at + _PRODUCER.size, at + _PRODUCER.size + size
        identity = ProducerIdentity(log_id, data[begin:at].decode())
        user = None if uid == _NOBODY else uid
        producers.append(KnownProducer(user, identity, epoch, expected_seq))
    for _ in range(counts[2]):
        uid, log_id = _FORGOTTEN.unpack_from(data, at)
        at += _FORGOTTEN.size
        forgotten.append((None if uid == _NOBODY else uid, log_id))
    return Changes(cursors, producers, forgotten)
