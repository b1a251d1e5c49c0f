"""Send from the caller's thread, with one background thread: the sync front of the outbox."""

from __future__ import annotations

import atexit
import os
import select
import sys
import threading
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic
from weakref import WeakSet

from mpsr.background import start_thread
from mpsr.endpoint import SOCKET_TYPES, absolute, parse_address
from mpsr.errors import (
    BufferFull,
    Closed,
    ConfigurationError,
    JournalError,
    JournalFull,
    MpsrError,
    SendTimedOut,
    TimedOut,
    Undelivered,
)
from mpsr.forking import watch_forks
from mpsr.limits import (
    ACK_REST,
    BUFFER,
    BURST_LOOK,
    CLOSE_PATIENCE,
    FULL_PAUSE,
    GROUP_SIZE,
    GROUP_TIME,
    LINGER,
    LONGEST_REST,
    MAX_MESSAGE,
    MAX_SPOOLED,
    SPOOL_SETTLE,
    check_max_message,
    check_positive,
)
from mpsr.outbox import Outbox
from mpsr.timer import make_timer
from mpsr.wire.codec import to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer, TypeVar

    from mpsr.endpoint import SocketType
    from mpsr.outbox import ProducerStats
    from mpsr.spool import Spool
    from mpsr.window import OnFull
    from mpsr.wire.framing import Framing

    T = TypeVar("T", default=Buffer)
else:
    from typing import TypeVar

    T = TypeVar("T")

FRAMINGS: Final = ("native", "lines", "null", "length", "stream")
ON_FULL: Final = ("block", "raise", "drop_newest", "drop_oldest")


