"""Keep messages until they are accepted: an open batch, and the parcels sealed from it.

Every message has a sequence number. Parcels stand in its order: first those in flight, then
those unsent; behind them the open batch gathers, in the packer. What is dropped keeps its
numbers, as a parcel that says so. Where there is a spool, parcels wait before those unsent until
they are in it: what a receiver has seen, the spool must know after a crash.

A signal handler may raise (Ctrl-C) wherever a call returns. So whatever changes the queue
prepares first, then changes it in statements of which only the last is a call; ``recover``
mends what an interruption left.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Literal

from mpsr.direct import DirectWriter
from mpsr.errors import MessageTooLarge, UnframeableMessage
from mpsr.limits import (
    ACK_LOOK,
    ACK_PARCELS,
    BATCH_TARGET,
    FRAME_OVERHEAD,
    LONG_TARGET,
    MESSAGE_COST,
    MIN_BATCHES,
    SHARED,
    SHORT_MESSAGE,
    TURN,
    TURNS,
    WRITE_BUFFERS,
    WRITE_SIZE,
)
from mpsr.wire.codec import Packer, longest, pack_batch, split_batch, to_bytes
from mpsr.wire.frames import HEADER, Lost, LostReason, encode, max_frame
from mpsr.wire.framing import ForeignPacker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from mpsr.wire.framing import ForeignFraming

OnFull = Literal["block", "raise", "drop_newest", "drop_oldest"]


class Parcel:
    """A sealed batch, or the word that messages were lost, until it is accepted."""

    __slots__ = ("_split", "buffers", "cost", "end_seq", "first_seq", "nbytes", "reason")

    def __init__(
        self,
        first_seq: int,
        end_seq: int,
        buffers: list[bytes],
        cost: int,
        nbytes: int | None = None,
        *,
        split: Callable[[bytes], list[bytes]] | None = None,
        reason: LostReason | None = None,
    ) -> None:
        self.first_seq = first_seq
        self.end_seq = end_seq
        self.buffers = buffers
        self.nbytes = sum(map(len, buffers)) if nbytes is None else nbytes
        self.cost = cost  # bytes of buffer
        self.reason = reason  # None unless they were lost
        self._split = split  # None for a native frame

    def split(self) -> list[bytes]:
        """Give the messages back."""
        data = b"".join(self.buffers)
        if self._split is not None:
            return self._split(data)
        return [] if self.reason is not None else split_batch(memoryview(data)[HEADER.size :], 0)


class Window:
    """The messages of one producer that are not accepted yet."""

    def __init__(
        self,
        *,
        foreign: ForeignFraming | None,
        on_full: OnFull,
        buffer: int,
        linger: float,
        max_message: int,
        spooled: bool = False,
    ) -> None:
        self.max_message = max_message
        self._largest_frame = inf  # that the receiver takes, once it is known to be small
        self._foreign = foreign
        self._alone = foreign is not None and foreign.alone
        self.halting = False  # whether a write ends with the parcel that has begun
        self._on_full = on_full
        self._buffer = buffer
        self._linger = linger
        self._plain = foreign is None and not spooled  # what is taken may be sent as it is
        most = 1 if self._alone else max(1, buffer // MIN_BATCHES)
        self._target = min(BATCH_TARGET, most)  # bytes of a batch
        self._long_target = min(LONG_TARGET, most)  # of one that begins with a long message
        # What a message or a batch may have; where the receiver takes less, all is made smaller.
        self._largest = max(max_message, self._long_target)

        #: The open batch. Its ``append`` may be called at any time, from any thread.
        self.packer = self._new_packer()
        #: Writes messages while nothing waits, without the lock; they are ours at the next look.
        self.direct = DirectWriter(linger * TURN, TURNS)
        self.due_at = 0.0  # when the open batch is to be sealed
        self._turn = linger * TURN
        self.written_seq = 0  # behind what was written so, on this connection
        self.sealed_seq = 0  # the sequence number of the first message in the open batch
        self._unsent: deque[Parcel] = deque()
        self._offset = 0  # how much of the first unsent parcel is written
        self._chosen = 0  # unsent parcels in a write that has not ended
        self._inflight: deque[Parcel] = deque()
        self._unspooled: deque[Parcel] | None = None  # sealed, and not in the spool yet
        self._grouped = 0  # unspooled parcels in a commit that has not ended
        self._cost = 0  # of all parcels
        if spooled:
            self._unspooled = deque()
            self.direct.turns_at = inf  # nothing leaves at once

        self.start_seq = 0
        self.accepted_seq = 0
        self.lost = 0
        self._lost_accepted = 0

    # -- what is there ----------------------------------------------------------------------

    @property
    def next_seq(self) -> int:
        """The sequence number that the next message will have."""
        self.adopt_direct()
        return self.known_seq

    @property
    def known_seq(self) -> int:
        """The same, but for what was written directly since the window was looked at."""
        return self.sealed_seq + len(self.packer)

    @property
    def accepted(self) -> int:
        """How many messages were accepted."""
        return self.accepted_seq - self.start_seq - self._lost_accepted

    @property
    def cost(self) -> int:
        """Bytes of buffer in use."""
        self.adopt_direct()
        return self.known_cost

    @property
    def known_cost(self) -> int:
        """The same, but for what was written directly since the window was looked at."""
        return self._cost + self.packer.cost

    @property
    def gathering(self) -> bool:
        """Whether there is an open batch."""
        return len(self.packer) > 0

    @property
    def wants_news(self) -> bool:
        """Whether so much is in flight that acknowledgements should be read."""
        return self._cost > ACK_LOOK or len(self._inflight) > ACK_PARCELS

    @property
    def nearly_full(self) -> bool:
        """Whether more than half of the buffer is in use."""
        return 2 * (self._cost + self.packer.cost) > self._buffer

    @property
    def unsent(self) -> bool:
        """Whether a parcel waits to be written."""
        return bool(self._unsent)

    @property
    def begun(self) -> bool:
        """Whether a parcel is written in part."""
        return self._offset > 0

    @property
    def unspooled(self) -> bool:
        """Whether a parcel waits to be written to the spool."""
        return bool(self._unspooled)

    @property
    def spooled_seq(self) -> int:
        """Everything below is in the spool, if there is one."""
        return self._unspooled[0].first_seq if self._unspooled else self.sealed_seq

    def is_due(self, now: float) -> bool:
        """Tell whether anything is to be written now."""
        return bool(self._unsent) or (self.gathering and now >= self.due_at)

    # -- taking messages --------------------------------------------------------------------

    def check(self, message: bytes) -> None:
        """Raise MessageTooLarge, or UnframeableMessage where the framing cannot carry it."""
        self._check_size(len(message))
        if self._foreign is not None:
            try:
                self._foreign.pack([message])
            except ValueError as exc:
                error = f"{exc}: choose another framing, or encode it"
                raise UnframeableMessage(error) from None

    def check_all(self, messages: Sequence[Buffer]) -> None:
        """Raise what ``check`` would, or TypeError for what is not bytes-like."""
        if self._foreign is None:
            self._check_size(longest(messages))
        else:
            for message in messages:
                self.check(to_bytes(message))

    def _check_size(self, size: int) -> None:
        if size > self.max_message:
            error = f"a message of {size} bytes: the most here is {self.max_message}"
            raise MessageTooLarge(error)

    def has_room(self, cost: int, promised: int = 0) -> bool:
        """Tell whether a message of that cost fits, beside what is promised to others."""
        used = self.cost + promised
        return not used or used + cost <= self._buffer

    def offer(self, message: bytes, now: float, *, alone: bool = True, waits: bool = True) -> bool:
        """Take a checked message, or drop one as ``on_full`` says; False where it has to wait.

        Args:
            message: the message.
            now: the time.
            alone: whether none comes right behind it.
            waits: whether it can wait for room; one that cannot is taken though there is none.

        """
        self.adopt_direct()
        size = len(message)
        cost = size + MESSAGE_COST
        keeps = self._on_full in ("block", "raise")
        anyhow = keeps and not waits
        if not (anyhow or self.has_room(cost) or self._make_room(cost)):
            if keeps:
                return False
            self._lose(1, LostReason.DROPPED_NEWEST)
        elif size > self.max_message:  # checked before a receiver said that it takes less
            self._lose(1, LostReason.TOO_LARGE)
        else:
            self._gather(message, cost, now, alone=alone)
        return True

    def _gather(self, message: bytes, cost: int, now: float, *, alone: bool) -> None:
        """Put a message into the open batch, or begin another with it."""
        while not self.packer.append(message):  # a signal handler that sends may seal it again
            if len(self.packer):
                self.seal()
            at_once = cost > self._target or (alone and self._leaves(now))
            self.due_at = now if at_once else now + self._linger
            target = self._target if len(message) < SHARED else self._long_target
            self.packer.open(max(cost, min(target, self._buffer - self._cost)))

    def _leaves(self, now: float) -> bool:
        """Tell whether what comes now leaves at once: nothing waits, and there was no burst.

        A write that leaves at once takes a turn. A few of them are at hand, and each is had back
        in a part of a linger.
        """
        if self._unsent:
            return False
        if self.direct.turns_at - now > self._turn * (TURNS - 1):
            return False
        self.direct.turns_at = max(self.direct.turns_at, now) + self._turn
        return True

    def offer_many(
        self, messages: Sequence[Buffer], position: int, now: float, *, enough: bool
    ) -> int:
        """Offer messages from ``position`` on; return where it stopped.

        It stops at the end, for want of room, or, if ``enough`` is wanted, when there is
        plenty for a write.
        """
        self.adopt_direct()
        goal = self._cost + WRITE_SIZE
        while position < len(messages):
            after = self.packer.extend(messages, position)
            if after == len(messages):
                return after
            if not self.offer(to_bytes(messages[after]), now, alone=len(messages) == 1):
                return after
            position = after + 1
            if enough and self._cost >= goal:
                break
        return position

    def let_direct(self, descriptor: int) -> None:
        """Have the next few messages, if they are short, written straight to the descriptor.

        So it goes until the window is asked for anything. There must be no write under way.
        """
        self.adopt_direct()
        if self._unsent or self.gathering or not self._plain:
            return
        self.packer.close()
        room = (self._buffer - self._cost) // SHORT_MESSAGE
        count = min(room, ACK_PARCELS - len(self._inflight))
        if count > 0 and not self.gathering:  # another thread may have been in time
            longest = min(SHORT_MESSAGE - MESSAGE_COST, self.max_message)
            self.direct.open(descriptor, self.sealed_seq, count, longest)

    def adopt_direct(self) -> None:
        """Have no more written directly, and make parcels in flight of what was."""
        first_seq, frames = self.direct.close()
        for seq, frame in enumerate(frames, first_seq):
            if seq == self.sealed_seq:  # else it is done
                cost = len(frame) - HEADER.size - FRAME_OVERHEAD + MESSAGE_COST
                parcel = Parcel(seq, seq + 1, [frame], cost, len(frame))
                self.sealed_seq = self.written_seq = seq + 1
                self._cost += cost
                self._inflight.append(parcel)

    def seal(self) -> None:
        """Close the open batch, so that it is sent now."""
        self.adopt_direct()
        self._adopt()
        self.packer.take(self.sealed_seq)
        self._adopt()

    def _adopt(self) -> None:
        """Make a parcel of what was taken from the packer, unless that is done."""
        first_seq, count, head, pieces = self.packer.taken
        if count and first_seq == self.sealed_seq:
            parcel = self._parcel(first_seq, count, head, pieces)
            self._push(parcel)
            if parcel.cost > LONG_TARGET:  # the packer is not to keep it alive
                self.packer.take(self.sealed_seq)
                self._adopt()

    def _parcel(self, first_seq: int, count: int, head: bytes, pieces: list[bytes]) -> Parcel:
        cost = sum(map(len, pieces)) + MESSAGE_COST * count
        if self._foreign is None:
            return Parcel(first_seq, first_seq + count, [head, *pieces], cost)
        return Parcel(first_seq, first_seq + count, pieces, cost, split=self._foreign.split)

    def _push(self, parcel: Parcel) -> None:
        self.sealed_seq = max(self.sealed_seq, parcel.end_seq)
        self._cost += parcel.cost
        (self._unsent if self._unspooled is None else self._unspooled).append(parcel)

    def _new_packer(self) -> Packer | ForeignPacker:
        if self._foreign is not None:
            return ForeignPacker(self._foreign, self.max_message)
        return Packer(self.max_message)

    # -- losing messages --------------------------------------------------------------------

    def _make_room(self, cost: int) -> bool:
        """Drop the oldest messages that are not on their way, if that is the policy."""
        if self._on_full != "drop_oldest":
            return False
        while self.cost + cost > self._buffer:
            droppable = (
                index
                for index in range(self._untouched(), len(self._unsent))
                if self._unsent[index].reason is None
            )
            oldest = next(droppable, None)
            if oldest is not None:
                self._drop(oldest, LostReason.DROPPED_OLDEST)
            elif self.gathering:
                self.seal()
            else:
                return False
        return True

    def _untouched(self) -> int:
        """Return the index of the first unsent parcel of which no byte is on its way."""
        return max(self._chosen, 1 if self._offset else 0)

    def _lose(self, count: int, reason: LostReason) -> None:
        """Give the next sequence numbers to messages that are not kept."""
        self.seal()
        first_seq, end_seq = self.sealed_seq, self.sealed_seq + count
        queue, untouched = self._unsent, self._untouched()
        if self._unspooled is not None:
            queue, untouched = self._unspooled, self._grouped
        last = len(queue) - 1
        merges = last >= untouched and queue[last].reason is reason
        if merges:
            first_seq = queue[last].first_seq
        gap = self._gap(first_seq, end_seq, reason)
        self.lost += count
        self.sealed_seq = end_seq
        if merges:
            queue[last] = gap
        else:
            queue.append(gap)

    def _drop(self, index: int, reason: LostReason) -> None:
        """Put the word that they were lost in the place of a parcel's messages."""
        parcel = self._unsent[index]
        first_seq = max(parcel.first_seq, self.accepted_seq)
        count = parcel.end_seq - first_seq
        merges = index > self._untouched() and self._unsent[index - 1].reason is reason
        if merges:
            first_seq = self._unsent[index - 1].first_seq
        gap = self._gap(first_seq, parcel.end_seq, reason)
        self._cost -= parcel.cost
        self.lost += count
        self._unsent[index] = gap
        if merges:
            del self._unsent[index - 1]

    def _gap(self, first_seq: int, end_seq: int, reason: LostReason) -> Parcel:
        if self._foreign is None:
            return gap_parcel(first_seq, end_seq, reason)
        return Parcel(first_seq, end_seq, [], 0, reason=reason)

    def lose(self, count: int) -> None:
        """Count messages as dropped for want of room, behind all that were taken."""
        self._lose(count, LostReason.DROPPED_NEWEST)

    def lose_first(self, reason: LostReason) -> None:
        """Drop the parcel that was chosen: the kernel does not take it."""
        self._chosen = 0
        self._drop(0, reason)

    # -- the spool --------------------------------------------------------------------------

    def restore(self, parcels: Sequence[Parcel], accepted_seq: int, next_seq: int) -> None:
        """Begin with what a spool held, before anything is taken."""
        self.start_seq = self.accepted_seq = accepted_seq
        self.sealed_seq = next_seq
        self._unsent.extend(parcels)
        self._cost = sum(parcel.cost for parcel in parcels)
        self._largest = max(self._largest, *(parcel.nbytes for parcel in parcels), 0)
        self.lost = sum(p.end_seq - p.first_seq for p in parcels if p.reason is not None)

    def group(self, now: float, most: int) -> list[Parcel]:
        """Choose what to commit now; ``spool`` or ``ungroup`` must follow.

        It is about ``most`` bytes, and of these nothing that gathers still.
        """
        if self.gathering and now >= self.due_at:
            self.seal()
        group: list[Parcel] = []
        size = 0
        for parcel in self._unspooled or ():
            if size >= most:
                break
            group.append(parcel)
            size += parcel.nbytes
        self._grouped = len(group)
        return group

    def spool(self, end_seq: int) -> None:
        """Take note that everything below ``end_seq`` is in the spool, and may be sent."""
        self._grouped = 0
        while self._unspooled and self._unspooled[0].end_seq <= end_seq:
            self._fit(self._unspooled[0])
            self._unspooled.popleft()  # only now: an interruption may double it, but not lose it

    def ungroup(self) -> None:
        """Take note that what was chosen is not in the spool."""
        self._grouped = 0

    # -- writing ----------------------------------------------------------------------------

    def choose(self, now: float) -> list[bytes | memoryview]:
        """Choose what to write now; ``wrote``, ``put_back`` or ``rewind`` must follow."""
        self.adopt_direct()
        if self.gathering and now >= self.due_at:
            self.seal()
        while self._foreign is not None and self._unsent and self._unsent[0].reason is not None:
            self._settle(self._unsent.popleft())  # a foreign framing cannot tell it
        if len(self._unsent) == 1 and self._unsent[0].reason is None and not self._offset:
            self._chosen = 1
            return list(self._unsent[0].buffers[:WRITE_BUFFERS])
        chosen: list[bytes | memoryview] = []
        size = count = 0
        for parcel in islice(self._unsent, 1 if self._alone or self.halting else None):
            if chosen and (size >= WRITE_SIZE or len(chosen) + len(parcel.buffers) > WRITE_BUFFERS):
                break
            if self._foreign is not None and parcel.reason is not None:
                break
            chosen += parcel.buffers
            size += parcel.nbytes
            count += 1
        self._chosen = count
        return (_skip(chosen, self._offset) if self._offset else chosen)[:WRITE_BUFFERS]

    @property
    def chosen_seq(self) -> int:
        """The sequence number behind what was chosen."""
        return self._unsent[self._chosen - 1].end_seq

    @property
    def chosen_last(self) -> int:
        """Bytes of the last batch that was chosen: about what its sender sends at a time."""
        return self._unsent[self._chosen - 1].nbytes

    def wrote(self, size: int) -> bool:
        """Take note that of what was chosen ``size`` bytes went; tell whether that is all."""
        chosen, self._chosen = self._chosen, 0
        self._offset += size
        for _ in range(chosen):
            parcel = self._unsent[0]
            if self._offset < parcel.nbytes:
                return False
            self._offset -= parcel.nbytes
            if self._foreign is not None or parcel.end_seq <= self.accepted_seq:
                self._settle(parcel)
            else:
                self._inflight.append(parcel)
            self._unsent.popleft()  # only now: an interruption may double it, but not lose it
        return True

    def put_back(self) -> None:
        """Take note that nothing of what was chosen went."""
        self._chosen = 0

    # -- what the receiver says -------------------------------------------------------------

    def accept(self, seq: int) -> None:
        """Forget what lies below ``seq``: it is accepted."""
        self.adopt_direct()
        self.accepted_seq = max(self.accepted_seq, seq)
        while self._inflight and self._inflight[0].end_seq <= seq:
            self._settle(self._inflight.popleft())

    def _settle(self, parcel: Parcel) -> None:
        self.accepted_seq = max(self.accepted_seq, parcel.end_seq)
        self._cost -= parcel.cost
        if parcel.reason is not None:
            self._lost_accepted += parcel.end_seq - parcel.first_seq

    def resume(self, expected_seq: int, max_message: int) -> bool:
        """Go on at ``expected_seq``, as the receiver asks; False if there is no such message."""
        if expected_seq > self.spooled_seq:
            return False
        while self._unsent and self._unsent[0].end_seq <= expected_seq:
            self._inflight.append(self._unsent.popleft())
        if max_message < self._largest:
            self._shrink(max_message)
        return True

    def _shrink(self, max_message: int) -> None:
        """Pack anew, message by message, what is larger than the receiver takes."""
        self.seal()
        self._largest = max_message
        self._largest_frame = HEADER.size + max_frame(max_message)
        self.max_message = min(max_message, self.max_message)
        self._target = min(self._target, max_message)
        self._long_target = min(self._long_target, max_message)
        self.packer = self._new_packer()
        parcels, self._unsent = self._unsent, deque()
        for parcel in parcels:
            self._fit(parcel)

    def _fit(self, parcel: Parcel) -> None:
        """Have a parcel sent: in pieces, if it is larger than the receiver takes."""
        if parcel.nbytes <= self._largest_frame:
            self._unsent.append(parcel)
            return
        self._cost -= parcel.cost
        for seq, message in enumerate(parcel.split(), parcel.first_seq):
            cost = len(message) + MESSAGE_COST
            self._cost += cost
            self._unsent.append(Parcel(seq, seq + 1, [pack_batch([message], seq)], cost))
            if len(message) > self._largest:
                self._drop(len(self._unsent) - 1, LostReason.TOO_LARGE)

    # -- losing the connection --------------------------------------------------------------

    def rewind(self) -> None:
        """Make everything that is not accepted unsent again: the connection is gone."""
        self.adopt_direct()
        self._chosen = self.written_seq = 0
        if self._foreign is not None and self._offset:
            self._cut(self._foreign)
        self._offset = 0
        self._unsent.extendleft(reversed(self._inflight))
        self._inflight.clear()
        while self._unsent and self._unsent[0].end_seq <= self.accepted_seq:
            self._settle(self._unsent.popleft())  # accepted while its write was under way

    def recover(self) -> None:
        """Mend what an exception left that broke in anywhere; the connection is gone."""
        self._adopt()
        if not len(self.packer):
            self.packer.close()  # whoever opened it has not come to put something in
        self.rewind()
        self._unsent = deque({parcel.first_seq: parcel for parcel in self._unsent}.values())
        self._cost = sum(parcel.cost for parcel in (*self._unsent, *(self._unspooled or ())))

    def _cut(self, foreign: ForeignFraming) -> None:
        """Settle those messages of a partly written parcel that went whole."""
        parcel = self._unsent.popleft()
        messages = parcel.split()
        whole = size = 0
        for message in messages:
            size += len(foreign.pack([message]))
            if size > self._offset:
                break
            whole += 1
        rest = messages[whole:]
        data = foreign.pack(rest)
        cost = len(data) + MESSAGE_COST * len(rest)
        middle = parcel.first_seq + whole
        self._settle(Parcel(parcel.first_seq, middle, [], parcel.cost - cost))
        left = Parcel(middle, parcel.end_seq, [data], cost, split=foreign.split)
        self._unsent.appendleft(left)

    def unaccepted(self) -> list[bytes]:
        """Return the messages that were taken and neither accepted nor spooled, in order."""
        self.seal()
        messages: list[bytes] = []
        parcels = self._unspooled
        for parcel in (*self._inflight, *self._unsent) if parcels is None else parcels:
            if parcel.reason is None:
                start = max(0, self.accepted_seq - parcel.first_seq)
                messages += parcel.split()[start:]
        return messages


def gap_parcel(first_seq: int, end_seq: int, reason: LostReason) -> Parcel:
    """Return the word that messages were lost."""
    buffers = [encode(Lost(first_seq, end_seq - first_seq, reason))]
    return Parcel(first_seq, end_seq, buffers, 0, reason=reason)


def _skip(buffers: list[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """Return the buffers without their first ``size`` bytes."""
    for index, buffer in enumerate(buffers):
        if size < len(buffer):
            return [memoryview(buffer)[size:], *buffers[index + 1 :]]
        size -= len(buffer)
    return []
