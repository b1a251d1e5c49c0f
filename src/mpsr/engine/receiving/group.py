"""Gather batches that are written to a journal together."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any
from zlib import crc32

from mpsr._speedups import codec
from mpsr.batch import Batch, payload_of, state_of
from mpsr.store.records import MAX_HEAD, Entry
from mpsr.wire.frames import HEADER

if TYPE_CHECKING:
    from mpsr.store.records import ProducerKey


class Group:
    """Batches that are written together."""

    def __init__(self) -> None:
        self.batches: list[Batch[Any]] = []
        self.entries: list[Entry] = []
        self.keys: set[ProducerKey] = set()  # of the producers
        self.forgotten: set[ProducerKey] = set()  # of the producers that are known no longer
        self.begun: float = 0.0  # when the first was taken
        self.size: int = 0  # bytes of the batches
        self.room: int = 0  # bytes that they take in the journal, at most

    def add(self, batch: Batch[Any], now: float) -> None:
        """Add a batch, as it will be written."""
        if not self.batches:
            self.begun = now
        entry = entry_of(batch)
        batch.received_at = entry.received_at
        self.batches.append(batch)
        self.entries.append(entry)
        state = state_of(batch)
        if state is not None:
            self.keys.add(state.key)
        self.size += weight(batch)
        self.room += memoryview(entry.payload).nbytes + MAX_HEAD


def weight(batch: Batch[Any]) -> int:
    """Return the bytes that a batch takes: its messages, and where each of them ends."""
    return batch.nbytes + 4 * len(batch)


def entry_of(batch: Batch[Any]) -> Entry:
    """Return what is written of a batch; its checksum is made while another group syncs."""
    payload, state = payload_of(batch), state_of(batch)
    if payload is None:
        payload = memoryview(codec.pack_batch(batch.raw, 0))[HEADER.size :] if len(batch) else b""
    return Entry(
        payload,
        len(batch),
        batch.nbytes,
        batch.first_seq,
        batch.lost,
        batch.peer,
        batch.producer,
        0 if state is None else state.epoch,
        time_ns(),
        crc32(payload),
    )
