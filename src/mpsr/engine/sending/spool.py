"""Keep a producer's messages in a journal until they are accepted.

The journal knows the producer's identity, made once, and its next sequence number. So whoever opens
it next goes on as the same producer, and a receiver drops what it has already.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr._speedups import codec
from mpsr.batch import Peer, ProducerIdentity
from mpsr.engine.sending.batches import SendBatch, lost_batch
from mpsr.errors import JournalFull
from mpsr.limits import GIB, MESSAGE_COST
from mpsr.store.journal import Journal
from mpsr.store.records import Entry, Use
from mpsr.system import primitives
from mpsr.wire.frames import HEADER, FrameType, LostReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_CURSOR: Final = "accepted"
_ROOM: Final = 4  # times what may wait: offsets, and what is accepted and not yet trimmed


class _Mark(NamedTuple):
    """Where the sequence numbers of one record stand among the journal's positions."""

    first_seq: int
    end_seq: int
    position: int  # of the last


class Spool:
    """The messages of one producer that are not accepted yet, in a journal that one process owns.

    Args:
        path: the directory.
        label: a name for the producer.
        most: bytes that may wait to be accepted.

    Attributes:
        path: the directory, in full.
        id: the 16 bytes by which the receiver knows the producer: the journal's own.
        accepted_seq: everything below is accepted, and the journal knows it.
        next_seq: the sequence number behind the last that is in the journal.
        left: what the journal held when it was opened, in order.

    Raises:
        NotAJournal: it is something else, or a receiver's journal.
        JournalError: as ``Journal``.

    """

    def __init__(self, path: str | os.PathLike[str], *, label: str, most: int) -> None:
        self._journal = Journal(path, limit=max(GIB, _ROOM * most), use=Use.SPOOL)
        self._mutex = primitives.Lock()
        self._marks: deque[_Mark] = deque()  # of what is not accepted
        self._peer = Peer(os.getpid(), os.geteuid(), os.getegid())
        self.path: str = self._journal.path
        self.id: bytes = self._journal.id
        self._producer = ProducerIdentity(self.id, label)
        try:
            states = (state.expected_seq for state in self._journal.producers())
            self.next_seq: int = max(states, default=0)
            self.accepted_seq: int = self.next_seq
            self.left: list[SendBatch] = self._load()
        except BaseException:
            self._journal.close()
            raise

    def commit(self, batches: Iterable[SendBatch], accepted_seq: int) -> None:
        """Write batches, and up to where all is accepted; both are on the disk when this returns.

        ``next_seq`` tells how many batches these were: where there is little room, the first
        alone. What is in the file already is left out.

        Raises:
            JournalFull: there is no room now; try again.
            JournalError: they could not be written, and nothing can any more.

        """
        with self._mutex:
            self._settle(accepted_seq)
            new = [batch for batch in batches if batch.first_seq >= self.next_seq]
            try:
                if new:
                    self._append(new)
                else:
                    self._journal.commit()
            except JournalFull:
                while self._journal.trim():
                    pass
                if new:
                    self._append(new[:1])
            self.accepted_seq = accepted_seq

    def close(self, accepted_seq: int) -> None:
        """Write up to where all is accepted, and part with the journal."""
        with self._mutex:
            try:
                self._settle(accepted_seq)
            finally:
                self._journal.close()

    # -- inside -----------------------------------------------------------------------------

    def _load(self) -> list[SendBatch]:
        journal = self._journal
        batches: list[SendBatch] = []
        position = journal.cursor(_CURSOR)
        with journal.reader() as reader:
            while records := reader.read(position):
                for position, entry in records:
                    if entry.gone:
                        continue  # a damage has taken them; the next tells how many there were
                    begin_seq = entry.first_seq - entry.lost
                    if not batches:
                        self.accepted_seq = begin_seq
                    elif batches[-1].end_seq < begin_seq:
                        batches.append(_gap(batches[-1].end_seq, begin_seq))
                    batches.append(_batch_of(entry))
                    self._mark(batches[-1], position)
        if batches and batches[-1].end_seq < self.next_seq:
            batches.append(_gap(batches[-1].end_seq, self.next_seq))
        return batches

    def _mark(self, batch: SendBatch, position: int) -> None:
        self._marks.append(_Mark(batch.first_seq, batch.end_seq, position))

    def _append(self, batches: Sequence[SendBatch]) -> None:
        now = time.time_ns()
        positions = self._journal.append([self._entry_of(batch, now) for batch in batches])
        for batch, position in zip(batches, positions, strict=True):
            self._mark(batch, position)
        self.next_seq = batches[-1].end_seq

    def _settle(self, accepted_seq: int) -> None:
        """Move the cursor, in memory; it may come to stand within a batch."""
        position = self._journal.cursor(_CURSOR)
        while self._marks and self._marks[0].end_seq <= accepted_seq:
            position = self._marks.popleft().position
        if self._marks:
            first_seq, end_seq, last = self._marks[0]
            if first_seq < accepted_seq:
                position = max(position, last - (end_seq - accepted_seq))
        self._journal.move(_CURSOR, position)

    def _entry_of(self, batch: SendBatch, now: int) -> Entry:
        count = batch.end_seq - batch.first_seq
        seq, peer, producer = batch.first_seq, self._peer, self._producer
        if batch.reason is not None:
            return Entry(b"", 0, 0, batch.end_seq, count, peer, producer, received_at=now)
        payload = b"".join((memoryview(batch.buffers[0])[HEADER.size :], *batch.buffers[1:]))
        _, _, nbytes = codec.scan_batch(payload)
        return Entry(payload, count, nbytes, seq, 0, peer, producer, received_at=now)


def _batch_of(entry: Entry) -> SendBatch:
    if entry.empty:
        return _gap(entry.first_seq - entry.lost, entry.first_seq)
    payload = bytes(entry.payload)
    first_seq, count, _ = codec.scan_batch(payload)  # whole, though some may be accepted
    head = HEADER.pack(len(payload), FrameType.BATCH, 0, 0)
    cost = len(payload) + MESSAGE_COST * count
    return SendBatch(first_seq, first_seq + count, [head, payload], cost)


def _gap(first_seq: int, end_seq: int) -> SendBatch:
    return lost_batch(first_seq, end_seq, LostReason.DROPPED_NEWEST)
