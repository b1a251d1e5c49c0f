"""Send from the caller's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mpsr import arguments
from mpsr.arguments import OWN, Own
from mpsr.engine.sending.batches import FileMessage
from mpsr.errors import Closed, MpsrError, ReentrantCall
from mpsr.front import reasons
from mpsr.front.steps import LET_OTHERS_RUN, R, Steps, Wait
from mpsr.sync.background import BackgroundProducer
from mpsr.system.clock import monotonic
from mpsr.system.files import keep
from mpsr.system.greenlets import world
from mpsr.system.primitives import RLock
from mpsr.system.sigmask import MASK
from mpsr.system.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer
    from typing_extensions import TypeVar as TypeVarWithDefault

    from mpsr.engine.sending import waiters
    from mpsr.engine.sending.outbox import Write
    from mpsr.errors import Undelivered
    from mpsr.stats import ProducerStats
    from mpsr.system.files import File

    T = TypeVarWithDefault("T", default=Buffer)
else:
    T = TypeVar("T")


class Producer(BackgroundProducer[T]):
    """Sends messages to a receiver; thread-safe and fork-safe.

    Creating one never blocks; it connects, and reconnects, on its own. A message on an idle
    producer leaves at once, in the caller's thread; a burst is batched. A forked child gets
    an identity and a connection of its own; what the parent has buffered stays with the parent.

    A producer that is discarded without ``close()`` emits a ResourceWarning, and delivers and
    closes in the background. One that lives until the end of the program is closed by it.

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
            arguments.timeout(timeout)
        encoded: Any = message if self._encode is None else self._encode(message)
        # The open batch may have room; else the message may leave at once, or begin another.
        if self._deferred or not (self._append(encoded) or self._write_direct(encoded)):
            body = self._checked(encoded)
            self._follow(self._send_steps([body], [message], self._timeout_of(timeout)))

    def send_many(self, messages: Iterable[T], timeout: float | Own | None = OWN) -> None:
        """Take several messages, in order.

        Args:
            messages: iterable of bytes-like, or of what ``encode=`` takes. One that cannot be sent
                at all is an error before the first is taken.
            timeout: seconds to wait for room for all of them; None waits for ever. Left out, it is
                the producer's own ``timeout``.

        Raises:
            SendTimedOut: with ``on_full="block"``: there was no room in time; it carries those
                that were not taken.
            BufferFull: there is no room, with ``on_full="raise"``, or in a signal handler;
                it carries those that were not taken.
            MessageError: a message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.

        """
        timeout = self._timeout_of(timeout)
        position = 0
        if self._encode is None and not self._deferred:
            position = self._try_extend(messages)  # type: ignore[arg-type]  # whatever they are
        if not position or position < len(messages):  # type: ignore[arg-type]  # it has a length
            messages, bodies = self._checked_all(messages)
            self._follow(self._send_steps(bodies, messages, timeout, position))

    def send_file(
        self, file: File, message: Buffer = b"", timeout: float | Own | None = OWN
    ) -> None:
        """Take an open file with a message, in order with all others; it travels as a descriptor.

        The receiver gets the same open file, with its position, flags and rights, if it was made
        with ``accept_files=True``. What is passed is duplicated at once, and may be closed behind
        the call; the duplicate is kept, and sent again to the next receiver, until the message
        is accepted. A file takes a 64th of the buffer, so that 64 wait at most.

        While no receiver has answered, it is taken. Where one then takes no files, it is dropped
        and counted as lost; the next ``flush`` says so, or ``close``, by Undelivered.

        Args:
            file: int, a descriptor; an object with ``fileno()``, whose own buffer you have
                flushed; or the path of a file, which is opened for reading.
            message: bytes-like, what it says beside; ``encode=`` is not applied.
            timeout: seconds to wait for room; None waits for ever. Left out, it is the producer's
                own ``timeout``.

        Raises:
            FilesRefused: the receiver takes no files.
            OSError: the path cannot be opened, or the descriptor duplicated.
            SendTimedOut: with ``on_full="block"``: there was no room in time.
            BufferFull: with ``on_full="raise"``: there is no room.
            MessageError: the message is too large.
            ConfigurationError: datagrams, foreign framings and a spool carry no files.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.
            ReentrantCall: a signal handler called it in the middle of another call.

        """
        timeout = self._timeout_of(timeout)
        body = self._checked_beside(file, message)
        self._follow(self._file_steps(FileMessage(body, keep(file)), timeout))

    def flush(self, timeout: float | None = None, *, spooled: bool = False) -> None:
        """Return once the receiver has accepted everything sent so far.

        Args:
            timeout: seconds; None waits for ever.
            spooled: return once all of it is accepted or on the disk, in the spool.

        Raises:
            TimedOut: it has not, and why. Nothing is lost by it.
            FilesRefused: it has, but for messages whose files it did not take.
            Undelivered: it has, except messages that were taken before it was known that they are
                larger than it takes. They are dropped, and reported once; the producer continues.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.
            ReentrantCall: a signal handler called it in the middle of another call.

        """
        self._check_spooled(spooled=spooled)
        self._follow(self._flush_steps(arguments.timeout(timeout), spooled=spooled))

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is buffered, say goodbye and close.

        With a spool all is committed first, and it delivers only while there is a receiver: what
        stays in the spool is not lost.

        Args:
            timeout: seconds; None waits as long as the receiver makes progress, and gives up
                after five seconds without.

        Raises:
            Undelivered: it carries what neither the receiver has accepted nor a spool holds, and
                the dropped messages that no ``flush`` has reported.
            ReentrantCall: a signal handler called it in the middle of another call. What was
                taken is delivered all the same, at the end of the program at the latest.

        """
        undelivered = self._drain_and_close(arguments.timeout(timeout), monotonic())
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

        If it is a TimedOut of this producer, and nobody receives, the block does not wait again.
        """
        undelivered = self._drain_and_close(self._end_timeout(error), monotonic())
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
                self._read_acks(monotonic())
            return super().stats()

    # -- closing ------------------------------------------------------------------------------

    def _drain_and_close(self, timeout: float | None, since: float) -> Undelivered | None:
        """Close as ``close`` does, but return what is left; the time-out counts from ``since``."""
        lock = self._enter("close")
        first = False
        try:
            with MASK, lock:
                if self._closed:  # an exception may have ended the close() before
                    self._outbox.wakeup.set()
                    if self._thread is None or not self._thread.alive:
                        self._release()
                    return None
                first = not self._closing
                self._begin_close()
            self._follow(self._drain_steps(timeout, since))
            with MASK, self._lock:
                if self._closed:
                    return None
                undelivered = self._undelivered()
                if not first:  # the first close() releases it, unless the program ends before
                    return undelivered
                self._take_write_over(closing=True)
                self._closed = True
                if undelivered is not None:
                    self._outbox.break_off()
                self._outbox.wakeup.set()
                self._waiters.wake_all()
        except BaseException:  # Ctrl-C: the next close() does the remainder
            if first and not self._closed:
                self._closing = False
            raise
        if self._thread is not None:
            self._thread.join()  # it closes the descriptors, unless it was ended
        self._release()
        return undelivered

    def _enter(self, name: str) -> RLock:
        if self._thread is not None and self._thread.is_current():
            raise ReentrantCall(reasons.reentrant(self.address, name))
        return super()._enter(name)

    # -- waiting ------------------------------------------------------------------------------

    def _follow(self, steps: Steps[R]) -> R:
        """Do the steps, and wait where they ask for it."""
        try:
            wait = next(steps)
            while True:
                wait = steps.send(wait is LET_OTHERS_RUN or self._wait(wait))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _wait(self, wait: Wait) -> bool:
        """Wait until it may be there, or will not come; False once the deadline has passed.

        A caller that sends in bulk writes in the meantime what is due.
        """
        left = None if wait.deadline is None else wait.deadline - monotonic()
        if left is not None and left <= 0:
            return False
        call = _Call()
        lock = self._lock
        ended = False
        try:
            self._wait_or_write(call, wait, left)
            ended = True
        except MpsrError:
            raise
        except BaseException:
            if self._outbox.interrupted_here:
                self._outbox.interrupt()
            raise
        finally:
            if lock is self._lock:
                self._end_wait(call, ended=ended)
        if lock is not self._lock:  # a greenlet that a fork has carried into a child
            error = f"the producer for {self.address} was forked: the parent's call goes on"
            raise Closed(error)
        return True

    def _wait_or_write(self, call: _Call, wait: Wait, left: float | None) -> None:
        with MASK:
            write = self._begin_wait(call, wait, patient=left is None and self._patient)
            if write is not None and not write.waits:
                self._make(write, more=False)
                return
        if write is not None:
            self._make_waiting(write)
        elif call.waiter is not None:
            call.waiter.wait(left)
        elif call.waits:
            self._prepare_rest(left)()
            self._serve()

    def _begin_wait(self, call: _Call, wait: Wait, *, patient: bool) -> Write | None:
        """Prepare to wait, unless there is nothing to wait for; return what to write meanwhile."""
        with self._lock:
            if self._may_go_on(wait):
                return None
            self._take_write_over()
            patient = patient and world() is None
            write = self._outbox.begin_write(monotonic(), patient=True) if patient else None
            if write is None and not self._alone:
                call.waiter = Waiter()
                call.entry = self._waiters.add(
                    wait.until, wait.need, call.waiter.wake, writes=patient
                )
                if self._resting:
                    self._outbox.wakeup.set()
            self._waiting += 1
            call.waits = True
            call.writes = write is not None
            self._waiting_in_write += call.writes
            return write

    def _end_wait(self, call: _Call, *, ended: bool) -> None:
        with MASK, self._lock:
            self._waiting -= call.waits
            self._waiting_in_write -= call.writes
            if call.entry is not None:
                self._waiters.remove(call.entry)
            if not ended:
                self._notify()  # others can use what it was woken for

    def _notify(self) -> bool:
        if super()._notify():
            return True
        # One of those who wait for room, and may wait in a write, is to write.
        outbox = self._outbox
        free = self._patient and not outbox.writing and outbox.may_write_waiting()
        if free and self._waiters.wake_writer():
            outbox.extend_burst(monotonic())
        return False

    def _take_write_over(self, *, closing: bool = False) -> None:
        """End a write that this call has interrupted: it goes on only once this call returns."""
        if self._outbox.interrupted_here:
            if not (closing or self._outbox.resends):
                raise ReentrantCall(reasons.reentrant(self.address, "flush"))
            self._outbox.take_over()


class _Call:
    """A call that waits."""

    __slots__ = ("entry", "waiter", "waits", "writes")

    def __init__(self) -> None:
        self.waits = False
        self.writes = False  # meanwhile
        self.waiter: Waiter | None = None  # what it waits on, if it does not write
        self.entry: waiters.Waiter | None = None  # ... among those that wait
