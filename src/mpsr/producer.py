"""Send from the caller's thread, with one background thread: the sync front of the outbox."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic
from weakref import ReferenceType, ref

from mpsr import arguments, exits, primitives
from mpsr.arguments import OWN, Own
from mpsr.background import start_thread
from mpsr.endpoint import SOCKET_TYPES, absolute, parse_address
from mpsr.errors import (
    AddressError,
    BufferFull,
    Closed,
    ConfigurationError,
    JournalError,
    JournalFull,
    MpsrError,
    ReentrantCall,
    SendTimedOut,
    TimedOut,
    Undelivered,
)
from mpsr.forking import watch_forks
from mpsr.greenlets import world
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
    MESSAGE_COST,
    SPOOL_SETTLE,
)
from mpsr.outbox import Outbox
from mpsr.primitives import RLock, get_ident
from mpsr.sigmask import MASK
from mpsr.timer import make_timer
from mpsr.waiters import Waiters
from mpsr.waiting import Waiter
from mpsr.wire.codec import to_bytes
from mpsr.wire.framing import FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer, TypeVar

    from mpsr import waiters
    from mpsr.background import Thread
    from mpsr.endpoint import SocketType
    from mpsr.outbox import ProducerStats, Write
    from mpsr.poller import AnyPoller
    from mpsr.spool import Spool
    from mpsr.trust import ReceiverUid
    from mpsr.waiters import Until
    from mpsr.window import OnFull
    from mpsr.wire.framing import Framing

    T = TypeVar("T", default=Buffer)
else:
    from typing import TypeVar

    T = TypeVar("T")

ON_FULL: Final = ("block", "raise", "drop_newest", "drop_oldest")

_PATIENT: Final = (OWN, None)  # the time-outs of who names none

_BROKE_IN: Final = (
    "it was called from a signal handler or finalizer, in the middle of another call of this "
    "producer, and would wait for that call"
)


class ProducerBase(Generic[T]):
    """What the sync and the async producer share: everything but waiting.

    Args:
        address: where the receiver is: a path, ``@name`` or ``fd:N``.
        type: ``"stream"`` or ``"dgram"``.
        framing: ``"native"`` if left out, or, for a foreign server, ``"lines"``, ``"null"``,
            ``"length"``, ``"length-le"``, ``"octet-counted"`` or ``"stream"`` (a connection for
            every message). Only native has acknowledgements: elsewhere, and with datagrams, which
            have no framing, a message counts as accepted when the kernel took it.
        encode: applied to every message; without it messages are bytes-like.
        label: a name for the receiver to show; the program's own name if left out.
        on_full: what a full buffer does: ``"block"`` (wait for room, see ``timeout``),
            ``"raise"`` (BufferFull), ``"drop_newest"`` or ``"drop_oldest"`` (counted, and told
            to the receiver).
        timeout: seconds that ``send`` waits for room; None waits for ever.
        buffer: bytes that may wait to be accepted; a single message always fits.
        linger: seconds that a burst gathers before it is sent.
        max_message: bytes; a longer message is refused.
        exit_timeout: seconds that the end of the program waits, where the producer was not closed
            by then, until all is accepted; None waits as ``close()`` does. What is not delivered
            is told on stderr.
        receiver_uid: whose process may receive: a user id, several of them, or ``"any"``. If left
            out, our own and root's, where another user could have taken the name first: at an
            abstract name, or at a path with a directory that others may write to. Where only its
            owner may write to each directory, as in ``/run/app``, such an owner may receive, too.
        spool: a directory that keeps the messages until they are accepted. What it holds is
            sent first, under the same identity; all that waits is in memory, too. Opening it
            waits for the disk.

    A producer can be pickled: it travels to a child that multiprocessing spawns as its arguments,
    and is made anew there; a relative path stands for the file that it stood for here. One with a
    spool, or for ``fd:N``, belongs to its process and cannot.

    Raises:
        AddressError: the address makes no sense. That nobody listens there is no error: the
            producer keeps trying. WrongReceiver is raised by what sends, flushes or closes.
        ConfigurationError: an argument makes no sense; WrongType if it is its type that is wrong.
        JournalError: the spool cannot be used; JournalInUse: another producer has it.

    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: SocketType = "stream",  # noqa: A002 - the standard library's word for it
        framing: Framing | None = None,
        encode: Callable[[T], Buffer] | None = None,
        label: str | None = None,
        on_full: OnFull = "block",
        timeout: float | None = None,
        buffer: int = BUFFER,
        linger: float = LINGER,
        max_message: int = MAX_MESSAGE,
        exit_timeout: float | None = None,
        receiver_uid: ReceiverUid = None,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        arguments.address(address)
        arguments.choice("type", type, SOCKET_TYPES)
        if framing is not None:
            arguments.framing(framing, FRAMINGS, socket_type=type)
        arguments.choice("on_full", on_full, ON_FULL)
        arguments.function("encode", encode)
        arguments.text("label", label)
        arguments.file("spool", spool)
        self.address = parse_address(address)
        self._place = absolute(self.address)  # of this moment, whatever directory comes later
        self._arguments: dict[str, Any] = {
            "address": self._place.value if self._place.kind == "path" else str(self._place),
            "type": type,
            "framing": framing,
            "encode": encode,
            "label": label,
            "on_full": on_full,
            "timeout": timeout,
            "buffer": buffer,
            "linger": linger,
            "max_message": max_message,
            "exit_timeout": exit_timeout,
            "receiver_uid": receiver_uid,
            "spool": spool,
        }
        self._encode = encode
        self._on_full: OnFull = on_full
        self._timeout = arguments.timeout(timeout)
        self._exit_timeout = arguments.timeout(exit_timeout, "exit_timeout")
        self._timed_out: ReferenceType[TimedOut] | None = None  # the last error that said so
        self._closing = False  # takes no more
        self._closed = False  # sends no more
        self._end = "is closed"
        self._spool: Spool | None = None
        self._spool_at = 0.0  # no commit before then
        self._spool_obstacle: JournalFull | None = None
        self._spool_failure: MpsrError | None = None
        self._options: dict[str, Any] = {
            "type": type,
            "framing": framing or "native",
            "label": os.path.basename(sys.argv[0]) if label is None else label,
            "on_full": on_full,
            "buffer": arguments.integer("buffer", buffer),
            "linger": arguments.seconds("linger", linger),
            "max_message": arguments.max_message(max_message),
            "receiver_uid": arguments.receiver_uid(receiver_uid),
        }
        if spool is not None:
            self._open_spool(spool)
        self._open_lock()
        self._open_outbox()
        try:
            self._begin()
        except BaseException:
            self._outbox.close()
            raise

    def _open_spool(self, path: str | os.PathLike[str]) -> None:
        from mpsr.spool import Spool  # noqa: PLC0415 - not light, and not for all

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
        poller: AnyPoller | None = None
        try:
            poller = self._make_poller()
            self._outbox = Outbox(self._place, poller=poller, **self._options)
        except OSError as exc:
            if poller is not None:
                poller.close()
            error = f"cannot send to {self.address}: {exc.strerror}; close files, or see ulimit -n"
            raise AddressError(error, address=str(self.address)) from exc
        self._window = self._outbox.window
        if self._spool is not None:
            left, self._spool.left = self._spool.left, []
            self._window.restore(left, self._spool.accepted_seq, self._spool.next_seq)
        self._waiters = Waiters(self._window)
        self._append = self._window.packer.append  # safe in any thread, without the lock
        self._try_extend = self._window.packer.try_extend  # so is this
        self._write_direct = self._window.direct.write  # and this
        self._wakes_at = inf  # when whoever waits on the outbox looks again of itself

    def _open_lock(self) -> None:
        # Held whenever anything but the packer and the direct writer is touched. A reentrant lock
        # is one that can tell who holds it: a call that broke in on another takes nothing from it.
        self._lock = RLock()
        self._is_mine: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001 - as threading.Condition asks
        self._deferred: deque[bytes | None] = deque()  # by such calls; None: one was dropped
        self._deferred_cost = 0

    def _begin(self) -> None:
        """Prepare what waiting needs."""

    def _make_poller(self) -> AnyPoller | None:
        """Return what the outbox waits with, if it has to have a descriptor."""
        return None

    # -- calls that break in on others -------------------------------------------------------
    #
    # A signal handler runs between any two steps of the main thread, a finalizer in any thread.
    # Where it finds the lock held by its own thread it changes nothing: what it sends is set
    # aside, and taken before anything else is.

    def _defer(self, body: bytes) -> bool:
        """Set a message aside for the call that was interrupted; False where there is no room."""
        self._check()
        cost = len(body) + MESSAGE_COST
        if self._deferred and self._deferred_cost + cost > self._options["buffer"]:
            if self._on_full in ("block", "raise"):
                return False
            self._deferred.append(None)
            return True
        self._deferred_cost += cost
        self._deferred.append(body)
        self._outbox.wakeup.set()
        return True

    def _take_deferred(self, now: float) -> None:
        """Take what was set aside, in order; none of it is refused for want of room."""
        deferred, window = self._deferred, self._window
        while deferred:
            body = deferred.popleft()
            end_seq = window.next_seq
            try:
                if body is None:
                    window.lose(1)
                else:
                    window.offer(body, now, waits=False)
            except BaseException:
                if window.next_seq == end_seq:
                    deferred.appendleft(body)
                raise
        self._deferred_cost = 0

    def _full_inside(self, messages: Sequence[T]) -> BufferFull:
        """Return the error for messages that a call which cannot wait has no room for."""
        what = f"no room for {_messages(len(messages))} to {self.address}"
        return BufferFull(f"{what}: {_BROKE_IN}, to make room", messages=messages)

    def _refuse_inside(self, name: str) -> ReentrantCall:
        error = f"{name}() of the producer for {self.address}: {_BROKE_IN}; nothing is lost by it"
        return ReentrantCall(error)

    @property
    def id(self) -> bytes:
        """The 16 random bytes by which the receiver knows this producer."""
        return self._outbox.id

    def stats(self) -> ProducerStats:
        """Return counters of everything since the producer was created."""
        deferred = sum(body is not None for body in self._deferred)
        stats = self._outbox.stats(may_look=not self._is_mine())
        if deferred:
            stats = stats._replace(sent=stats.sent + deferred, buffered=stats.buffered + deferred)
        return stats

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.address}{' closed' * self._closed}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the arguments, to be made anew there."""
        if self._closing:
            raise Closed(f"the producer for {self.address} {self._end}, and cannot be pickled")
        if self._spool is not None or self.address.kind == "fd":
            what = "its descriptor" if self._spool is None else "its spool"
            error = (
                f"the producer for {self.address} cannot be pickled: {what} belongs to this "
                "process; make one in the process that sends"
            )
            raise TypeError(error)
        return partial(type(self), **self._arguments), ()

    def _checked(self, encoded: Buffer) -> bytes:
        body = to_bytes(encoded)
        self._window.check(body)
        return body

    def _checked_all(self, messages: Iterable[T]) -> tuple[Sequence[T], Sequence[Any]]:
        """Return the messages, and what they are encoded, once all are found good."""
        if self._encode is None:
            arguments.several(messages)
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

    def _is_safe(self, until: Until, need: int) -> bool:
        """Tell whether what is waited for is there."""
        if until == "room":
            return self._window.has_room(need)
        if until == "accepted":
            return self._window.accepted_seq >= need
        return until == "spooled" and self._is_spooled(need)

    def _is_hopeless(self, until: Until) -> bool:
        """Tell whether what is waited for will not come."""
        closing = self._closing and until == "room"
        return closing or self._closed or self._outbox.failure is not None

    def _notify(self) -> bool:
        """Wake those who can go on, or need not wait any more; tell whether anybody has room."""
        if not self._waiters:
            return False
        if self._closed or self._outbox.failure is not None:
            self._waiters.wake_all()
            return False
        return self._waiters.wake()

    def _background_failed(self, cause: BaseException) -> MpsrError:
        """Return the error for what ended the work in the background."""
        what = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        error = MpsrError(f"the producer for {self.address} has failed, within mpsr itself: {what}")
        error.__cause__ = cause
        return error

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
        error = f"{what} within {waited:g} s: {self._why()}"
        return self._noted(SendTimedOut(error, messages=messages))

    def _late(self, timeout: float) -> TimedOut:
        """Return the error for a flush that took too long."""
        what = _messages(self.stats().buffered)
        error = f"{self.address} has not accepted {what} within {timeout:g} s: {self._why()}"
        return self._noted(TimedOut(error))

    def _noted(self, error: TimedOut) -> TimedOut:
        self._timed_out = ref(error)
        return error

    def _patience_after(self, error: BaseException | None) -> float | None:
        """Return the time-out of the end of a block that an exception leaves.

        Where a call of this producer has waited in vain for a receiver, the end does not wait for
        one again.
        """
        own = error is not None and self._timed_out is not None and self._timed_out() is error
        return 0 if own and not self._outbox.may_deliver else None

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


class _Turn:
    """A call's turn at writing, which stands in ``_writer``, or at waiting."""

    __slots__ = ("entry", "thread", "waiter", "waits", "writes")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.waits = False
        self.writes = False  # meanwhile, waiting for the socket
        self.waiter: Waiter | None = None  # what it waits on, if it does not
        self.entry: waiters.Waiter | None = None  # ... among those that wait


