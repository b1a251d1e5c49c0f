"""Make batches of what a producer sends, from its frames, as an engine does."""

from __future__ import annotations

from typing import Final, NamedTuple

from mpsr._speedups import codec
from mpsr.batch import Batch, Peer, ProducerIdentity
from mpsr.store.records import HEAD_SIZE, Entry, Kind, Place, pack_entry, unpack_entry, unpack_head
from mpsr.wire.frames import PREFACE, Hello, Lost, LostReason, encode
from mpsr.wire.ledger import Ledger
from mpsr.wire.receiving import ReceivingSession

HONEST: Final = b"honest"  # the message that has to arrive after all others
PRODUCER_ID: Final = b"\x00\xff" * 8


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
