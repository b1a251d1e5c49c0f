"""Connect, read acknowledgements, and write what lingers, in a background thread."""

from __future__ import annotations

import select
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ReferenceType, ref

from mpsr.errors import AddressError
from mpsr.front import reasons
from mpsr.front.producer import ProducerBase
from mpsr.limits import ACK_READ_INTERVAL, DESCRIPTOR_CHECK
from mpsr.system import exits, primitives
from mpsr.system.clock import monotonic
from mpsr.system.forks import watch_forks
from mpsr.system.sigmask import MASK
from mpsr.system.threads import start_thread
from mpsr.system.timer import make_timer

if TYPE_CHECKING:
    from mpsr.engine.sending.outbox import Outbox
    from mpsr.errors import Undelivered
    from mpsr.system.threads import Thread

T = TypeVar("T")


class BackgroundProducer(ProducerBase[T]):
    """A producer with a thread that does what falls due between two calls.

    The thread is started with the producer, again in a forked child that sends, and not at all
    once the program has ended: then each call does what the thread would do. Neither the thread nor
    the program's end keeps a reference to the producer, so that it notices when it is discarded.
    """

    _released = True  # until it has begun
    _ends = False  # whether it closes itself once all is accepted

    def _begin(self) -> None:
        # Who sends in bulk, and sets no time-out, may wait in a write for a full connection.
        forever = self._on_full == "block" and self._timeout is None
        self._patient = forever and self._outbox.resends
        self._reset()
        watch_forks(self._after_fork_in_child)
        self._prepare()

    def _reset(self) -> None:
        self._waiting = 0  # threads that wait for a change
        self._waiting_in_write = 0  # those of them that write meanwhile
        self._resting = False  # whether the thread leaves acknowledgements unread
        self._thread: Thread | None = None
        self._alone = False  # whether there can be no such thread
        self._released = self._closed
        self._timer = None if self._closed else make_timer()

    def _prepare(self) -> None:
        if self._thread is not None or self._alone:
            return
        with MASK, self._lock:
            if self._thread is not None or self._alone or self._closed:  # type: ignore[redundant-expr]  # by now
                return
            try:
                if exits.ended_at is not None:
                    raise RuntimeError("the program has ended")
                self._outbox.service(monotonic())  # the sooner it is connected the better
                self._me = ref(self)
                run = partial(_run, self._me)
                self._thread = start_thread(run, name=f"mpsr producer for {self.address}")
            except RuntimeError:  # the end of the program has begun, or there are too many
                self._alone = True
            exits.finish_at_exit(self._finish)

    # -- the thread -------------------------------------------------------------------------

    def _round(self) -> Callable[[], None] | None:
        """Do what is due; return how to wait for more, or None at the end."""
        if self._closed and not self._outbox.writing:
            self._release()
            return None
        self._serve()
        if self._ends:
            self._end_if_drained()
        return self._prepare_rest(None)

    def _fail(self, cause: BaseException) -> None:
        """Raise to all who send what has ended the thread."""
        with self._lock:
            self._outbox.fail(reasons.failed(self.address, cause))
            self._waiters.wake_all()

    def _serve(self) -> None:
        """Do what is due."""
        outbox = self._outbox
        now = monotonic()
        with MASK, self._lock:
            outbox.service(now)
            self._deferred.move_to(self._window, now)
            if self._waiting_in_write:
                outbox.extend_burst(
                    now
                )  # the thread that waits in a write also writes what falls due
            self._notify()
            burst = outbox.in_burst(now)
        commit = self._begin_commit(monotonic())
        if commit is not None:
            self._end_commit(commit())
        if not burst:
            self._write_due()

    def _prepare_rest(self, most: float | None) -> Callable[[], None]:
        """Return a function that waits until something is due, ``most`` seconds."""
        outbox = self._outbox
        with MASK, self._lock:
            if self._closed and not outbox.writing:  # asked after the wakeup was cleared
                return _return
            now = monotonic()
            wait = self._wait_time(now)
            burst = outbox.in_burst(now)
            self._resting = outbox.only_acks and not self._waiting
            if self._timer is not None and not self._timer.intact:
                self._timer = None  # the program has closed it
            poll = self._poll()
            if self._resting and self._window.accepted_seq < self._window.next_seq:
                wait = ACK_READ_INTERVAL if wait is None else min(wait, ACK_READ_INTERVAL)
            if most is not None:
                wait = most if wait is None else min(wait, most)
            self._wakes_at = inf if wait is None else now + wait
            if self._timer is not None:
                self._timer.clear()
            self._allow_direct(now)
        wait = DESCRIPTOR_CHECK if wait is None else min(wait, DESCRIPTOR_CHECK)
        return partial(_rest, poll, wait, outbox if burst else None)

    def _wake_at(self, when: float) -> None:
        """Wake the thread at a time: while it rests by its timer, so that it sleeps on."""
        if self._resting and self._timer is not None and self._timer.set(when):
            self._wakes_at = when
        else:
            super()._wake_at(when)

    def _poll(self) -> primitives.poll:
        """Return what to wait on: while resting, not for acknowledgements, but for the end."""
        poll = primitives.poll()
        poll.register(self._outbox.wakeup, select.POLLIN)
        if self._resting and self._timer is not None:
            poll.register(self._timer, select.POLLIN)
        if self._outbox.awaited is not None:
            descriptor, events = self._outbox.awaited
            poll.register(descriptor, 0 if self._resting else events)
        return poll

    # -- without the thread -----------------------------------------------------------------

    def _take(
        self, bodies: Sequence[Any], position: int = 0, *, patient: bool = False
    ) -> tuple[int, bool]:
        position, wrote = super()._take(bodies, position, patient=patient)
        if self._alone and position == len(bodies) and not self._is_mine():
            with MASK, self._lock:
                self._window.seal()
            self._serve()
            if exits.ended_at is not None:
                exits.tell(self._finish(exits.ended_at, at_once=False))
        return position, wrote

    def _check(self, *, taking: bool = True) -> None:
        if self._closed and taking and exits.ended_at is not None and self._spool is None:
            self._open_outbox()  # for what is sent after the end of the program has closed it
            self._reset()
            self._alone = True
        super()._check(taking=taking)

    # -- the end ----------------------------------------------------------------------------

    def _end_if_drained(self) -> None:
        if self._spool_wait(monotonic(), None) is not None or not self._is_drained():
            return
        with MASK, self._lock:
            if self._closing:  # a call of close() does it
                return
            self._begin_close()
            undelivered = self._undelivered()
            self._outbox.say_bye()
        self._write_due()
        self._closed = True
        exits.tell(undelivered)

    def __del__(self) -> None:
        if self._released or exits.ended_at is not None:
            return
        if self._closed or not (self._thread or self._alone):  # or a fork has brought it here
            self._release()
            return
        closed, text = self._ends, f"unclosed {self!r}"
        exits.keep(self._finish)
        if self._thread is not None and self._me() is None:  # cleared by the garbage collector
            self._thread = None
            self._prepare()
        end_in_background(self)
        if not closed:
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def _finish(self, since: float, *, at_once: bool) -> Undelivered | None:
        """Close at the end of the program; the time-out counts from ``since``."""
        return self._drain_and_close(0 if at_once else self._exit_timeout, since)

    def _drain_and_close(self, timeout: float | None, since: float) -> Undelivered | None:
        raise NotImplementedError

    def _release(self) -> None:
        """Close the descriptors and the spool, once."""
        with MASK, self._lock:
            if self._released:
                return
            self._released = True
            self._close_descriptors()
            if self._commits is not None:
                self._commits.close()
        exits.is_finished(self._finish)

    def _close_descriptors(self) -> None:
        self._outbox.close()
        if self._timer is not None:
            self._timer.close()

    def _after_fork_in_child(self) -> None:
        """Take an identity of its own; the parent keeps the connection and the buffer."""
        self._open_lock()  # a thread that is not here may hold the one before
        if not self._closed:
            self._close_descriptors()
            if self._spool is not None:
                self._give_up_spool()
            else:
                try:
                    self._open_outbox()
                except AddressError as exc:
                    self._closed, self._end = True, f"is closed in this process: {exc}"
        self._closing = self._closed
        self._reset()


def end_in_background(producer: BackgroundProducer[Any]) -> None:
    """Have it close once all is accepted, without waiting for that; nothing more is sent.

    Until then, the program's end waits for it as for any other producer.
    """
    producer._ends = True  # noqa: SLF001 - its own module
    producer._outbox.wakeup.set()  # noqa: SLF001


def _run(me: ReferenceType[BackgroundProducer[Any]]) -> None:
    """Work for a producer, in its thread; keep no reference to it while there is nothing to do."""
    rest: Callable[[], None] | None = _return
    try:
        while rest is not None:
            rest()
            producer = me()
            rest = None if producer is None else producer._round()  # noqa: SLF001 - its own module
            del producer
    except BaseException as exc:  # noqa: BLE001 - whatever it is, those who send get it
        if (producer := me()) is not None:
            producer._fail(exc)  # noqa: SLF001


def _rest(poll: primitives.poll, wait: float, burst: Outbox | None) -> None:
    """Wait until something is due, and longer while a burst continues."""
    while not poll.poll(wait * 1000) and burst is not None:
        wait = max(0.0, burst.burst_until - monotonic())
        burst = burst if wait > 0 else None


def _return() -> None:
    """Do not wait."""
