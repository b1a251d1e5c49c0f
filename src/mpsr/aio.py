"""Receive and send, waiting with anyio: the async fronts, on asyncio, uvloop and trio."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic

import anyio
import anyio.to_thread
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from mpsr import arguments
from mpsr.arguments import OWN, Own
from mpsr.errors import Closed, MpsrError, Undelivered
from mpsr.forking import watch_forks
from mpsr.limits import CLOSE_PATIENCE, MESSAGE_COST
from mpsr.poller import AnyPoller, Poller
from mpsr.producer import ProducerBase
from mpsr.receiver import ReceiverBase
from mpsr.sigmask import MASK
from mpsr.wire.codec import to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from anyio.abc import TaskGroup
    from typing_extensions import Buffer, TypeVar

    from mpsr.batch import Batch
    from mpsr.journaled import Reader
    from mpsr.spool import Spool
    from mpsr.waiters import Until

    T = TypeVar("T", default=bytes)
    S = TypeVar("S", default=Buffer)
else:
    from typing import TypeVar

    T = TypeVar("T")
    S = TypeVar("S")


class AsyncReceiver(ReceiverBase[T]):
    """Receives messages from any number of producers; one task iterates it.

    It is Receiver with its waiting methods awaited. They are cancel safe: a receive that is
    cancelled has taken no message, and like every way of coming back for more it has
    acknowledged what was handed out before.
    """

    async def receive(self, timeout: float | None = None) -> T:
        """Return the next message.

        Args:
            timeout: seconds to wait at most; None waits for ever, 0 not at all.

        Raises:
            TimedOut: none came in time. Nothing is lost by it.
            DecodeError: ``decode=`` failed on this message; the next call goes on behind it.
            Closed: the receiver was closed or stopped.

        """
        self._engine()
        while True:
            for body in self._cursor:
                return self._decoded(body)
            self._open(await self.receive_batch(timeout))

    async def receive_batch(self, timeout: float | None = None) -> Batch[T]:
        """Return the next batch; the time-out and the errors are those of ``receive``.

        What is left of a batch that ``receive`` or a loop has begun comes first, as a batch.
        """
        timeout = arguments.timeout(timeout)
        # The checkpoint comes before the batch is taken, so that cancelling loses nothing.
        await checkpoint()
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            batch = self.try_receive_batch()
            if batch is not None:
                return batch
            engine = self._engine()
            now = monotonic()
            if deadline is not None and now >= deadline:
                raise self._timed_out(timeout or 0)
            waits = [engine.wait_time(now), None if deadline is None else deadline - now]
            with anyio.move_on_after(min((w for w in waits if w is not None), default=None)):
                await anyio.wait_readable(engine.fileno())

    def batches(
        self, *, after: int | None = None, cursor: str | None = None
    ) -> AsyncIterator[Batch[T]]:
        """Iterate over batches until the receiver is stopped.

        Args:
            after: with a journal: go on behind this position (``batch.position``), which the
                handler has committed together with its results; so it handles everything once.
            cursor: with a journal: follow it with a cursor of this name, apart from the
                receiver's own ("main") and from others. Nothing is trimmed that one of them has
                still to pass.

        Raises:
            ConfigurationError: there is no journal, or it does not hold what comes after.

        """
        self._check_reader(after, cursor)
        if after is None and cursor is None:
            return _Batches(self)
        return self._follow(self._reader(after, cursor))

    async def _follow(self, reader: Reader) -> AsyncIterator[Batch[T]]:
        engine = self._engine()
        handled = True
        try:
            while not engine.closed:
                await checkpoint()
                batch = reader.next_batch()
                if batch is not None:
                    handled = False
                    yield batch
                    handled = True
                elif reader.finished:
                    return
                else:
                    await anyio.wait_readable(reader.fileno())
        finally:
            reader.leave(handled=handled)

    def __aiter__(self) -> Self:
        """Iterate over messages until the receiver is stopped."""
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except Closed:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Acknowledge what was handed out, then give the address up; never waits.

        What was not handed out stays with the native producers, for the next receiver.
        """
        self._finish(handled=True)

    async def aclose(self) -> None:
        """Close, as ``close()`` does: the name by which ``contextlib.aclosing`` calls it."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an exception the message or batch in hand stays unacknowledged."""
        self._finish(handled=kind is None)


class _Batches(Generic[T]):
    """Iterates over a receiver's batches; unlike a generator it may be left at any point."""

    def __init__(self, receiver: AsyncReceiver[T]) -> None:
        self._receiver = receiver

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[T]:
        try:
            return await self._receiver.receive_batch()
        except Closed:
            raise StopAsyncIteration from None