class ProducerBase(Generic[T]):
    """What the sync and the async producer share: everything but waiting.

    Args:
        address: where the receiver is: a path, ``@name`` or ``fd:N``.
        type: ``"stream"`` or ``"dgram"``.
        framing: ``"native"``, or, for a foreign server, ``"lines"``, ``"null"``, ``"length"``
            or ``"stream"`` (a connection for every message). Only native has acknowledgements:
            elsewhere a message counts as accepted when the kernel took it.
        encode: applied to every message; without it messages are bytes-like.
        label: a name for the receiver to show; the program's own name if left out.
        on_full: what a full buffer does: ``"block"`` (wait for room, see ``timeout``),
            ``"raise"`` (BufferFull), ``"drop_newest"`` or ``"drop_oldest"`` (counted, and told
            to the receiver).
        timeout: seconds that ``send`` waits for room; None waits for ever.
        buffer: bytes that may wait to be accepted; a single message always fits.
        linger: seconds that a burst gathers before it is sent.
        max_message: bytes; a longer message is refused.
        spool: a file that keeps the messages until they are accepted. What it holds already is
            sent first, under the same identity; all that waits is in memory, too. Opening it
            waits for the disk.

    Raises:
        AddressError: the address makes no sense. That nobody listens there is no error: the
            producer keeps trying.
        ConfigurationError: an argument makes no sense.
        JournalError: the spool cannot be used; JournalInUse: another producer has it.

    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: SocketType = "stream",  # noqa: A002 - the standard library's word for it
        framing: Framing = "native",
        encode: Callable[[T], Buffer] | None = None,
        label: str | None = None,
        on_full: OnFull = "block",
        timeout: float | None = None,
        buffer: int = BUFFER,
        linger: float = LINGER,
        max_message: int = MAX_MESSAGE,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        for name, value, known in (
            ("type", type, SOCKET_TYPES),
            ("framing", framing, FRAMINGS),
            ("on_full", on_full, ON_FULL),
        ):
            if value not in known:
                error = f"{name}={value!r}: choose one of {', '.join(known)}"
                raise ConfigurationError(error)
        check_max_message(max_message)
        check_positive(buffer=buffer, max_message=max_message)
        if linger < 0:
            error = f"linger={linger}: it cannot be negative"
            raise ConfigurationError(error)
        self.address = parse_address(address)
        self._place = absolute(self.address)  # of this moment, whatever directory comes later
        self._encode = encode
        self._on_full: OnFull = on_full
        self._timeout = timeout
        self._closing = False  # takes no more
        self._closed = False  # sends no more
        self._end = "is closed"
        self._spool: Spool | None = None
        self._spool_at = 0.0  # no commit before then
        self._spool_obstacle: JournalFull | None = None
        self._spool_failure: MpsrError | None = None
        self._options: dict[str, Any] = {
            "type": type,
            "framing": framing,
            "label": os.path.basename(sys.argv[0]) if label is None else label,
            "on_full": on_full,
            "buffer": buffer,
            "linger": linger,
            "max_message": max_message,
        }
        if spool is not None:
            self._open_spool(spool)
        self._open_outbox()
        self._begin()

    def _open_spool(self, path: str | os.PathLike[str]) -> None:
        from mpsr.spool import Spool  # noqa: PLC0415 - SQLite is not light

        options = self._options
        if options["type"] != "stream" or options["framing"] != "native":
            error = (
                "spool= needs acknowledgements, which datagrams and foreign framings have not: "
                'leave it out, or send to an mpsr receiver with type="stream", framing="native"'
            )
            raise ConfigurationError(error)
        if self._on_full == "drop_oldest":
            error = 'spool= keeps what was taken: choose another on_full than "drop_oldest"'
            raise ConfigurationError(error)
        if options["max_message"] > MAX_SPOOLED:
            error = f"max_message={options['max_message']}: with spool= {MAX_SPOOLED} at most"
            raise ConfigurationError(error)
        options["linger"] = max(options["linger"], GROUP_TIME)
        self._spool = Spool(path, label=options["label"], most=options["buffer"])
        options["spooled_as"] = self._spool.id

    def _open_outbox(self) -> None:
        self._outbox = Outbox(self._place, **self._options)
        self._window = self._outbox.window
        if self._spool is not None:
            left, self._spool.left = self._spool.left, []
            self._window.restore(left, self._spool.accepted_seq, self._spool.next_seq)
        self._append = self._window.packer.append  # safe in any thread, without the lock
        self._try_extend = self._window.packer.try_extend  # so is this
        self._write_direct = self._window.direct.write  # and this
        self._wakes_at = inf  # when whoever waits on the outbox looks again of itself

    def _begin(self) -> None:
        """Prepare what waiting needs."""

    @property
    def id(self) -> bytes:
        """The 16 random bytes by which the receiver knows this producer."""
        return self._outbox.id

    def stats(self) -> ProducerStats:
        """Return counters of everything since the producer was created."""
        return self._outbox.stats()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.address}{' closed' * self._closed}>"

    def _checked(self, encoded: Buffer) -> bytes:
        body = to_bytes(encoded)
        self._window.check(body)
        return body

    def _checked_all(self, messages: Iterable[T]) -> tuple[Sequence[T], Sequence[Any]]:
        """Return the messages, and what they are encoded, once all are found good."""
        listed = messages if isinstance(messages, list | tuple) else list(messages)
        bodies: Sequence[Any] = listed
        if self._encode is not None:
            bodies = [self._encode(each) for each in listed]
        self._window.check_all(bodies)
        return listed, bodies

    def _arm(self, now: float) -> None:
        """Make sure that whoever waits on the outbox looks in time."""
        late = self._wakes_at - self._window.due_at
        if late > (BURST_LOOK if self._outbox.in_burst(now) else 0):
            wait = self._wait_time(now)
            if wait is not None and now + wait < self._wakes_at:
                self._wake_at(now + wait)

    def _wake_at(self, when: float) -> None:
        """Have whoever waits on the outbox look at a time, or as soon as that is known."""
        del when
        self._outbox.wakeup.set()

    def _let_direct(self, now: float) -> None:
        """Have short messages written in one step, as long as nothing else is looked for."""
        if not self._closing:
            self._outbox.let_direct(now)

    def _wait_time(self, now: float) -> float | None:
        """Return the seconds after which the background has something to do in any case."""
        wait = self._outbox.wait_time(now)
        if wait is not None:
            wait = min(wait, LONGEST_REST)
        if self._spool is None:
            return wait
        commit_at = self._commit_at(self._spool)
        if commit_at is None:
            return wait
        commit_in = max(0.0, commit_at - now)
        return commit_in if wait is None else min(wait, commit_in)

    # A commit takes three steps as well: nothing is locked while the disk is written.

    def _commit_at(self, spool: Spool) -> float | None:
        """Return when the next commit is due, if one is."""
        window = self._window
        if self._spool_failure is not None:
            return None
        if window.unspooled:
            return self._spool_at
        if window.gathering:
            return max(window.due_at, self._spool_at)
        if window.accepted_seq > spool.accepted_seq:
            return self._spool_at + SPOOL_SETTLE
        return None

    def _begin_commit(self, spool: Spool, now: float) -> Callable[[], None] | None:
        """Choose what to commit now, if anything; what is returned commits it."""
        due_at = self._commit_at(spool)
        if due_at is None or now < due_at:
            return None
        group = self._window.group(now, GROUP_SIZE)
        return partial(spool.commit, group, self._window.accepted_seq)

    def _end_commit(self, spool: Spool, error: MpsrError | None, now: float) -> None:
        """Take note of how a commit went."""
        self._spool_at, self._spool_obstacle = now, None
        if isinstance(error, JournalFull):
            self._spool_at, self._spool_obstacle = now + FULL_PAUSE, error
            self._window.ungroup()
        elif error is not None:
            self._spool_failure = error
            self._outbox.fail(error)
        else:
            self._window.spool(spool.next_seq)

    def _is_spooled(self, seq: int) -> bool:
        """Tell whether everything below is in the spool; without one it need not be."""
        return self._spool is None or self._window.spooled_seq >= seq

    def _close_spool(self) -> None:
        if self._spool is not None:
            try:
                self._spool.close(self._window.accepted_seq)
            except JournalError:
                pass  # what was accepted is sent again some day, and dropped there

    def _check(self, *, taking: bool = True) -> None:
        """Raise what stands against going on, with taking messages or with waiting for them."""
        if self._closed or (taking and self._closing):
            error = f"the producer for {self.address} {self._end}"
            raise Closed(error)
        if self._outbox.failure is not None:
            raise self._outbox.failure.with_traceback(None)

    def _may_deliver(self) -> bool:
        """Tell whether the end waits for the receiver: with a spool, only for one that is there."""
        return self._spool is None or self._outbox.may_deliver

    def _spooling_until(self, since: float, deadline: float | None) -> float | None:
        """Return how long the end waits for the spool: as long as it takes, but for room."""
        if self._spool_obstacle is None:
            return None
        return since + CLOSE_PATIENCE if deadline is None else deadline

    def _give_up_spool(self) -> None:
        """In a forked child: end, as the spool is the parent's."""
        self._closed = True
        self._end = "belongs to a parent process, and so does its spool: open another"
        self._window.packer.close()

    def _full(self, messages: Sequence[T], waited: float | None) -> MpsrError:
        """Return the error for messages that the buffer has no room for."""
        what = f"no room for {_messages(len(messages))} to {self.address}"
        if waited is None:
            return BufferFull(f"{what}: {self._why()}", messages=messages)
        return SendTimedOut(f"{what} within {waited:g} s: {self._why()}", messages=messages)

    def _late(self, timeout: float) -> TimedOut:
        """Return the error for a flush that took too long."""
        what = _messages(self.stats().buffered)
        error = f"{self.address} has not accepted {what} within {timeout:g} s: {self._why()}"
        return TimedOut(error)

    def _check_spooled(self, *, spooled: bool) -> None:
        if spooled and self._spool is None:
            raise ConfigurationError("flush(spooled=True): this producer has no spool")

    def _late_spool(self, timeout: float) -> TimedOut:
        """Return the error for a spool that took too long."""
        what = _messages(self._window.next_seq - self._window.spooled_seq)
        why = self._spool_obstacle or "the disk is slow"
        return TimedOut(f"{what} not in the spool within {timeout:g} s: {why}")

    def _undelivered(self) -> Undelivered | None:
        messages = self._window.unaccepted()
        if not messages:
            return None
        error = f"{_messages(len(messages))} to {self.address} not delivered: {self._why()}"
        return Undelivered(error, messages=messages)

    def _why(self) -> str:
        """Return why messages are not being accepted."""
        outbox = self._outbox
        reason = str(
            outbox.failure
            or self._spool_obstacle
            or outbox.obstacle
            or f"the receiver (pid {outbox.peer_pid}) has not come back for more"
        )
        if outbox.peer_pid == os.getpid():
            reason += (
                "; it is in this very process: a thread that both iterates a receiver and waits "
                "for a producer to it waits for itself"
            )
        return reason


