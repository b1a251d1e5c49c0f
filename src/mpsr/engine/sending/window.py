"""Take a producer's messages into the open batch, and seal it into the queue of those to be sent.

Every message has a sequence number. The open batch gathers in the packer; messages that were
written directly precede it. Every question about the state of the window stops direct writes first.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal

from mpsr._speedups import codec, direct
from mpsr.engine.sending.batches import FileMessage, SendBatch, file_batch
from mpsr.engine.sending.queue import SendQueue
from mpsr.errors import Explanation, MessageTooLarge, UnframeableMessage
from mpsr.limits import (
    ACK_READ_BATCHES,
    BATCH_TARGET,
    BURST_TOKENS,
    FRAME_OVERHEAD,
    LONG_BATCH_TARGET,
    LONG_MESSAGE,
    MAX_FILES,
    MESSAGE_COST,
    MIN_BATCHES,
    SHORT_MESSAGE,
    TOKEN_INTERVAL,
    WRITE_SIZE,
)
from mpsr.wire.frames import HEADER, LostReason, max_frame
from mpsr.wire.packing import ForeignPacker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from mpsr.wire.packing import ForeignFraming

OnFull = Literal["block", "raise", "drop_newest", "drop_oldest"]


class Window(SendQueue):
    """The messages of one producer that are not accepted yet.

    Attributes:
        packer: the open batch. Its ``append`` may be called at any time, from any thread.
        direct: writes messages while nothing waits, without the lock.
        due_at: when the open batch is to be sealed, on the monotonic clock (seconds).

    """

    def __init__(
        self,
        *,
        foreign: ForeignFraming | None,
        on_full: OnFull,
        buffer: int,
        linger: float,
        max_message: int,
        spooled: bool = False,
        largest_packet: int | None = None,
    ) -> None:
        """Begin with none; ``largest_packet``: each batch goes in a packet, of so many bytes."""
        super().__init__(foreign, spooled=spooled, buffer=buffer)
        packets = largest_packet is not None
        self._one_a_write = packets or (foreign is not None and foreign.alone)
        self._on_full = on_full
        self._buffer = buffer
        self._linger = linger
        most = 1 if foreign is not None and foreign.alone else max(1, buffer // MIN_BATCHES)
        if largest_packet is not None:
            room = largest_packet - (0 if foreign is not None else HEADER.size + FRAME_OVERHEAD)
            max_message, most = min(max_message, room), min(most, room)
        self.max_message: int = max_message
        self._target = min(BATCH_TARGET, most)  # bytes of a batch
        self._long_target = min(LONG_BATCH_TARGET, most)  # of one that begins with a long message
        # What a message or a batch may have; where the receiver takes less, all is made smaller.
        self._largest = max(max_message, self._long_target)
        if largest_packet is not None:
            self._largest_frame = largest_packet
        self.packer = self._new_packer()
        self._token_interval = linger * TOKEN_INTERVAL
        self.direct: direct.DirectWriter = direct.DirectWriter(self._token_interval, BURST_TOKENS)
        if spooled:
            self.direct.full_at = inf  # nothing is sent before it is in the spool
        self._may_write_direct = foreign is None and not spooled
        self.due_at: float = 0.0

    # -- what there is ----------------------------------------------------------------------

    @property
    def next_seq(self) -> int:
        """The sequence number that the next message will have."""
        self.collect_direct()
        return self.known_seq

    @property
    def known_seq(self) -> int:
        """The same, without what was written directly since the window was last asked."""
        return self.sealed_seq + len(self.packer)

    @property
    def cost(self) -> int:
        """Bytes of buffer in use."""
        self.collect_direct()
        return self.known_cost

    @property
    def known_cost(self) -> int:
        """The same, without what was written directly since the window was last asked."""
        return self._cost + self.packer.cost

    @property
    def gathering(self) -> bool:
        """Whether there are messages in the open batch."""
        return len(self.packer) > 0

    @property
    def nearly_full(self) -> bool:
        """Whether more than half of the buffer is in use."""
        return 2 * self.known_cost > self._buffer

    def is_due(self, now: float) -> bool:
        """Tell whether there is something to write now."""
        return bool(self._unsent) or (self.gathering and now >= self.due_at)

    def has_room(self, cost: int, promised: int = 0) -> bool:
        """Tell whether a message of that cost fits, beside what is promised to others."""
        used = self.cost + promised
        return not used or used + cost <= self._buffer

    # -- checking messages ------------------------------------------------------------------

    def check(self, message: bytes) -> None:
        """Raise MessageTooLarge, or UnframeableMessage where the framing cannot carry it."""
        self._check_size(len(message))
        if self._foreign is not None:
            try:
                self._foreign.pack([message])
            except ValueError as exc:
                error = Explanation(str(exc), advice="choose another framing=, or encode it")
                raise UnframeableMessage(error) from None

    def check_all(self, messages: Sequence[Buffer]) -> None:
        """Raise what ``check`` would, or TypeError for what is not bytes-like."""
        if self._foreign is None:
            self._check_size(codec.longest(messages))
        else:
            for message in messages:
                self.check(codec.to_bytes(message))

    def _check_size(self, size: int) -> None:
        if size > self.max_message:
            error = f"a message of {size} bytes: the most here is {self.max_message}"
            raise MessageTooLarge(error)

    # -- taking messages --------------------------------------------------------------------

    def offer(
        self, message: bytes, now: float, *, alone: bool = True, may_wait: bool = True
    ) -> bool:
        """Take a checked message, or drop one as ``on_full`` says; return False if it has to wait.

        Args:
            message: the message.
            now: the time, on the monotonic clock (seconds).
            alone: whether none comes right behind it.
            may_wait: whether it can wait for room; one that cannot is taken without any.

        """
        self.collect_direct()
        cost = len(message) + MESSAGE_COST
        keeps = self._on_full in ("block", "raise")
        anyhow = keeps and not may_wait
        if not (anyhow or self.has_room(cost) or self._make_room(cost)):
            if keeps:
                return False
            self.lose(1)
        elif len(message) > self.max_message:  # checked before a receiver said that it takes less
            self.seal()
            self._drop_too_large(message)
        else:
            self._gather(message, cost, now, alone=alone)
        return True

    def offer_many(
        self,
        messages: Sequence[Buffer],
        position: int,
        now: float,
        *,
        alone: bool = False,
        enough: bool = False,
    ) -> int:
        """Offer messages from ``position`` on; return the position where it stopped.

        It stops at the end, for want of room, or, with ``enough``, when there is as much as one
        write takes.
        """
        self.collect_direct()
        goal = self._cost + WRITE_SIZE
        while position < len(messages):
            after = self.packer.extend(messages, position)
            if after == len(messages):
                return after
            if not self.offer(codec.to_bytes(messages[after]), now, alone=alone):
                return after
            position = after + 1
            if enough and self._cost >= goal:
                break
        return position

    def file_cost(self, size: int) -> int:
        """Return the bytes of buffer that a message of a size takes, which goes with a file.

        They are so many that a full buffer holds MAX_FILES files at most.
        """
        return max(size + MESSAGE_COST, -(-self._buffer // MAX_FILES))

    def offer_file(self, message: FileMessage) -> bool:
        """Take a checked message with its file, or drop it; return False if it has to wait."""
        self.seal()  # what was taken before goes before it
        cost = self.file_cost(len(message.body))
        if not (self.has_room(cost) or self._make_room(cost)):
            if self._on_full in ("block", "raise"):
                return False
            self._push_lost(1, LostReason.DROPPED_NEWEST)
        elif len(message.body) > self.max_message:  # as in offer
            self._drop_too_large(message.body)
        else:
            self._push(file_batch(self.sealed_seq, message, cost))
        return True

    def _gather(self, message: bytes, cost: int, now: float, *, alone: bool) -> None:
        """Append a message to the open batch, or begin another with it."""
        while not self.packer.append(message):  # a signal handler that sends may seal it again
            if len(self.packer):
                self.seal()
            at_once = cost > self._target or (alone and self._take_token(now))
            self.due_at = now if at_once else now + self._linger
            target = self._target if len(message) < LONG_MESSAGE else self._long_target
            self.packer.open(max(cost, min(target, self._buffer - self._cost)))

    def _take_token(self, now: float) -> bool:
        """Tell whether a message is sent at once: nothing waits, and there was no burst.

        It takes one of BURST_TOKENS tokens, each of which comes back after TOKEN_INTERVAL.
        """
        if self._unsent:
            return False
        if self.direct.full_at - now > self._token_interval * (BURST_TOKENS - 1):
            return False
        self.direct.full_at = max(self.direct.full_at, now) + self._token_interval
        return True

    def _make_room(self, cost: int) -> bool:
        """Drop the oldest messages that no write has begun, if that is the policy."""
        if self._on_full != "drop_oldest":
            return False
        while self.cost + cost > self._buffer:
            if not self._drop_oldest():
                if not self.gathering:
                    return False
                self.seal()
        return True

    def _drop_too_large(self, message: bytes) -> None:
        self._push_lost(1, LostReason.TOO_LARGE)
        self.drops.add(LostReason.TOO_LARGE, [message])

    def lose(self, count: int) -> None:
        """Count messages as dropped for want of room, behind all that were taken."""
        self.seal()
        self._push_lost(count, LostReason.DROPPED_NEWEST)

    # -- direct writes ----------------------------------------------------------------------

    def allow_direct(self, descriptor: int) -> None:
        """Let the next few short messages be written directly, until the window is asked.

        There must be no write under way.
        """
        self.collect_direct()
        if self._unsent or self.gathering or not self._may_write_direct:
            return
        self.packer.close()
        room = (self._buffer - self._cost) // SHORT_MESSAGE
        count = min(room, ACK_READ_BATCHES - len(self._inflight))
        if count > 0 and not self.gathering:  # another thread may have been in time
            longest = min(SHORT_MESSAGE - MESSAGE_COST, self.max_message)
            self.direct.open(descriptor, self.sealed_seq, count, longest)

    def collect_direct(self) -> None:
        """Stop direct writes and mark their messages as in flight."""
        first_seq, frames = self.direct.close()
        for seq, frame in enumerate(frames, first_seq):
            if seq == self.sealed_seq:  # else it was collected before
                cost = len(frame) - HEADER.size - FRAME_OVERHEAD + MESSAGE_COST
                batch = SendBatch(seq, seq + 1, [frame], cost)
                self._push_inflight(batch)

    # -- sealing ----------------------------------------------------------------------------

    def seal(self) -> None:
        """Close the open batch, so that it is sent now."""
        self.collect_direct()
        self._push_taken()
        self.packer.take(self.sealed_seq)
        self._push_taken()

    def _push_taken(self) -> None:
        """Append what was taken from the packer to the queue, unless that is done."""
        first_seq, count, head, pieces = self.packer.taken
        if count and first_seq == self.sealed_seq:
            batch = self._batch(first_seq, count, head, pieces)
            self._push(batch)
            if batch.cost > LONG_BATCH_TARGET:  # the packer is not to keep it in memory
                self.packer.take(self.sealed_seq)
                self._push_taken()

    def _batch(self, first_seq: int, count: int, head: bytes, pieces: list[bytes]) -> SendBatch:
        cost = sum(map(len, pieces)) + MESSAGE_COST * count
        if self._foreign is None:
            return SendBatch(first_seq, first_seq + count, [head, *pieces], cost)
        return SendBatch(first_seq, first_seq + count, pieces, cost, split=self._foreign.split)

    def _new_packer(self) -> codec.Packer | ForeignPacker:
        if self._foreign is not None:
            return ForeignPacker(self._foreign, self.max_message)
        return codec.Packer(self.max_message)

    def _seal_due(self, now: float) -> None:
        if self.gathering and now >= self.due_at:
            self.seal()

    # -- sending ----------------------------------------------------------------------------

    def group(self, now: float, most: int) -> list[SendBatch]:
        """Choose what to write to the spool now; ``end_commit`` must follow."""
        self._seal_due(now)
        return self.begin_commit(most)

    def choose(self, now: float, *, only_begun: bool = False) -> list[bytes | memoryview]:
        """Choose what to write now; ``wrote``, ``put_back`` or ``rewind`` must follow.

        With ``only_begun`` that is the rest of the batch that is written in part.
        """
        self.collect_direct()
        self._seal_due(now)
        return self._choose(1 if self._one_a_write or only_begun else None)

    def accept(self, seq: int) -> None:
        """Forget the messages below ``seq``: they are accepted."""
        self.collect_direct()
        self._accept(seq)

    def resume(self, expected_seq: int, max_message: int) -> bool:
        """Go on at ``expected_seq``, as the receiver asks; return False if there is none such."""
        if expected_seq > self.spooled_seq:
            return False
        self._skip_received(expected_seq)
        if max_message < self._largest:
            self._shrink(max_message)
        return True

    def _shrink(self, max_message: int) -> None:
        """Pack again, message by message, what is larger than the receiver takes."""
        self.seal()
        self._largest = max_message
        self._largest_frame = HEADER.size + max_frame(max_message)
        self.max_message = min(max_message, self.max_message)
        self._target = min(self._target, max_message)
        self._long_target = min(self._long_target, max_message)
        self.packer = self._new_packer()
        batches = list(self._unsent)
        self._unsent.clear()
        for batch in batches:
            self._append_unsent(batch)

    def rewind(self) -> None:
        """Make everything that is not accepted unsent again: the connection is gone."""
        self.collect_direct()
        self.written_seq = 0
        self._rewind()

    def repair(self) -> None:
        """Restore what an interruption anywhere has left half done; the connection is gone."""
        self._push_taken()
        if not len(self.packer):
            self.packer.close()  # the interrupted call opened it, and appended nothing
        self.rewind()
        self._repair()

    def unaccepted(self) -> list[bytes]:
        """Return the messages that were taken and neither accepted nor spooled, in order."""
        self.seal()
        return self._unaccepted()
