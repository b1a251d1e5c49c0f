"""Turn batches, and what is known beside them, into rows and back.

    batches(position, head, checksum, payload)    one row a batch: where it begins, what is known
                                                  of it, its messages as a BATCH payload
    state(name, value, checksum)                  "c…" cursors, "t…" tracks, "m…" other values;
                                                  "" is the root: what is trimmed, what is last,
                                                  and a sum over all the others

Every row has a checksum over all of it.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from mpsr.batch import UNKNOWN_PEER, Batch, Peer, ProducerIdentity
from mpsr.wire.codec import iter_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

ROOT: Final = b""
ROOT_VALUE: Final = struct.Struct("<QQII")  # trimmed, last, sum, how many
_HEAD: Final = struct.Struct("<qQQQQIqqq17s")  # as in pack_head; then the label
_TRACK: Final = struct.Struct("<QI")  # expected_seq, epoch; then the label
_TRACK_NAME: Final = struct.Struct("<cq16s")  # b"t", uid, producer id
POSITION: Final = struct.Struct("<Q")
_BATCH_COUNT: Final = struct.Struct("<8xI")  # where a BATCH payload says how many it holds
_OFFSET: Final = struct.Struct("<I")
_OFFSETS_AT: Final = 16  # bytes of a BATCH payload before its offsets
_NOBODY: Final = -1  # stands for None among numbers


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

    def batch(self, decode: Callable[[bytes], Any] | None = None) -> Batch[Any]:
        """Return it as a lazy batch; messages that are gone count as lost."""
        length = self.length - self.gone
        skip = _BATCH_COUNT.unpack_from(self.payload)[0] - length if length else 0
        return Batch(
            partial(iter_batch, self.payload, skip) if length else list,
            length,
            self.nbytes,
            self.peer,
            self.producer,
            self.first_seq,
            self.lost + self.gone,
            decode,
        )

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


class TrackState(NamedTuple):
    """Where one native producer stands."""

    uid: int | None
    producer: ProducerIdentity
    epoch: int
    expected_seq: int


def checksum_of(first: int, head: bytes, payload_sum: int) -> int:
    """Return the checksum of a batch's row."""
    return crc32(head, crc32(POSITION.pack(first), payload_sum))


def pack_head(entry: Entry) -> bytes:
    """Return what is known of a batch, but for its messages."""
    producer = entry.producer
    identity, label = b"", b""
    if producer is not None:
        identity, label = b"\1" + producer.id, producer.label.encode("utf-8", "replace")
    peer = [_NOBODY if number is None else number for number in entry.peer]
    return label.join((
        _HEAD.pack(
            entry.received_at,
            entry.first_seq,
            entry.length,
            entry.nbytes,
            entry.lost,
            entry.epoch,
            *peer,
            identity,
        ),
        b"",
    ))  # fmt: skip


def entry_of_row(row: tuple[Any, ...]) -> Entry | None:
    """Return the entry of a row; None if it is not what was written."""
    first, head, checksum, payload = row
    if not (isinstance(head, bytes) and isinstance(payload, bytes)):
        return None
    if checksum_of(first, head, crc32(payload)) != checksum:
        return None
    received_at, first_seq, length, nbytes, lost, epoch, *peer, identity = _HEAD.unpack_from(head)
    producer = None
    if identity[0]:
        producer = ProducerIdentity(identity[1:], head[_HEAD.size :].decode())
    return Entry(
        payload,
        length,
        nbytes,
        first_seq,
        lost,
        Peer(*(None if number == _NOBODY else number for number in peer)),
        producer,
        epoch,
        received_at,
    )


def state_checksum(name: bytes, value: bytes) -> int:
    """Return the checksum of a state's row."""
    return crc32(value, crc32(name, len(name)))


def is_state(name: object, value: object, checksum: object) -> bool:
    """Tell whether a state's row is what was written."""
    whole = isinstance(name, bytes) and isinstance(value, bytes)
    return whole and state_checksum(name, value) == checksum  # type: ignore[arg-type]


def track_name(uid: int | None, producer_id: bytes) -> bytes:
    """Return the name of a producer's state."""
    return _TRACK_NAME.pack(b"t", _NOBODY if uid is None else uid, producer_id)


def pack_track(track: TrackState) -> bytes:
    """Return the value of a producer's state."""
    label = track.producer.label.encode("utf-8", "replace")
    return _TRACK.pack(track.expected_seq, track.epoch) + label


def unpack_track(name: bytes, value: bytes) -> TrackState:
    """Return where a producer stands, from its state."""
    _, uid, producer_id = _TRACK_NAME.unpack(name)
    expected_seq, epoch = _TRACK.unpack_from(value)
    producer = ProducerIdentity(producer_id, value[_TRACK.size :].decode())
    return TrackState(None if uid == _NOBODY else uid, producer, epoch, expected_seq)