class Producer(ProducerBase[T]):
    """Sends messages to a receiver; thread-safe and fork-safe.

    Creating one never blocks; it connects, and reconnects, on its own. A message on an idle
    producer leaves at once, in the caller's thread; a burst is batched. A forked child gets
    an identity and a connection of its own; what the parent has buffered stays with the parent.
    """

    def send(self, message: T, timeout: float | None = None) -> None:
        """Take a message; it is sent at once on an idle producer, else with the burst.

        Args:
            message: bytes-like, or what ``encode=`` takes.
            timeout: seconds to wait for room; None stands for the producer's own ``timeout``.

        Raises:
            SendTimedOut: with ``on_full="block"``: there was no room in time.
            BufferFull: with ``on_full="raise"``: there is no room.
            MessageError: the message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.

        """
        encoded: Any = message if self._encode is None else self._encode(message)
        # The open batch may have room; else the message may leave at once, or begin another.
        if not (self._append(encoded) or self._write_direct(encoded)):
            body = self._checked(encoded)
            if not self._take(body, patient=self._patient and timeout is None):
                self._take_all([body], [message], timeout)

    def try_send(self, message: T) -> bool:
        """Take a message if there is room, else return False; never waits."""
        encoded: Any = message if self._encode is None else self._encode(message)
        if self._append(encoded) or self._write_direct(encoded):
            return True
        return self._take(self._checked(encoded), patient=False)

    def send_many(self, messages: Iterable[T], timeout: float | None = None) -> None:
        """Take several messages, in order; errors and time-out are those of ``send``.

        A message that cannot be sent at all stops it before the first is taken; SendTimedOut
        and BufferFull carry those that were not taken.
        """
        position = 0
        if self._encode is None:
            position = self._try_extend(messages)  # type: ignore[arg-type]  # whatever they are
        if not position or position < len(messages):  # type: ignore[arg-type]  # it has a length
            messages, bodies = self._checked_all(messages)
            self._take_all(bodies, messages, timeout, position)

    def flush(self, timeout: float | None = None, *, spooled: bool = False) -> None:
        """Return once the receiver has accepted everything sent so far.

        Args:
            timeout: seconds; None waits for ever.
            spooled: return once all of it is accepted or on the disk, in the spool.

        Raises:
            TimedOut: it has not, and why. Nothing is lost by it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.

        """
        self._check_spooled(spooled=spooled)
        deadline = None if timeout is None else monotonic() + timeout
        with self._lock:
            self._check()
            target = self._window.next_seq
            self._window.seal()
            if not self._is_spooled(target):
                self._outbox.wakeup.set()
        self._pump()
        with self._lock:
            while spooled and not self._is_spooled(target):
                self._check(taking=False)
                if not self._wait(deadline):
                    raise self._late_spool(timeout or 0)
            while not spooled and self._window.accepted_seq < target:
                self._check(taking=False)
                if not self._wait(deadline):
                    raise self._late(timeout or 0)

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is buffered, say goodbye and close.

        With a spool all is committed first, and it delivers only while there is a receiver: what
        stays in the spool is not lost.

        Args:
            timeout: seconds; None waits as long as the receiver makes progress, and gives up
                after five seconds without.

        Raises:
            Undelivered: it carries what neither the receiver has accepted nor a spool holds.

        """
        undelivered = self.drain_and_close(timeout, since=monotonic())
        if undelivered is not None:
            raise undelivered from self._outbox.failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; an exception on its way out is not hidden behind Undelivered, but notes it."""
        undelivered = self.drain_and_close(None, since=monotonic())
        if undelivered is None:
            return
        if error is None:
            raise undelivered from self._outbox.failure
        error.add_note(str(undelivered))

    def stats(self) -> ProducerStats:
        """Return counters of everything since the producer was created."""
        with self._lock:
            if not self._closed:
                self._read_news(monotonic())
            return super().stats()

    def after_fork_in_child(self) -> None:
        """Take an identity of its own; the parent keeps the connection and the buffer."""
        if not self._closed:
            self._close_descriptors()
            if self._spool is None:
                self._open_outbox()
            else:
                self._give_up_spool()
        self._reset()

    def drain_and_close(self, timeout: float | None, *, since: float) -> Undelivered | None:
        """Close like ``close``, its patience counted from ``since``; return what is left."""
        with self._lock:
            if self._closed:
                return None
            first = not self._closing
            self._closing = True
            self._window.seal()
            self._changed.notify_all()
        try:
            self._drain(timeout, since)
        except BaseException:  # Ctrl-C: whoever closes next goes on
            if first:
                self._closing = False
            raise
        with self._lock:
            if self._closed:
                return None
            undelivered = self._undelivered()
            if not first:  # whoever was will close it, unless the program ends before
                return undelivered
            self._closed = True
            if undelivered is not None and self._writer is not None:
                self._outbox.break_off()
            self._outbox.wakeup.set()
            self._changed.notify_all()
        if self._thread is None:
            self._close_descriptors()
        else:
            self._thread.join()  # it closes them
        return undelivered

    def _drain(self, timeout: float | None, since: float) -> None:
        """Wait until all is accepted, or time or patience is over; then say goodbye."""
        outbox, window = self._outbox, self._window
        deadline = None if timeout is None else monotonic() + timeout
        self._pump()
        with self._lock:
            while not self._is_spooled(window.next_seq) and self._spool_failure is None:
                outbox.wakeup.set()
                if not self._wait(self._spooling_until(since, deadline)):
                    break
            accepted_seq = window.accepted_seq
            while (
                self._may_deliver()
                and window.accepted_seq < window.next_seq
                and outbox.failure is None
            ):
                if window.accepted_seq > accepted_seq:
                    accepted_seq, since = window.accepted_seq, monotonic()
                if not self._wait(since + CLOSE_PATIENCE if deadline is None else deadline):
                    break
            outbox.say_bye()
        self._pump()

    # -- inside -----------------------------------------------------------------------------

    def _begin(self) -> None:
        # Whether a thread that sends in bulk, and names no time-out, may wait for the socket.
        self._patient = self._on_full == "block" and self._timeout is None
        self._reset()
        watch_forks(self)
        self._start()

    def _reset(self) -> None:
        # Reentrant, because a signal handler may send too.
        self._lock = threading.RLock()  # guards the outbox; not held while a write may wait
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # threads that wait for a change
        self._waiting_patiently = 0  # those of them that write meanwhile
        self._writer: object = None  # stands for the one write under way
        self._resting = False  # whether the background thread leaves acknowledgements unread
        self._thread: threading.Thread | None = None
        self._timer = None if self._closed else make_timer()  # of the background thread's rest
        self._closing = self._closed  # a fork may have come while it was closing

    def _close_descriptors(self) -> None:
        self._outbox.close()
        if self._timer is not None:
            self._timer.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                name = f"mpsr producer for {self.address}"
                self._thread = start_thread(self._run, name=name)
                _drain_at_exit(self)

    def _take(self, body: bytes, *, patient: bool) -> bool:
        if self._thread is None:
            self._start()
        now = monotonic()
        me = object()
        with self._lock:
            self._check()
            if self._window.nearly_full:
                self._read_news(now)
            try:
                taken = self._window.offer(body, now, alone=not self._outbox.in_burst(now))
                self._append = self._window.packer.append
                chosen = self._begin_write(me, now, patient=patient)
                if not chosen:
                    self._arm(now)
            except BaseException:
                self._interrupt(me)
                raise
        if chosen:
            self._write(chosen, me, patient=patient)
        return taken

    def _take_all(
        self, bodies: Sequence[Any], messages: Sequence[T], timeout: float | None, position: int = 0
    ) -> None:
        if self._thread is None:
            self._start()
        timeout = self._timeout if timeout is None else timeout
        deadline = None if timeout is None else monotonic() + timeout
        patient = self._patient and deadline is None
        me = object()
        while position < len(bodies):
            with self._lock:
                self._check()
                now = monotonic()
                if self._window.nearly_full:
                    self._read_news(now)
                ready = self._spool is None and self._outbox.ready()
                try:
                    position = self._window.offer_many(bodies, position, now, enough=ready)
                    self._try_extend = self._window.packer.try_extend
                    chosen = self._begin_write(me, now, patient=patient)
                except BaseException:
                    self._interrupt(me)
                    raise
                if not chosen:
                    self._arm(now)
                    if position < len(bodies):
                        if self._on_full == "raise":
                            raise self._full(messages[position:], None)
                        if not self._wait(deadline):
                            raise self._full(messages[position:], timeout)
            if chosen:
                self._write(chosen, me, patient=patient)

    def _read_news(self, now: float) -> None:
        """Read acknowledgements that the background thread leaves unread; tell who waits."""
        if self._outbox.may_rest:
            self._outbox.read(now)
            if self._waiting:
                self._changed.notify_all()

    def _wait(self, deadline: float | None) -> bool:
        """Wait for any change, with the lock held; False once the deadline has passed."""
        left = None if deadline is None else deadline - monotonic()
        if left is not None and left <= 0:
            return False
        me = object()
        patient = self._patient and deadline is None
        chosen = self._begin_write(me, monotonic(), patient=True) if patient else ()
        self._waiting += 1
        self._waiting_patiently += patient
        try:
            if chosen:
                self._lock.release()
                try:
                    self._write(chosen, me, patient=True)
                finally:
                    self._lock.acquire()
            else:
                if self._resting:
                    self._outbox.wakeup.set()
                self._changed.wait(left)
        finally:
            self._waiting -= 1
            self._waiting_patiently -= patient
        return True

    # A write takes three steps, so that the lock is free during the system call. Who is at it
    # stands in ``_writer``; whatever else falls due meanwhile, that thread writes too. Short
    # messages on an idle producer take one step, and no lock.

    def _pump(self) -> None:
        """Write what is due."""
        me = object()
        with self._lock:
            chosen = self._begin_write(me, monotonic())
        if chosen:
            self._write(chosen, me, patient=False)

    def _begin_write(
        self, me: object, now: float, *, patient: bool = False
    ) -> Sequence[bytes | memoryview]:
        """Choose what to write now, unless another thread is at it."""
        if self._writer is not None or self._closed:
            return ()
        try:
            self._writer = me
            chosen = self._outbox.begin_write(now, patient=patient)
            if not chosen:
                self._writer = None
            return chosen
        except BaseException:
            self._interrupt(me)
            raise

    def _write(self, chosen: Sequence[bytes | memoryview], me: object, *, patient: bool) -> None:
        """Write what was chosen, and then what has become due; patiently, only once."""
        outbox = self._outbox
        try:
            while chosen:
                result = outbox.write(chosen)
                with self._lock:
                    now = monotonic()
                    outbox.end_write(result, now)
                    chosen = () if patient else outbox.begin_write(now)
                    if not chosen:
                        self._writer = None
                        self._arm(now)
                        self._let_direct(now)
                    if self._waiting:
                        self._changed.notify_all()
                    if self._closed:
                        outbox.wakeup.set()
        except BaseException:
            self._interrupt(me)
            raise

    def _interrupt(self, writer: object) -> None:
        """Have the background thread mend what an exception (Ctrl-C) left in the middle."""
        if self._writer in (None, writer):  # else another thread's write goes on
            self._writer = None
            self._outbox.in_write = False
        self._outbox.interrupted = True
        self._outbox.wakeup.set()

    def _run(self) -> None:
        """Connect, read acknowledgements, and write what lingers: the background thread."""
        outbox = self._outbox
        while True:
            now = monotonic()
            with self._lock:
                outbox.service(now)
                if self._waiting:
                    if self._waiting_patiently:
                        outbox.leave(now)  # who waits so writes, and waits in the call
                    self._changed.notify_all()
                burst = outbox.in_burst(now)
            self._commit()
            if not burst:
                self._pump()
            with self._lock:
                if self._closed and self._writer is None:  # asked after the wakeup was cleared
                    self._close_descriptors()
                    self._close_spool()
                    return
                now = monotonic()
                wait = self._wait_time(now)
                burst = outbox.in_burst(now)
                self._resting = outbox.may_rest and not self._waiting
                poll = self._poll()
                if self._resting and outbox.window.accepted_seq < outbox.window.next_seq:
                    wait = ACK_REST if wait is None else min(wait, ACK_REST)
                self._wakes_at = inf if wait is None else now + wait
                if self._timer is not None:
                    self._timer.clear()
                self._let_direct(now)
            while not poll.poll(wait and wait * 1000) and burst:
                wait = max(0.0, outbox.burst_until - monotonic())  # it may go on meanwhile
                burst = wait > 0

    def _wake_at(self, when: float) -> None:
        if self._resting and self._timer is not None:
            self._timer.set(when)
            self._wakes_at = when
        else:
            super()._wake_at(when)

    def _poll(self) -> select.poll:
        """Return what to wait on: while resting, not for acknowledgements, but for the end."""
        poll = select.poll()
        if self._resting:
            poll.register(self._outbox.wakeup, select.POLLIN)
            if self._timer is not None:
                poll.register(self._timer, select.POLLIN)
            poll.register(self._outbox.socket_fileno(), 0)  # POLLHUP comes unasked
        else:
            poll.register(self._outbox.fileno(), select.POLLIN)
        return poll

    def _commit(self) -> None:
        """Write to the spool what is due."""
        if self._spool is None:
            return
        with self._lock:
            commit = self._begin_commit(self._spool, monotonic())
        if commit is not None:
            error = None
            try:
                commit()
            except MpsrError as exc:
                error = exc
            with self._lock:
                self._end_commit(self._spool, error, monotonic())
                if self._waiting:
                    self._changed.notify_all()


def _messages(count: int) -> str:
    return f"{count} message{'s'[: count != 1]}"


# -- at exit --------------------------------------------------------------------------------

_undrained: WeakSet[Producer[Any]] = WeakSet()
_drained_by_multiprocessing: set[int] = set()  # process ids


def _drain_at_exit(producer: Producer[Any]) -> None:
    """Deliver what a forgotten producer holds when the program ends, or say what is left."""
    _undrained.add(producer)
    # A child of multiprocessing ends without atexit, but runs these.
    util = sys.modules.get("multiprocessing.util")
    if util is not None and os.getpid() not in _drained_by_multiprocessing:
        _drained_by_multiprocessing.add(os.getpid())
        util.Finalize(None, _drain_all, exitpriority=0)


@atexit.register
def _drain_all() -> None:
    since = monotonic()
    for producer in list(_undrained):
        undelivered = producer.drain_and_close(None, since=since)
        if undelivered is not None and sys.stderr is not None:
            sys.stderr.write(f"mpsr: {undelivered}\n")
