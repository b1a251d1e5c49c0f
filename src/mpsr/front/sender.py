"""Take, write, flush, commit and drain: the steps that both producers share.

A step that has to wait yields what it waits for, and each front waits in its own way. So the
sync and the async producer do the same in the same order; only the waiting differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from mpsr._speedups import codec
from mpsr.engine.sending.commits import Commits
from mpsr.engine.sending.deferred import Deferred
from mpsr.engine.sending.outbox import Outbox
from mpsr.engine.sending.waiters import Until, Waiters
from mpsr.errors import (
    BufferFull,
    Closed,
    Explanation,
    FilesRefused,
    JournalFull,
    MpsrError,
    ReentrantCall,
    SendTimedOut,
    TimedOut,
    Undelivered,
)
from mpsr.front import reasons
from mpsr.front.steps import LET_OTHERS_RUN, Steps, Wait
from mpsr.limits import BURST_TIME, CLOSE_TIMEOUT, LONGEST_WAIT, MESSAGE_COST
from mpsr.system.clock import monotonic
from mpsr.system.primitives import RLock
from mpsr.system.sigmask import MASK
from mpsr.wire.frames import LostReason

if TYPE_CHECKING:
    from mpsr.engine.sending.outbox import Write
    from mpsr.engine.sending.spool import Spool
    from mpsr.engine.sending.window import OnFull
    from mpsr.system.address import Address


class Sender:
    """A producer without its waiting: an outbox, a lock, and the calls that were deferred.

    The lock is held whenever anything but the packer and the direct writer is touched. It is
    reentrant, and can tell who holds it: a call that has interrupted another one, from a signal
    handler or a finalizer, changes nothing. What such a call sends is deferred, and taken before
    anything else.
    """

    address: Address
    _outbox: Outbox
    _on_full: OnFull
    _buffer: int
    _timeout: float | None
    _spool: Spool | None = None
    _patient = False  # whether a call without a time-out may wait in a write
    _end = "is closed"
    _timed_out: ReferenceType[TimedOut] | None = None  # the last error that said so

    def _open_lock(self) -> None:
        self._lock = RLock()
        self._is_mine: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001 - as threading.Condition asks
        self._deferred = Deferred(self._buffer, self._on_full)

    def _use(self, outbox: Outbox) -> None:
        """Send by this outbox from now on."""
        self._outbox = outbox
        self._window = outbox.window
        self._waiters = Waiters(outbox.window)
        self._write_direct = self._window.direct.write  # safe in any thread, without the lock
        self._use_packer()
        self._wakes_at = inf  # when the background wakes by itself
        self._closing = False  # takes no more
        self._closed = False  # sends no more
        self._commits = None if self._spool is None else Commits(self._spool, outbox.window)

    def _use_packer(self) -> None:
        self._append = self._window.packer.append  # safe in any thread, without the lock
        self._try_extend = self._window.packer.try_extend  # so is this

    def _prepare(self) -> None:
        """Make sure that something connects and reads in the background."""

    def _check(self, *, taking: bool = True) -> None:
        """Raise if the producer has failed, or is closed; for ``taking``, also if it is closing."""
        if self._closed or (taking and self._closing):
            raise Closed(f"the producer for {self.address} {self._end}")
        if self._outbox.failure is not None:
            raise self._outbox.failure.with_traceback(None)

    # -- calls that have interrupted others ---------------------------------------------------

    def _defer(self, body: bytes) -> bool:
        """Set a message aside for the call that was interrupted; return False without room."""
        self._check()
        done = self._deferred.add(body)
        self._outbox.wakeup.set()
        return done

    def _enter(self, name: str) -> RLock:
        """Return the lock; raise ReentrantCall if the calling code has interrupted its holder."""
        if self._is_mine():
            raise ReentrantCall(reasons.reentrant(self.address, name))
        return self._lock

    # -- taking messages ----------------------------------------------------------------------

    def _take(
        self, bodies: Sequence[Any], position: int = 0, *, patient: bool = False
    ) -> tuple[int, bool]:
        """Take messages from ``position`` on, as many as there is room for; write what is due.

        Returns the position of the first message that was not taken, and whether anything was
        written: then there may be room for more.
        """
        if self._is_mine():
            while position < len(bodies) and self._defer(codec.to_bytes(bodies[position])):
                position += 1
            return position, False
        self._prepare()
        begun = False
        try:
            with MASK:
                with self._lock:
                    begun = True
                    now = self._begin_taking()
                    position = self._offer(bodies, position, now)
                    write = self._outbox.begin_write(now, patient=patient)
                    if write is None:
                        self._arm(now)
                if write is not None and not write.waits:
                    self._make(write, more=not patient)
            if write is not None and write.waits:
                self._make_waiting(write)
        except MpsrError:
            raise
        except BaseException:
            if begun:
                self._outbox.interrupt()
            raise
        return position, write is not None

    def _begin_taking(self) -> float:
        """Do what comes before a message is taken; return the time."""
        self._check()
        now = monotonic()
        self._deferred.move_to(self._window, now)
        if self._window.nearly_full:
            self._read_acks(now)
        return now

    def _offer(self, bodies: Sequence[Any], position: int, now: float) -> int:
        outbox, window = self._outbox, self._window
        enough = self._spool is None and outbox.ready()
        alone = len(bodies) == 1 and not outbox.in_burst(now)
        position = window.offer_many(bodies, position, now, alone=alone, enough=enough)
        self._use_packer()
        return position

    def _take_beyond(self, bodies: Sequence[Any], position: int) -> int:
        """Take messages that cannot wait for room, as many as fill the buffer once more."""
        with MASK, self._lock:
            window = self._window
            while position < len(bodies) and window.cost <= 2 * self._buffer:
                window.offer(codec.to_bytes(bodies[position]), monotonic(), may_wait=False)
                position += 1
        return position

    def _send_steps(
        self,
        bodies: Sequence[Any],
        messages: Sequence[Any],
        timeout: float | None,
        position: int = 0,
    ) -> Steps[None]:
        """Take all messages; wait for room, where that is what a full buffer does."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            position, wrote = self._take(
                bodies, position, patient=self._patient and timeout is None
            )
            if position == len(bodies):
                return  # at once: a call that has taken all cannot be cancelled
            if wrote:
                yield LET_OTHERS_RUN
            if not wrote:
                position = self._check_room(bodies, messages, position)
            if not wrote and position < len(bodies):
                need = len(codec.to_bytes(bodies[position])) + MESSAGE_COST
                if not (yield Wait("room", need, deadline)):
                    left = messages[position:]
                    raise self._noted(SendTimedOut(self._no_room(left, timeout), messages=left))

    def _check_room(self, bodies: Sequence[Any], messages: Sequence[Any], position: int) -> int:
        """Raise BufferFull for messages that must not wait for room; return where to go on."""
        inside = self._is_mine()
        if not inside and self._on_full != "raise" and self._outbox.interrupted_here:
            position = self._take_beyond(bodies, position)
            inside = position < len(bodies)
        left = messages[position:]
        if inside:
            raise BufferFull(reasons.no_room_inside(self.address, left), messages=left)
        if self._on_full == "raise":
            raise BufferFull(self._no_room(left), messages=left)
        return position

    # -- writing --------------------------------------------------------------------------------
    #
    # A write takes three steps, so that the lock is free during the system call. What falls due
    # meanwhile is written by the same thread.

    def _write_due(self) -> bool:
        """Write what is due; return whether anything was."""
        if self._is_mine():
            return False  # the call that was interrupted writes
        begun = False
        try:
            with MASK:
                with self._lock:
                    begun = True
                    write = self._outbox.begin_write(monotonic())
                if write is not None:
                    self._make(write, more=True)
        except BaseException:
            if begun:
                self._outbox.interrupt()
            raise
        return write is not None

    def _make(self, write: Write, *, more: bool) -> None:
        """Make a write that does not wait, and, with ``more``, those that are due behind it."""
        following: Write | None = write
        while following is not None:
            write = following
            following = self._end_write(write, write(), more=more)

    def _make_waiting(self, write: Write) -> None:
        """Make a write that waits for room; a signal handler may interrupt it."""
        result = write()
        with MASK:
            self._end_write(write, result, more=False)

    def _end_write(self, write: Write, result: int | OSError, *, more: bool) -> Write | None:
        """Record the result of a write; return the next write, if one is due."""
        with self._lock:
            outbox, now = self._outbox, monotonic()
            outbox.end_write(write, result, now)
            following = outbox.begin_write(now) if more else None
            if following is None:
                self._arm(now)
                self._allow_direct(now)
            self._notify()
            if self._closed:
                outbox.wakeup.set()
            return following

    def _allow_direct(self, now: float) -> None:
        """Let short messages be written in one step, as long as nothing else is to be done."""
        if not self._closing:
            self._outbox.allow_direct(now)

    def _arm(self, now: float) -> None:
        """Wake the background by the next deadline."""
        late = self._wakes_at - self._window.due_at
        if late > (BURST_TIME if self._outbox.in_burst(now) else 0):
            wait = self._wait_time(now)
            if wait is not None and now + wait < self._wakes_at:
                self._wake_at(now + wait)

    def _wake_at(self, when: float) -> None:
        """Wake the background at a time, or as soon as that is known."""
        del when
        self._outbox.wakeup.set()

    def _wait_time(self, now: float) -> float | None:
        """Return the seconds after which the background has something to do in any case."""
        waits = [self._outbox.wait_time(now)]
        if self._commits is not None:
            commit_at = self._commits.due_at()
            waits.append(None if commit_at is None else max(0.0, commit_at - now))
        return min((min(wait, LONGEST_WAIT) for wait in waits if wait is not None), default=None)

    def _read_acks(self, now: float) -> None:
        """Read acknowledgements that the background leaves unread; wake who waits for them."""
        if self._outbox.only_acks:
            self._outbox.read(now)
            self._notify()

    # -- waiting --------------------------------------------------------------------------------

    def _may_go_on(self, wait: Wait) -> bool:
        """Tell whether what is waited for is there, or will not come."""
        closing = self._closing and wait.until == "room"
        if closing or self._closed or self._outbox.failure is not None:
            return True
        if wait.until == "room":
            return self._window.has_room(wait.need)
        return self._is_safe(wait.until, wait.need)

    def _is_safe(self, until: Until, seq: int) -> bool:
        """Tell whether everything below a sequence number is accepted, or in the spool."""
        if until == "accepted":
            return self._window.accepted_seq >= seq
        return until == "spooled" and self._is_spooled(seq)

    def _is_spooled(self, seq: int) -> bool:
        """Tell whether everything below is in the spool; without one it need not be."""
        return self._spool is None or self._window.spooled_seq >= seq

    def _notify(self) -> bool:
        """Wake those who can go on, or wait in vain; return whether one of them has room."""
        if not self._waiters:
            return False
        if self._closed or self._outbox.failure is not None:
            self._waiters.wake_all()
            return False
        return self._waiters.wake()

    # -- flushing -------------------------------------------------------------------------------

    def _flush_steps(self, timeout: float | None, *, spooled: bool) -> Steps[None]:
        """Wait until everything taken so far is accepted, or, with ``spooled``, in the spool."""
        deadline = None if timeout is None else monotonic() + timeout
        until: Until = "spooled" if spooled else "accepted"
        with MASK, self._enter("flush"):
            self._check()
            self._deferred.move_to(self._window, monotonic())
            target = self._window.next_seq
            self._window.seal()
            if not self._is_spooled(target):
                self._outbox.wakeup.set()
        self._write_due()
        while True:
            with MASK, self._lock:
                if self._is_safe(until, target):
                    break
                self._check(taking=False)
            if not (yield Wait(until, target, deadline)):
                raise self._late(timeout or 0, spooled=spooled)
        self._report_drops()

    def _report_drops(self) -> None:
        """Raise the error for messages that were dropped unasked, once; one reason at a time."""
        with MASK, self._lock:
            files, large = LostReason.FILE_REFUSED, LostReason.TOO_LARGE
            count, messages = self._window.drops.take(files)
            if count:
                error = reasons.dropped(self._outbox, files, count)
                raise FilesRefused(error, messages=messages)
            count, messages = self._window.drops.take(large)
            if count:
                error = reasons.dropped(self._outbox, large, count)
                raise Undelivered(error, messages=messages, count=count)

    # -- committing to the spool ----------------------------------------------------------------

    def _begin_commit(self, now: float) -> Callable[[], MpsrError | None] | None:
        """Choose what to commit; see Commits. ``_end_commit`` must follow."""
        if self._commits is None:
            return None
        with MASK, self._lock:
            return self._commits.begin(now)

    def _end_commit(self, error: MpsrError | None) -> None:
        """Record the result of a commit."""
        if self._commits is not None:
            with MASK, self._lock:
                self._commits.end(error, monotonic())
                if self._commits.failure is not None:
                    self._outbox.fail(self._commits.failure)
                self._notify()

    # -- draining -------------------------------------------------------------------------------

    def _drain_steps(self, timeout: float | None, since: float) -> Steps[None]:
        """Wait until all is accepted, or for as long as the end waits; then say goodbye.

        ``since`` is when waiting began, on the monotonic clock.
        """
        deadline = None if timeout is None else since + timeout
        self._write_due()
        while (wait := self._spool_wait(since, deadline)) is not None:
            if not (yield wait):
                break
        accepted_seq = self._window.accepted_seq
        while not self._is_drained():
            if self._window.accepted_seq > accepted_seq:
                accepted_seq, since = self._window.accepted_seq, monotonic()
            until = since + CLOSE_TIMEOUT if deadline is None else deadline
            if not (yield Wait("changed", 0, until)):
                break
        with MASK, self._lock:
            self._outbox.say_bye()
        self._write_due()

    def _begin_close(self) -> None:
        """Take no more messages, and seal what was taken. The lock is held."""
        self._closing = True
        self._deferred.move_to(self._window, monotonic())
        self._window.seal()
        self._waiters.wake_all()

    def _spool_wait(self, since: float, deadline: float | None) -> Wait | None:
        """Return how the end waits for the spool: as long as a commit takes, but not for room."""
        with MASK, self._lock:
            if self._commits is None or self._closed or not self._has_background():
                return None
            if self._commits.failure is not None or self._is_spooled(self._window.next_seq):
                return None
            self._outbox.wakeup.set()
            if self._commits.obstacle is None:
                return Wait("changed", 0, None)
            return Wait("changed", 0, since + CLOSE_TIMEOUT if deadline is None else deadline)

    def _has_background(self) -> bool:
        """Tell whether something commits and reads in the background."""
        return True

    def _is_drained(self) -> bool:
        """Tell whether all is accepted, or is not to be waited for: a spool keeps it for later."""
        with MASK, self._lock:
            if self._closed or self._outbox.failure is not None:
                return True
            if self._spool and not (self._has_background() and self._outbox.may_deliver):
                return True
            return self._window.accepted_seq >= self._window.next_seq

    # -- errors ---------------------------------------------------------------------------------

    def _why(self) -> Explanation:
        """Return why messages are not being accepted."""
        return reasons.why(self._outbox, self._no_spool_room())

    def _no_spool_room(self) -> JournalFull | None:
        return None if self._commits is None else self._commits.obstacle

    def _no_room(self, messages: Sequence[Any], waited: float | None = None) -> str:
        return reasons.no_room(self.address, messages, waited, self._why())

    def _late(self, timeout: float, *, spooled: bool) -> TimedOut:
        """Return the error for a flush that took too long."""
        if spooled:
            count = self._window.next_seq - self._window.spooled_seq
            why = str(self._no_spool_room() or "the disk is slow")
            return TimedOut(reasons.not_spooled(count, timeout, why))
        count = self._outbox.stats().buffered
        return self._noted(
            TimedOut(reasons.not_accepted(self.address, count, timeout, self._why()))
        )

    def _noted(self, error: TimedOut) -> TimedOut:
        """Note the last error of a call that has waited in vain."""
        self._timed_out = ref(error)
        return error