class Producer(ProducerBase[T]):
    """Sends messages to a receiver; thread-safe and fork-safe.

    Creating one never blocks; it connects, and reconnects, on its own. A message on an idle
    producer leaves at once, in the caller's thread; a burst is batched. A forked child gets
    an identity and a connection of its own; what the parent has buffered stays with the parent.

    All methods may be called from a signal handler. What would there have to wait for the very
    call that was interrupted raises instead: ``send`` BufferFull, the others ReentrantCall.
    """

    def send(self, message: T, timeout: float | Own | None = OWN) -> None:
        """Take a message; it is sent at once on an idle producer, else with the burst.

        Args:
            message: bytes-like, or what ``encode=`` takes.
            timeout: seconds to wait for room; None waits for ever. Left out, it is the producer's
                own ``timeout``.

        Raises:
            SendTimedOut: with ``on_full="block"``: there was no room in time.
            BufferFull: there is no room, with ``on_full="raise"``, or in a signal handler.
            MessageError: the message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.

        """
        if timeout is not OWN:
            timeout = arguments.timeout(timeout)
        encoded: Any = message if self._encode is None else self._encode(message)
        # The open batch may have room; else the message may leave at once, or begin another.
        if self._deferred or not (self._append(encoded) or self._write_direct(encoded)):
            body = self._checked(encoded)
            if not self._take(body, patient=self._patient and timeout in _PATIENT):
                self._take_all([body], [message], timeout)

    def try_send(self, message: T) -> bool:
        """Take a message if there is room, else return False; never waits."""
        encoded: Any = message if self._encode is None else self._encode(message)
        if not self._deferred and (self._append(encoded) or self._write_direct(encoded)):
            return True
        return self._take(self._checked(encoded), patient=False)

    def send_many(self, messages: Iterable[T], timeout: float | Own | None = OWN) -> None:
        """Take several messages, in order; errors and time-out are those of ``send``.

        A message that cannot be sent at all stops it before the first is taken; SendTimedOut
        and BufferFull carry those that were not taken.
        """
        if timeout is not OWN:
            timeout = arguments.timeout(timeout)
        position = 0
        if self._encode is None and not self._deferred:
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
            ReentrantCall: a signal handler called it in the middle of another call.

        """
        self._check_spooled(spooled=spooled)
        timeout = arguments.timeout(timeout)
        deadline = None if timeout is None else monotonic() + timeout
        until: Until = "spooled" if spooled else "accepted"
        with MASK, self._enter("flush"):
            self._check()
            self._take_deferred(monotonic())
            target = self._window.next_seq
            self._window.seal()
            if not self._is_spooled(target):
                self._outbox.wakeup.set()
        self._pump()
        while True:
            with MASK, self._lock:
                if self._is_safe(until, target):
                    return
                self._check(taking=False)
            if not self._wait(until, target, deadline):
                raise (self._late_spool if spooled else self._late)(timeout or 0)

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is buffered, say goodbye and close.

        With a spool all is committed first, and it delivers only while there is a receiver: what
        stays in the spool is not lost.

        Args:
            timeout: seconds; None waits as long as the receiver makes progress, and gives up
                after five seconds without.

        Raises:
            Undelivered: it carries what neither the receiver has accepted nor a spool holds.
            ReentrantCall: a signal handler called it in the middle of another call. What was
                taken is delivered all the same, at the end of the program at the latest.

        """
        timeout = arguments.timeout(timeout)
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
        """Close; an exception on its way out is not hidden behind Undelivered, but notes it.

        Is it a TimedOut of this producer, and nobody receives, then the block does not wait again.
        """
        timeout = self._patience_after(error)
        undelivered = self.drain_and_close(timeout, since=monotonic())
        if undelivered is None:
            return
        if error is None:
            raise undelivered from self._outbox.failure
        error.add_note(str(undelivered))

    def stats(self) -> ProducerStats:
        """Return counters of everything since the producer was created."""
        if self._is_mine():
            return super().stats()
        with MASK, self._lock:
            if not self._closed:
                self._read_news(monotonic())
            return super().stats()

    def after_fork_in_child(self) -> None:
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
        self._reset()

    def finish(self, since: float, *, at_once: bool) -> Undelivered | None:
        """Close at the end of the program, with patience counted from ``since``."""
        return self.drain_and_close(0 if at_once else self._exit_timeout, since=since)

    def drain_and_close(self, timeout: float | None, *, since: float) -> Undelivered | None:
        """Close like ``close``, its patience counted from ``since``; return what is left."""
        lock = self._enter("close")
        with MASK, lock:
            if self._closed:
                return None
            first = not self._closing
            self._closing = True
            self._take_deferred(monotonic())
            self._window.seal()
            self._waiters.wake_all()
        try:
            self._drain(timeout, since)
        except BaseException:  # Ctrl-C: whoever closes next goes on
            if first:
                self._closing = False
            raise
        with MASK, self._lock:
            if self._closed:
                return None
            undelivered = self._undelivered()
            if not first:  # whoever was will close it, unless the program ends before
                return undelivered
            self._take_write_over(closing=True)
            self._closed = True
            if undelivered is not None and self._writer is not None:
                self._outbox.break_off()
            self._outbox.wakeup.set()
            self._waiters.wake_all()
        if self._thread is not None:
            self._thread.join()  # it closes the descriptors, unless it was ended
        self._release()
        return undelivered

    def _drain(self, timeout: float | None, since: float) -> None:
        """Wait until all is accepted, or time or patience is over; then say goodbye."""
        outbox, window = self._outbox, self._window
        deadline = None if timeout is None else since + timeout
        self._pump()
        while True:
            with MASK, self._lock:
                spooled = self._is_spooled(window.next_seq)
                if spooled or self._spool_failure is not None or self._closed:
                    break
                outbox.wakeup.set()
                until = self._spooling_until(since, deadline)
            if not self._wait("changed", 0, until):
                break
        accepted_seq = window.accepted_seq
        while True:
            with MASK, self._lock:
                accepted = window.accepted_seq >= window.next_seq
                if accepted or self._closed or outbox.failure is not None:
                    break
                if not self._may_deliver():
                    break
                if window.accepted_seq > accepted_seq:
                    accepted_seq, since = window.accepted_seq, monotonic()
            until = since + CLOSE_PATIENCE if deadline is None else deadline
            if not self._wait("changed", 0, until):
                break
        with MASK, self._lock:
            outbox.say_bye()
        self._pump()

    # -- inside -----------------------------------------------------------------------------

    def _begin(self) -> None:
        # Whether a thread that sends in bulk, and names no time-out, may wait for the socket.
        patient = self._on_full == "block" and self._timeout is None
        self._patient = patient and self._outbox.resends
        self._reset()
        watch_forks(self)
        self._start()

    def _reset(self) -> None:
        self._waiting = 0  # threads that wait for a change
        self._waiting_patiently = 0  # those of them that write meanwhile
        self._writer: _Turn | None = None  # stands for the one write under way
        self._resting = False  # whether the background thread leaves acknowledgements unread
        self._thread: Thread | None = None
        self._alone = False  # whether there can be no such thread
        self._released = self._closed
        self._timer = None if self._closed else make_timer()  # of the background thread's rest
        self._closing = self._closed  # a fork may have come while it was closing

    def _close_descriptors(self) -> None:
        self._outbox.close()
        if self._timer is not None:
            self._timer.close()

    def _release(self) -> None:
        """Close the descriptors and the spool, once."""
        with MASK, self._lock:
            if self._released:
                return
            self._released = True
            self._close_descriptors()
            self._close_spool()
        exits.is_finished(self)

    def _start(self) -> None:
        """Start the background thread; at the end of the program all is done without."""
        with MASK, self._lock:
            if self._thread is not None or self._alone or self._closed:
                return
            try:
                if exits.ended_at is not None:
                    raise RuntimeError("the program has ended")
                self._outbox.service(monotonic())  # the sooner it is connected the better
                self._thread = start_thread(self._run, name=f"mpsr producer for {self.address}")
            except RuntimeError:  # the end of the program has begun, or there are too many
                self._alone = True
            exits.finish_at_exit(self)

    def _enter(self, name: str) -> RLock:
        """Return the lock; raise ReentrantCall in the middle of another call of this thread."""
        if self._is_mine() or (self._thread is not None and self._thread.is_current()):
            raise self._refuse_inside(name)
        return self._lock

    def _check(self, *, taking: bool = True) -> None:
        if self._closed and taking and exits.ended_at is not None and self._spool is None:
            self._reopen()
        super()._check(taking=taking)

    def _reopen(self) -> None:
        """Begin anew for what is sent after the end of the program has closed it."""
        self._closed = False
        self._open_outbox()
        self._reset()
        self._alone = True

    def _take(self, body: bytes, *, patient: bool) -> bool:
        if self._is_mine():
            return self._defer(body)
        if self._thread is None:
            self._start()
        me = _Turn()
        write: Write | None = None
        with MASK:
            with self._lock:
                now = self._begin_taking()
                try:
                    alone = not self._outbox.in_burst(now)
                    taken = self._window.offer(body, now, alone=alone)
                    self._append = self._window.packer.append
                    write = self._begin_write(me, now, patient=patient)
                    if write is None:
                        self._arm(now)
                except BaseException:
                    self._interrupt(me)
                    raise
            if write is not None and not self._outbox.waits:
                self._write(write, me, more=not patient)
                write = None
        if write is not None:
            self._write_waiting(write, me)
        if self._alone:
            self._work_alone()
        return taken

    def _begin_taking(self) -> float:
        """Do what comes before a message is taken; return the time. The lock is held."""
        self._check()
        now = monotonic()
        self._take_deferred(now)
        if self._window.nearly_full:
            self._read_news(now)
        return now

    def _take_all(
        self,
        bodies: Sequence[Any],
        messages: Sequence[T],
        timeout: float | Own | None,
        position: int = 0,
    ) -> None:
        if self._is_mine():
            self._defer_all(bodies, messages, position)
            return
        if self._thread is None:
            self._start()
        timeout = self._timeout if timeout is OWN else timeout
        deadline = None if timeout is None else monotonic() + timeout
        patient = self._patient and deadline is None
        me = _Turn()
        while position < len(bodies):
            with MASK:
                position, write = self._offer(bodies, messages, position, me, patient=patient)
                wrote = write is not None
                if write is not None and not self._outbox.waits:
                    self._write(write, me, more=not patient)
                    write = None
            if write is not None:
                self._write_waiting(write, me)
            if not wrote and position < len(bodies):
                need = len(to_bytes(bodies[position])) + MESSAGE_COST
                if not self._wait("room", need, deadline):
                    raise self._full(messages[position:], timeout)
        if self._alone:
            self._work_alone()

    def _offer(
        self,
        bodies: Sequence[Any],
        messages: Sequence[T],
        position: int,
        me: _Turn,
        *,
        patient: bool,
    ) -> tuple[int, Write | None]:
        """Take messages from ``position`` on; return where it stopped, and what is to be written.

        Raise for the rest, where it must not wait for room.
        """
        with self._lock:
            now = self._begin_taking()
            ready = self._spool is None and self._outbox.ready()
            try:
                position = self._window.offer_many(bodies, position, now, enough=ready)
                self._try_extend = self._window.packer.try_extend
                write = self._begin_write(me, now, patient=patient)
            except BaseException:
                self._interrupt(me)
                raise
            if write is not None:
                return position, write
            self._arm(now)
            if position < len(bodies) and self._on_full == "raise":
                raise self._full(messages[position:], None)
            if position < len(bodies) and self._broke_in():
                position = self._take_beyond(bodies, position, now)
                if position < len(bodies):
                    raise self._full_inside(messages[position:])
            return position, None

    def _defer_all(self, bodies: Sequence[Any], messages: Sequence[T], position: int) -> None:
        for index in range(position, len(bodies)):
            if not self._defer(to_bytes(bodies[index])):
                raise self._full_inside(messages[index:])

    def _take_beyond(self, bodies: Sequence[Any], position: int, now: float) -> int:
        """Take messages that cannot wait for room, as many as fill the buffer once more."""
        window = self._window
        while position < len(bodies) and window.cost <= 2 * self._options["buffer"]:
            window.offer(to_bytes(bodies[position]), now, waits=False)
            position += 1
        return position

    def _read_news(self, now: float) -> None:
        """Read acknowledgements that the background thread leaves unread; tell who waits."""
        if self._outbox.may_rest:
            self._outbox.read(now)
            self._notify()

    # -- waiting ----------------------------------------------------------------------------

    def _wait(self, until: Until, need: int, deadline: float | None) -> bool:
        """Wait until it may be there, or will not come; False once the deadline has passed.

        A caller that sends in bulk writes in the meantime what is due.
        """
        left = None if deadline is None else deadline - monotonic()
        if left is not None and left <= 0:
            return False
        me = _Turn()
        lock = self._lock
        ended = False
        try:
            with MASK:
                write = self._begin_wait(
                    me, until, need, patient=self._patient and left is None and world() is None
                )
                if write is not None and not self._outbox.waits:
                    self._write(write, me, more=False)
                    write = None
            if write is not None:
                self._write_waiting(write, me)
            elif me.waiter is not None:
                me.waiter.wait(left)
            elif me.waits and not me.writes:
                self._rest(left)
                self._serve()
            ended = True
        finally:
            if lock is self._lock:
                self._end_wait(me, ended=ended)
        if lock is not self._lock:  # a greenlet that a fork has carried into a child
            error = f"the producer for {self.address} was forked: the parent's call goes on"
            raise Closed(error)
        return True

    def _end_wait(self, me: _Turn, *, ended: bool) -> None:
        with MASK, self._lock:
            self._waiting -= me.waits
            self._waiting_patiently -= me.writes
            if me.entry is not None:
                self._waiters.remove(me.entry)
            if not ended:
                self._notify()  # others can use what it was woken for

    def _begin_wait(self, me: _Turn, until: Until, need: int, *, patient: bool) -> Write | None:
        """Prepare to wait, unless there is nothing to wait for; return what to write meanwhile."""
        with self._lock:
            if self._is_safe(until, need) or self._is_hopeless(until):
                return None
            self._take_write_over()
            write = self._begin_write(me, monotonic(), patient=True) if patient else None
            if write is None and not self._alone:
                waiter = Waiter()
                me.entry = self._waiters.add(until, need, waiter.wake, writes=patient)
                me.waiter = waiter
                if self._resting:
                    self._outbox.wakeup.set()
            self._waiting += 1
            me.waits = True
            me.writes = write is not None
            self._waiting_patiently += me.writes
            return write

    def _notify(self) -> bool:
        if super()._notify():
            return True
        # One of those who wait for room, and write patiently, is to do so.
        free = self._patient and self._writer is None and self._outbox.may_write_patiently
        if free and self._waiters.wake_writer():
            self._outbox.leave(monotonic())
        return False

    # -- writing ----------------------------------------------------------------------------
    #
    # A write takes three steps, so that the lock is free during the system call. Who is at it
    # stands in ``_writer``; whatever else falls due meanwhile, that thread writes too. Short
    # messages on an idle producer take one step, and no lock.

    def _pump(self) -> None:
        """Write what is due."""
        me = _Turn()
        with MASK:
            with self._lock:
                write = self._begin_write(me, monotonic())
            if write is not None:
                self._write(write, me, more=True)

    def _begin_write(self, me: _Turn, now: float, *, patient: bool = False) -> Write | None:
        """Choose what to write now, unless another thread is at it."""
        if self._writer is not None or self._closed:
            return None
        try:
            self._writer = me
            write = self._outbox.begin_write(now, patient=patient)
            if write is None:
                self._writer = None
            return write
        except BaseException:
            self._interrupt(me)
            raise

    def _write(self, write: Write, me: _Turn, *, more: bool) -> None:
        """Write what was chosen, which does not wait, and, if ``more``, what has become due."""
        try:
            due: Write | None = write
            while due is not None:
                due = self._end_write(due(), me, more=more)
        except BaseException:
            self._interrupt(me)
            raise

    def _write_waiting(self, write: Write, me: _Turn) -> None:
        """Write what was chosen, waiting for room; a signal handler may break in."""
        try:
            result = write()
            with MASK:
                self._end_write(result, me, more=False)
        except BaseException:
            self._interrupt(me)
            raise

    def _end_write(self, result: int | OSError, me: _Turn, *, more: bool) -> Write | None:
        """Take note of a write; return the next one, if there is to be one."""
        with self._lock:
            if self._writer is not me:
                return None  # a signal handler has taken it over, and begun a new connection
            outbox, now = self._outbox, monotonic()
            outbox.end_write(result, now)
            write = outbox.begin_write(now) if more else None
            if write is None:
                self._writer = None
                self._arm(now)
                self._let_direct(now)
            self._notify()
            if self._closed:
                outbox.wakeup.set()
            return write

    def _broke_in(self) -> bool:
        """Tell whether this call broke in on a write of its own thread."""
        return self._writer is not None and self._writer.thread == get_ident()

    def _take_write_over(self, *, closing: bool = False) -> None:
        """End a write that this call broke in on: it goes on only once this call has returned."""
        if self._broke_in():
            if not (closing or self._outbox.resends):
                raise self._refuse_inside("flush")
            self._outbox.break_off()
            self._interrupt(self._writer)

    def _interrupt(self, writer: object) -> None:
        """Have the background thread mend what an exception (Ctrl-C) left in the middle."""
        if self._writer in (None, writer):  # else another thread's write goes on
            self._writer = None
            self._outbox.in_write = False
        self._outbox.interrupted = True
        self._outbox.wakeup.set()

    # -- the background thread ---------------------------------------------------------------

    def _run(self) -> None:
        """Connect, read acknowledgements, and write what lingers: the background thread."""
        try:
            while not self._closed or self._writer is not None:
                self._serve()
                self._rest(None)
            self._release()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, those who send are told
            with self._lock:
                self._outbox.fail(self._background_failed(exc))
                self._waiters.wake_all()

    def _serve(self) -> None:
        """Do what is due."""
        outbox = self._outbox
        now = monotonic()
        with MASK, self._lock:
            outbox.service(now)
            self._take_deferred(now)
            if self._waiting_patiently:
                outbox.leave(now)  # who waits so writes, and waits in the call
            self._notify()
            burst = outbox.in_burst(now)
        self._commit()
        if not burst:
            self._pump()

    def _rest(self, most: float | None) -> None:
        """Wait until something is due, ``most`` seconds."""
        outbox = self._outbox
        with MASK, self._lock:
            if self._closed and self._writer is None:  # asked after the wakeup was cleared
                return
            now = monotonic()
            wait = self._wait_time(now)
            burst = outbox.in_burst(now)
            self._resting = outbox.may_rest and not self._waiting
            if self._timer is not None and not self._timer.intact:
                self._timer = None  # the program has closed it
            poll = self._poll()
            if self._resting and outbox.window.accepted_seq < outbox.window.next_seq:
                wait = ACK_REST if wait is None else min(wait, ACK_REST)
            if most is not None:
                wait = most if wait is None else min(wait, most)
            self._wakes_at = inf if wait is None else now + wait
            if self._timer is not None:
                self._timer.clear()
            self._let_direct(now)
        while not poll.poll(None if wait is None else wait * 1000) and burst:
            wait = max(0.0, outbox.burst_until - monotonic())  # it may go on meanwhile
            burst = wait > 0

    def _work_alone(self) -> None:
        """Do without a background thread what it would do, as far as nobody has to wait."""
        with MASK, self._lock:
            self._window.seal()
        self._serve()
        if exits.ended_at is not None:
            exits.tell(self.finish(exits.ended_at, at_once=False))

    def _wake_at(self, when: float) -> None:
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
        descriptor = self._outbox.socket_fileno()
        if descriptor is not None:
            poll.register(descriptor, 0 if self._resting else self._outbox.awaited)
        return poll

    def _commit(self) -> None:
        """Write to the spool what is due."""
        if self._spool is None:
            return
        with MASK, self._lock:
            commit = self._begin_commit(self._spool, monotonic())
        if commit is not None:
            error = None
            try:
                commit()
            except MpsrError as exc:
                error = exc
            with MASK, self._lock:
                self._end_commit(self._spool, error, monotonic())
                self._notify()


def _messages(count: int) -> str:
    return f"{count} message{'s'[: count != 1]}"