class AsyncProducer(ProducerBase[S]):
    """Sends messages to a receiver, from the tasks of one event loop.

    It is Producer with its waiting methods awaited, and it works inside ``async with`` alone,
    because the task that connects, lingers and reads acknowledgements lives there. Sending is
    cancel safe: a ``send`` that is cancelled while it waits for room has not taken the
    message; otherwise it has, and cannot be cancelled. Cancelling ``flush`` loses nothing.
    Cancelling ``close``, or the end of the ``async with`` block, gives up what is not
    delivered; a warning says how much that is. With a spool nothing is given up: what was not
    committed yet is, while the event loop waits.
    """

    _tasks: TaskGroup | None = None
    _running = False  # whether the background task is

    async def send(self, message: S, timeout: float | Own | None = OWN) -> None:
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
            timeout = arguments.timeout(timeout)
        encoded: Any = message if self._encode is None else self._encode(message)
        if not self._deferred:
            if self._append(encoded):
                return
            if self._write_direct(encoded):
                await cancel_shielded_checkpoint()
                return
        now = monotonic()
        body = self._checked(encoded)
        if not self._take(body, now):
            await self._take_all([body], [message], timeout)
        elif self._pump(now):
            await cancel_shielded_checkpoint()

    def try_send(self, message: S) -> bool:
        """Take a message if there is room, else return False; never waits.

        It may be called from a signal handler.
        """
        encoded: Any = message if self._encode is None else self._encode(message)
        if not self._deferred and (self._append(encoded) or self._write_direct(encoded)):
            return True
        now = monotonic()
        taken = self._take(self._checked(encoded), now)
        self._pump(now)
        return taken

    async def send_many(self, messages: Iterable[S], timeout: float | Own | None = OWN) -> None:
        """Take several messages, in order; errors and time-out are those of ``send``.

        A message that cannot be sent at all stops it before the first is taken; SendTimedOut
        and BufferFull carry those that were not taken. Cancelled, it has taken some of them.
        """
        if timeout is not OWN:
            timeout = arguments.timeout(timeout)
        messages, bodies = self._checked_all(messages)
        await self._take_all(bodies, messages, timeout)

    async def flush(self, timeout: float | None = None, *, spooled: bool = False) -> None:
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
        timeout = arguments.timeout(timeout)
        await checkpoint()
        self._check()
        deadline = None if timeout is None else monotonic() + timeout
        until: Until = "spooled" if spooled else "accepted"
        with MASK, self._lock:
            self._take_deferred(monotonic())
            target = self._window.next_seq
            self._window.seal()
            if not self._is_spooled(target):
                self._outbox.wakeup.set()
        self._pump(monotonic())
        while not self._is_safe(until, target):
            self._check(taking=False)
            if not await self._wait(until, target, deadline):
                raise (self._late_spool if spooled else self._late)(timeout or 0)

    async def close(self, timeout: float | None = None) -> None:
        """Deliver what is buffered, say goodbye and close.

        With a spool all is committed first, and it delivers only while there is a receiver: what
        stays in the spool is not lost.

        Args:
            timeout: seconds; None waits as long as the receiver makes progress, and gives up
                after five seconds without.

        Raises:
            Undelivered: it carries what neither the receiver has accepted nor a spool holds.

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

        Is it a TimedOut of this producer, and nobody receives, then the block does not wait again.
        """
        undelivered: Undelivered | None = None
        try:
            undelivered = await self._drain_and_close(self._patience_after(error))
        finally:
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()
                await self._tasks.__aexit__(None, None, None)
        if undelivered is not None:
            if error is None:
                raise undelivered from self._outbox.failure
            error.add_note(str(undelivered))

    def after_fork_in_child(self) -> None:
        """Close: an event loop does not survive a fork; the parent's producer goes on."""
        self._open_lock()
        if not self._closed:
            self._closed = True
            self._outbox.close()
            if self._spool is not None:
                self._give_up_spool()

    # -- inside -----------------------------------------------------------------------------

    def _begin(self) -> None:
        watch_forks(self)

    def _make_poller(self) -> AnyPoller:
        self._poller = Poller()
        return self._poller

    def _check(self, *, taking: bool = True) -> None:
        super()._check(taking=taking)
        if self._tasks is None:
            error = f"the producer for {self.address} is not open: use it inside async with"
            raise Closed(error)

    def _may_deliver(self) -> bool:
        return super()._may_deliver() and (self._spool is None or self._running)

    def _take(self, body: bytes, now: float) -> bool:
        if self._is_mine():
            return self._defer(body)
        with MASK, self._lock:
            self._check()
            self._take_deferred(now)
            taken = self._window.offer(body, now)
            self._append = self._window.packer.append
            self._arm(now)
        return taken

    async def _take_all(
        self, bodies: Sequence[Any], messages: Sequence[S], timeout: float | Own | None
    ) -> None:
        timeout = self._timeout if timeout is OWN else timeout
        deadline = None if timeout is None else monotonic() + timeout
        position = 0
        while position < len(bodies):
            with MASK, self._lock:
                self._check()
                now = monotonic()
                self._take_deferred(now)
                ready = self._spool is None and self._outbox.ready()
                position = self._window.offer_many(bodies, position, now, enough=ready)
                self._arm(now)
            if self._pump(now):
                await cancel_shielded_checkpoint()
            elif position < len(bodies):
                if self._on_full == "raise":
                    raise self._full(messages[position:], None)
                need = len(to_bytes(bodies[position])) + MESSAGE_COST
                if not await self._wait("room", need, deadline):
                    raise self._full(messages[position:], timeout)

    async def _wait(self, until: Until, need: int, deadline: float | None) -> bool:
        """Wait until it may be there, or will not come; False once the deadline has passed."""
        left = None if deadline is None else deadline - monotonic()
        if left is not None and left <= 0:
            return False
        if self._is_safe(until, need) or self._is_hopeless(until):
            return True
        woken = anyio.Event()
        waiter = self._waiters.add(until, need, woken.set)
        try:
            with anyio.move_on_after(left):
                await woken.wait()
        except BaseException:  # cancelled
            self._waiters.remove(waiter)
            self._notify()  # others can use what it was woken for
            raise
        self._waiters.remove(waiter)
        return True

    def _pump(self, now: float) -> bool:
        """Write what is due; tell whether anything was."""
        if self._is_mine():
            return False  # whoever was interrupted writes
        outbox = self._outbox
        wrote = False
        with MASK, self._lock:
            while (write := outbox.begin_write(now)) is not None:
                outbox.end_write(write(), now)
                wrote = True
            self._let_direct(now)
        if self._waiters and wrote:
            outbox.wakeup.set()  # the background task tells them
        return wrote

    async def _run(self) -> None:
        """Connect, read acknowledgements, and write what lingers: the background task."""
        outbox = self._outbox
        try:
            while not self._closed:
                with MASK, self._lock:
                    now = monotonic()
                    outbox.service(now)
                    self._take_deferred(now)
                if self._spool is not None:
                    await self._commit(self._spool)
                    now = monotonic()
                self._pump(now)
                with MASK, self._lock:
                    self._notify()
                    wait = self._wait_time(now)
                    self._wakes_at = inf if wait is None else now + wait
                    self._let_direct(now)
                with anyio.move_on_after(wait):
                    await anyio.wait_readable(self._poller.fileno())
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who send are told
            outbox.fail(self._background_failed(exc))
        finally:
            self._running = False
            self._notify()
            if self._closed:
                outbox.close()
                self._close_spool()

    async def _commit(self, spool: Spool) -> None:
        """Write to the spool what is due."""
        commit = self._begin_commit(spool, monotonic())
        if commit is not None:
            error = None
            try:
                await anyio.to_thread.run_sync(commit)
            except MpsrError as exc:
                error = exc
            self._end_commit(spool, error, monotonic())

    def _commit_rest(self, spool: Spool) -> None:
        """Write to the spool, at once, what a cancelled close has not."""
        self._spool_at = 0.0
        while self._window.unspooled and self._spool_obstacle is None:
            commit = self._begin_commit(spool, inf)
            if commit is None:
                break
            error = None
            try:
                commit()
            except MpsrError as exc:
                error = exc
            self._end_commit(spool, error, monotonic())

    async def _drain_and_close(self, timeout: float | None) -> Undelivered | None:
        if self._closing:
            return None
        self._closing = True
        outbox, window = self._outbox, self._window
        since = monotonic()
        deadline = None if timeout is None else since + timeout
        undelivered: Undelivered | None = None
        drained = False
        try:
            with MASK, self._lock:
                self._take_deferred(since)
                window.seal()
                self._waiters.wake_all()
            self._pump(since)
            while self._running and not self._is_spooled(window.next_seq):
                outbox.wakeup.set()
                until = self._spooling_until(since, deadline)
                if self._spool_failure is not None or not await self._wait("changed", 0, until):
                    break
            accepted_seq = window.accepted_seq
            while (
                self._may_deliver()
                and window.accepted_seq < window.next_seq
                and outbox.failure is None
            ):
                if window.accepted_seq > accepted_seq:
                    accepted_seq, since = window.accepted_seq, monotonic()
                until = since + CLOSE_PATIENCE if deadline is None else deadline
                if not await self._wait("changed", 0, until):
                    break
            outbox.say_bye()
            self._pump(monotonic())
            drained = True
        finally:
            window.seal()
            if self._spool is not None:
                self._commit_rest(self._spool)
            undelivered = self._undelivered()
            self._closed = True
            self._waiters.wake_all()
            if self._running:
                outbox.wakeup.set()  # the background task closes it
            else:
                outbox.close()
                self._close_spool()
            if undelivered is not None and not drained:
                _warn_given_up(undelivered)
        return undelivered


def _warn_given_up(undelivered: Undelivered) -> None:
    import logging  # noqa: PLC0415 - seldom needed, and not light

    logging.getLogger("mpsr").warning("cancelled: %s", undelivered)
