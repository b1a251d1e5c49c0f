"""Keep sealed batches in the order of their sequence numbers until they are accepted.

First come the batches in flight, then the unsent ones. With a spool, a batch is unsent only once
it is in the spool: what a receiver has seen, the spool must know after a crash. What was dropped
keeps its sequence numbers, as a batch that says so.

A signal handler may raise (KeyboardInterrupt) wherever a call returns. So a change is prepared
first, then made in statements of which only the last one is a call; ``repair`` restores what an
interruption may leave.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from mpsr._speedups import codec
from mpsr.engine.sending.batches import SendBatch, lost_batch
from mpsr.engine.sending.drops import REPORTED, Drops
from mpsr.limits import ACK_READ_BATCHES, ACK_READ_BYTES, MESSAGE_COST, WRITE_BUFFERS, WRITE_SIZE
from mpsr.wire.frames import LostReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.system.files import KeptFile
    from mpsr.wire.packing import ForeignFraming


class SendQueue:
    """The sealed batches of one producer that are not accepted yet.

    Attributes:
        start_seq: the sequence number of the first message of all.
        accepted_seq: everything below is accepted.
        sealed_seq: everything below is sealed.
        written_seq: behind what was written directly on this connection.
        lost: messages dropped so far.
        drops: those of them that ``on_full=`` did not ask for, until a call reports them.

    """

    def __init__(self, foreign: ForeignFraming | None, *, spooled: bool, buffer: int) -> None:
        self.start_seq: int = 0
        self.accepted_seq: int = 0
        self.sealed_seq: int = 0
        self.written_seq: int = 0
        self.lost: int = 0
        self.drops: Drops = Drops(buffer)
        self._lost_accepted = 0
        self._foreign = foreign
        self._unsent: deque[SendBatch] = deque()
        self._offset = 0  # how much of the first unsent batch is written
        self._chosen = 0  # unsent batches in a write that has not ended
        self._inflight: deque[SendBatch] = deque()
        self._unspooled: deque[SendBatch] | None = deque() if spooled else None
        self._grouped = 0  # unspooled batches in a commit that has not ended
        self._cost = 0  # of all batches
        self._largest = 0  # bytes of the longest message there may be
        self._largest_frame = inf  # that the receiver or a packet takes, where that is little

    # -- what there is ----------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """How many messages were accepted."""
        return self.accepted_seq - self.start_seq - self._lost_accepted

    @property
    def largest(self) -> int:
        """Bytes of the longest message that the receiver takes, once it takes less than others."""
        return self._largest

    @property
    def unsent(self) -> bool:
        """Whether a batch waits to be written."""
        return bool(self._unsent)

    @property
    def begun(self) -> bool:
        """Whether a batch is written in part."""
        return self._offset > 0

    @property
    def unspooled(self) -> bool:
        """Whether a batch waits to be written to the spool."""
        return bool(self._unspooled)

    @property
    def spooled_seq(self) -> int:
        """Everything below is in the spool, if there is one."""
        return self._unspooled[0].first_seq if self._unspooled else self.sealed_seq

    @property
    def in_flight(self) -> int:
        """How many messages are written to the connection, and not accepted yet.

        The receiver can still read them when this process has ended.
        """
        return sum(
            batch.end_seq - max(batch.first_seq, self.accepted_seq)
            for batch in self._inflight
            if batch.reason is None
        )

    @property
    def many_in_flight(self) -> bool:
        """Whether so much is in flight that the next writer should read acknowledgements."""
        return self._cost > ACK_READ_BYTES or len(self._inflight) > ACK_READ_BATCHES

    # -- sealing and dropping ---------------------------------------------------------------

    def _push(self, batch: SendBatch) -> None:
        """Append a sealed batch."""
        self.sealed_seq = max(self.sealed_seq, batch.end_seq)
        self._cost += batch.cost
        (self._unsent if self._unspooled is None else self._unspooled).append(batch)

    def _push_inflight(self, batch: SendBatch) -> None:
        """Append a batch that was written as it was sealed."""
        self.sealed_seq = self.written_seq = batch.end_seq
        self._cost += batch.cost
        self._inflight.append(batch)

    def _push_lost(self, count: int, reason: LostReason) -> None:
        """Give the next sequence numbers to messages that are dropped."""
        first_seq, end_seq = self.sealed_seq, self.sealed_seq + count
        queue, untouched = self._unsent, self._untouched()
        if self._unspooled is not None:
            queue, untouched = self._unspooled, self._grouped
        last = len(queue) - 1
        merges = last >= untouched and queue[last].reason is reason
        if merges:
            first_seq = queue[last].first_seq
        note = self._lost_note(first_seq, end_seq, reason)
        self.lost += count
        self.sealed_seq = end_seq
        if merges:
            queue[last] = note
        else:
            queue.append(note)

    def _drop(self, index: int, reason: LostReason) -> None:
        """Replace an unsent batch by the note that its messages were lost."""
        batch = self._unsent[index]
        first_seq = max(batch.first_seq, self.accepted_seq)
        count = batch.end_seq - first_seq
        merges = index > self._untouched() and self._unsent[index - 1].reason is reason
        if merges:
            first_seq = self._unsent[index - 1].first_seq
        note = self._lost_note(first_seq, batch.end_seq, reason)
        unasked = batch.split()[-count:] if reason in REPORTED else []
        self._cost -= batch.cost
        self.lost += count
        self._unsent[index] = note
        if merges:
            del self._unsent[index - 1]
        if unasked:
            self.drops.add(reason, unasked)

    def _drop_oldest(self) -> bool:
        """Drop the oldest batch of which no byte is written; return False if there is none."""
        for index in range(self._untouched(), len(self._unsent)):
            if self._unsent[index].reason is None:
                self._drop(index, LostReason.DROPPED_OLDEST)
                return True
        return False

    def drop_chosen(self, reason: LostReason) -> None:
        """Drop the batch that was chosen: the kernel takes neither it nor its file."""
        self._chosen = 0
        self._drop(0, reason)

    def refuse_files(self) -> None:
        """Drop what is to go with a file: the receiver takes none. No write is under way."""
        for batch in [each for each in self._unsent if each.file is not None]:
            self._drop(self._unsent.index(batch), LostReason.FILE_REFUSED)

    def forget_files(self) -> None:
        """Close the files of what was not accepted, at the end."""
        for batch in (*self._inflight, *self._unsent):
            if batch.file is not None:
                batch.file.close()

    def _untouched(self) -> int:
        """Return the index of the first unsent batch that no write has begun."""
        return max(self._chosen, 1 if self._offset else 0)

    def _lost_note(self, first_seq: int, end_seq: int, reason: LostReason) -> SendBatch:
        if self._foreign is None:
            return lost_batch(first_seq, end_seq, reason)
        return SendBatch(first_seq, end_seq, [], 0, reason=reason)

    # -- the spool --------------------------------------------------------------------------

    def restore(self, batches: Sequence[SendBatch], accepted_seq: int, next_seq: int) -> None:
        """Begin with what a spool held, before any message is taken."""
        self.start_seq = self.accepted_seq = accepted_seq
        self.sealed_seq = next_seq
        if self._largest_frame == inf:
            self._largest = max(self._largest, *(batch.nbytes for batch in batches), 0)
        self._cost = sum(batch.cost for batch in batches)
        for batch in batches:
            self._append_unsent(batch)
        self.lost = sum(batch.count for batch in batches if batch.reason is not None)

    def begin_commit(self, most: int) -> list[SendBatch]:
        """Choose batches to commit, about ``most`` bytes; ``end_commit`` must follow."""
        group: list[SendBatch] = []
        size = 0
        for batch in self._unspooled or ():
            if size >= most:
                break
            group.append(batch)
            size += batch.nbytes
        self._grouped = len(group)
        return group

    def end_commit(self, spooled_seq: int) -> None:
        """Note that everything below ``spooled_seq`` is in the spool, and may be sent."""
        self._grouped = 0
        while self._unspooled and self._unspooled[0].end_seq <= spooled_seq:
            self._append_unsent(self._unspooled[0])
            self._unspooled.popleft()  # last: an interruption may repeat it, but not lose it

    # -- writing ----------------------------------------------------------------------------

    def _choose(self, most: int | None) -> list[bytes | memoryview]:
        """Choose what to write now, of ``most`` batches at most."""
        while self._foreign is not None and self._unsent and self._unsent[0].reason is not None:
            self._settle(self._unsent.popleft())  # a foreign framing cannot say that it was lost
        chosen: list[bytes | memoryview] = []
        size = count = 0
        for batch in islice(self._unsent, most):
            if chosen and (size >= WRITE_SIZE or len(chosen) + len(batch.buffers) > WRITE_BUFFERS):
                break
            if batch.file is not None and chosen:
                break
            if self._foreign is not None and batch.reason is not None:
                break
            chosen += batch.buffers
            size += batch.nbytes
            count += 1
            if batch.file is not None:  # it is passed with a write of its own
                break
        self._chosen = count
        return (_skip(chosen, self._offset) if self._offset else chosen)[:WRITE_BUFFERS]

    @property
    def chosen_file(self) -> KeptFile | None:
        """The file that is to be passed with what was chosen, if its batch was not begun."""
        return None if self._offset else self._unsent[0].file

    @property
    def chosen_seq(self) -> int:
        """The sequence number behind the messages that were chosen."""
        return self._unsent[self._chosen - 1].end_seq

    @property
    def chosen_nbytes(self) -> int:
        """Bytes of the last batch that was chosen: about what its sender sends at a time."""
        return self._unsent[self._chosen - 1].nbytes

    def wrote(self, size: int) -> bool:
        """Note that ``size`` bytes of what was chosen were written; return whether that is all."""
        chosen, self._chosen = self._chosen, 0
        self._offset += size
        for _ in range(chosen):
            batch = self._unsent[0]
            if self._offset < batch.nbytes:
                return False
            self._offset -= batch.nbytes
            if self._foreign is not None or batch.end_seq <= self.accepted_seq:
                self._settle(batch)
            else:
                self._inflight.append(batch)
            self._unsent.popleft()  # last: an interruption may repeat it, but not lose it
        return True

    def put_back(self) -> None:
        """Note that nothing of what was chosen was written."""
        self._chosen = 0

    # -- what the receiver says -------------------------------------------------------------

    def _accept(self, seq: int) -> None:
        """Forget the messages below ``seq``: they are accepted."""
        self.accepted_seq = max(self.accepted_seq, seq)
        while self._inflight and self._inflight[0].end_seq <= seq:
            self._settle(self._inflight.popleft())

    def _settle(self, batch: SendBatch) -> None:
        self.accepted_seq = max(self.accepted_seq, batch.end_seq)
        self._cost -= batch.cost
        if batch.reason is not None:
            self._lost_accepted += batch.count

    def _skip_received(self, expected_seq: int) -> None:
        """Put in flight what the receiver has already: it expects ``expected_seq`` next."""
        while self._unsent and self._unsent[0].end_seq <= expected_seq:
            self._inflight.append(self._unsent.popleft())

    def _append_unsent(self, batch: SendBatch) -> None:
        """Append a batch to the unsent ones, in pieces if the receiver takes none so large."""
        if batch.nbytes <= self._largest_frame or batch.file is not None:
            self._unsent.append(batch)
            if batch.nbytes > self._largest_frame:
                self._drop(len(self._unsent) - 1, LostReason.TOO_LARGE)
            return
        self._cost -= batch.cost
        for seq, message in enumerate(batch.split(), batch.first_seq):
            cost = len(message) + MESSAGE_COST
            self._cost += cost
            self._unsent.append(SendBatch(seq, seq + 1, [codec.pack_batch([message], seq)], cost))
            if len(message) > self._largest:
                self._drop(len(self._unsent) - 1, LostReason.TOO_LARGE)

    # -- losing the connection --------------------------------------------------------------

    def _rewind(self) -> None:
        """Make everything that is not accepted unsent again: the connection is gone."""
        self._chosen = 0
        if self._foreign is not None and self._offset:
            self._cut(self._foreign)
        self._offset = 0
        self._unsent.extendleft(reversed(self._inflight))
        self._inflight.clear()
        while self._unsent and self._unsent[0].end_seq <= self.accepted_seq:
            self._settle(self._unsent.popleft())  # accepted while its write was under way

    def _repair(self) -> None:
        """Remove what an interruption has repeated, and count anew; behind ``_rewind``."""
        self._unsent = deque({batch.first_seq: batch for batch in self._unsent}.values())
        self._cost = sum(batch.cost for batch in (*self._unsent, *(self._unspooled or ())))

    def _cut(self, foreign: ForeignFraming) -> None:
        """Settle the messages of a partly written batch that were written whole."""
        batch = self._unsent.popleft()
        messages = batch.split()
        whole = size = 0
        for message in messages:
            size += len(foreign.pack([message]))
            if size > self._offset:
                break
            whole += 1
        rest = messages[whole:]
        data = foreign.pack(rest)
        cost = len(data) + MESSAGE_COST * len(rest)
        middle = batch.first_seq + whole
        self._settle(SendBatch(batch.first_seq, middle, [], batch.cost - cost))
        left = SendBatch(middle, batch.end_seq, [data], cost, split=foreign.split)
        self._unsent.appendleft(left)

    def _unaccepted(self) -> list[bytes]:
        """Return the sealed messages that are neither accepted nor in the spool, in order."""
        messages: list[bytes] = []
        left = (*self._inflight, *self._unsent) if self._unspooled is None else self._unspooled
        for batch in left:
            if batch.reason is None:
                messages += batch.split()[max(0, self.accepted_seq - batch.first_seq) :]
        return messages


def _skip(buffers: list[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """Return the buffers without their first ``size`` bytes."""
    for index, buffer in enumerate(buffers):
        if size < len(buffer):
            return [memoryview(buffer)[size:], *buffers[index + 1 :]]
        size -= len(buffer)
    return []
