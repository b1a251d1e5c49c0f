"""Send from the tasks of one event loop."""

from __future__ import annotations

import os
import warnings
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.lowlevel import cancel_shielded_checkpoint

from mpsr import arguments
from mpsr.aio.turns import Turns
from mpsr.aio.waiting import wait_at_most
from mpsr.arguments import OWN, Own
from mpsr.engine.sending.batches import FileMessage
from mpsr.engine.sending.outbox import Outbox
from mpsr.errors import Closed, Undelivered
from mpsr.front import reasons
from mpsr.front.producer import ProducerBase
from mpsr.front.steps import LET_OTHERS_RUN, R, Steps, Wait
from mpsr.system.clock import monotonic
from mpsr.system.files import keep
from mpsr.system.forks import watch_forks
from mpsr.system.poller import READ, Poller
from mpsr.system.sigmask import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from anyio.abc import TaskGroup
    from typing_extensions import Buffer, TypeVar

    from mpsr.system.files import File

    T = TypeVar("T", default=Buffer)
else:
    from typing import TypeVar

    T = TypeVar("T")


class AsyncProducer(ProducerBase[T]):
    """Sends messages to a receiver, from the tasks of one event loop.

    It is Producer with its waiting methods awaited, and it works inside ``async with`` alone,
    because the task that connects, lingers and reads acknowledgements lives there. Sending is
    cancel safe: a ``send`` that is cancelled while it waits for room has not taken the
    message; otherwise it has, and cannot be cancelled. Cancelling ``flush`` loses nothing.
    Cancelling ``close``, or the end of the ``async with`` block, gives up what is not
    delivered; a warning says how much that is. With a spool nothing is given up: what was not
    committed yet is, while the event loop waits.

    A producer that is discarded without ``close()`` emits a ResourceWarning. It closes at once, and
    a logged warning says how many messages were not delivered.
    """

    _tasks: TaskGroup | None = None
    _running = False  # whether the background task is
    _released = True  # whether it has no descriptors

    async def send(self, message: T, timeout: float | Own | None = OWN) -> None:
        """Take a message; it is sent at once on an idle producer, else with the burst.

        Args:
            message: bytes-like, or what ``encode=`` takes.
            timeout: seconds to wait for room; None waits for ever. Left out, it is the producer's
                own ``timeout``.

        Raises:
            SendTimedOut: with ``on_full="block"``: there was no room in time.
            BufferFull: with ``on_full="raise"``: there is no room.
            MessageError: the message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed, or its ``async with`` block not entered.

        """
        if timeout is not OWN:
            arguments.timeout(timeout)
        encoded: Any = message if self._encode is None else self._encode(message)
        if not self._deferred and self._append(encoded):
            return
        await self._turns.begin(cancellable=False)
        if not self._deferred and self._write_direct(encoded):
            return
        body = self._checked(encoded)
        await self._follow(self._send_steps([body], [message], self._timeout_of(timeout)))

    async def send_many(self, messages: Iterable[T], timeout: float | Own | None = OWN) -> None:
        """Take several messages, in order.

        A call that is cancelled has taken some of them.

        Args:
            messages: iterable of bytes-like, or of what ``encode=`` takes. One that cannot be sent
                at all is an error before the first is taken.
            timeout: seconds to wait for room for all of them; None waits for ever. Left out, it is
                the producer's own ``timeout``.

        Raises:
            SendTimedOut: with ``on_full="block"``: there was no room in time; it carries those
                that were not taken.
            BufferFull: with ``on_full="raise"``: there is no room;
                it carries those that were not taken.
            MessageError: a message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed, or its ``async with`` block not entered.

        """
        timeout = self._timeout_of(timeout)
        messages, bodies = self._checked_all(messages)
        await self._turns.begin(cancellable=False)
        await self._follow(self._send_steps(bodies, messages, timeout))

    async def send_file(
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
                flushed; or the path of a file, which is opened for reading, in a
                thread.
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
            Closed: the producer was closed, or its ``async with`` block not entered.
            ReentrantCall: a signal handler called it in the middle of another call.

        """
        timeout = self._timeout_of(timeout)
        body = self._checked_beside(file, message)
        if isinstance(file, str | bytes | os.PathLike):
            kept = await anyio.to_thread.run_sync(keep, file)
        else:
            await self._turns.begin(cancellable=False)
            kept = keep(file)
        await self._follow(self._file_steps(FileMessage(body, kept), timeout))

    async def flush(self, timeout: float | None = None, *, spooled: bool = False) -> None:
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

        """
        self._check_spooled(spooled=spooled)
        timeout = arguments.timeout(timeout)
        await self._turns.begin()
        await self._follow(self._flush_steps(timeout, spooled=spooled))

    async def close(self, timeout: float | None = None) -> None:
        """Deliver what is buffered, say goodbye and close.

        With a spool all is committed first, and it delivers only while there is a receiver: what
        stays in the spool is not lost.

        Args:
            timeout: seconds; None waits as long as the receiver makes progress, and gives up
                after five seconds without.

        Raises:
            Undelivered: it carries what neither the receiver has accepted nor a spool holds, and
                the dropped messages that no ``flush`` has reported.

        """
        undelivered = await self._drain_and_close(arguments.timeout(timeout))
        if undelivered is not None:
            raise undelivered from self._outbox.failure

    async def aclose(self) -> None:
        """Close, as ``close()`` does: the name by which ``contextlib.aclosing`` calls it."""
        await self.close()

    async def __aenter__(self) -> Self:
        super()._check()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._running = True
        self._tasks.start_soon(self._run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; an exception on its way out is not hidden behind Undelivered, but notes it.

        If it is a TimedOut of this producer, and nobody receives, the block does not wait again.
        """
        undelivered: Undelivered | None = None
        try:
            undelivered = await self._drain_and_close(self._end_timeout(error))
        finally:
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()
                await self._tasks.__aexit__(None, None, None)
        if undelivered is not None:
            if error is None:
                raise undelivered from self._outbox.failure
            error.add_note(str(undelivered))

    # -- opening and closing ----------------------------------------------------------------

    def _begin(self) -> None:
        watch_forks(self._after_fork_in_child)

    def _use(self, outbox: Outbox) -> None:
        super()._use(outbox)
        self._turns = Turns()
        try:
            self._poller = Poller()
        except OSError:
            outbox.close()
            raise
        self._released = False
        self._watched: tuple[int, tuple[int, int] | None] = (-1, None)
        self._wakeup_fileno = -1

    def _check(self, *, taking: bool = True) -> None:
        super()._check(taking=taking)
        if self._tasks is None:
            error = f"the producer for {self.address} is not open: use it inside async with"
            raise Closed(error)

    async def _drain_and_close(self, timeout: float | None) -> Undelivered | None:
        """Close as ``close`` does, but return what is left."""
        if self._closing:
            return None
        since = monotonic()
        drained = False
        undelivered: Undelivered | None = None
        try:
            with MASK, self._lock:
                self._begin_close()
            await self._follow(self._drain_steps(timeout, since))
            drained = True
        finally:
            self._closing = True
            self._commit_rest()
            with MASK, self._lock:
                undelivered = self._undelivered()
                self._closed = True
                self._waiters.wake_all()
            if self._running:
                self._outbox.wakeup.set()  # the background task closes it
            else:
                self._release()
            if undelivered is not None and not drained:
                _warn_given_up("cancelled", undelivered)
        return undelivered

    def _has_background(self) -> bool:
        return self._running

    def _commit_rest(self) -> None:
        """Write to the spool, at once, what a cancelled close has not."""
        while (commit := self._begin_commit(inf)) is not None:
            self._end_commit(commit())
            if self._commits is None or self._commits.obstacle is not None:
                break

    def _release(self) -> None:
        """Close the descriptors and the spool."""
        self._released = True
        self._outbox.close()
        self._poller.close()
        if self._commits is not None:
            self._commits.close()

    def _after_fork_in_child(self) -> None:
        """Close: an event loop does not survive a fork; the parent's producer goes on."""
        self._open_lock()
        if not self._closed:
            self._closed = self._released = True
            self._outbox.close()
            self._poller.close()
            if self._spool is not None:
                self._give_up_spool()

    def __del__(self) -> None:
        if self._released:
            return
        text = f"unclosed {self!r}"
        closed, undelivered = self._closed, None if self._closed else self._undelivered()
        self._closed = True
        self._release()
        if undelivered is not None:
            _warn_given_up("discarded", undelivered)
        if not closed:
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    # -- waiting ----------------------------------------------------------------------------

    async def _follow(self, steps: Steps[R]) -> R:
        """Do the steps, and wait where they ask for it."""
        try:
            wait = next(steps)
            while True:
                if wait is LET_OTHERS_RUN:
                    await cancel_shielded_checkpoint()
                    wait = next(steps)
                else:
                    wait = steps.send(await self._wait(wait))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _wait(self, wait: Wait) -> bool:
        """Wait until it may be there, or will not come; False once the deadline has passed."""
        left = None if wait.deadline is None else wait.deadline - monotonic()
        if left is not None and left <= 0:
            return False
        with MASK, self._lock:
            if self._may_go_on(wait):
                return True
            woken = anyio.Event()
            waiter = self._waiters.add(wait.until, wait.need, woken.set)
        try:
            await wait_at_most(left, woken.wait)
        except BaseException:  # cancelled
            self._waiters.remove(waiter)
            self._notify()  # others can use what it was woken for
            raise
        self._waiters.remove(waiter)
        return True

    def _notify(self) -> bool:
        """Leave it to the background task to wake others: a signal handler may call this."""
        if self._waiters:
            self._outbox.wakeup.set()
        return False

    # -- the background task ----------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, read acknowledgements, and write what lingers."""
        outbox = self._outbox
        try:
            while not self._closed:
                with MASK, self._lock:
                    now = monotonic()
                    outbox.service(now)
                    self._deferred.move_to(self._window, now)
                commit = self._begin_commit(monotonic())
                if commit is not None:
                    self._end_commit(await anyio.to_thread.run_sync(commit))
                self._write_due()
                with MASK, self._lock:
                    now = monotonic()
                    super()._notify()
                    wait = self._wait_time(now)
                    self._wakes_at = inf if wait is None else now + wait
                    self._allow_direct(now)
                    self._watch()
                await wait_at_most(wait, partial(anyio.wait_readable, self._poller.fileno()))
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who send get it
            outbox.fail(reasons.failed(self.address, exc))
        finally:
            self._running = False
            super()._notify()
            if self._closed:
                self._release()

    def _watch(self) -> None:
        """Have the poller wait for what the outbox awaits now."""
        outbox = self._outbox
        watched = outbox.generation, outbox.awaited
        if watched == self._watched:
            return
        generation, before = self._watched
        if before is not None:
            self._poller.unregister(before[0])
        if generation != outbox.generation:
            if generation >= 0:
                self._poller.unregister(self._wakeup_fileno)
            self._wakeup_fileno = outbox.wakeup.fileno()
            self._poller.register(self._wakeup_fileno, READ, None)
        if outbox.awaited is not None:
            self._poller.register(*outbox.awaited, None)
        self._watched = watched


def _warn_given_up(why: str, undelivered: Undelivered) -> None:
    import logging  # noqa: PLC0415 - seldom needed, and not light

    logging.getLogger("mpsr").warning("%s: %s", why, undelivered)
