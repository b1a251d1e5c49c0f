"""Receive, waiting with anyio."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic

import anyio

from mpsr import arguments
from mpsr.aio.turns import Turns
from mpsr.aio.waiting import wait_at_most
from mpsr.errors import Closed
from mpsr.front.receiver import ReceiverBase
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from typing_extensions import TypeVar

    from mpsr.batch import Batch
    from mpsr.engine.receiving.follower import Follower

    T = TypeVar("T", default=bytes)
else:
    from typing import TypeVar

    T = TypeVar("T")


class AsyncReceiver(ReceiverBase[T]):
    """Receives messages from any number of producers; one task iterates it.

    It is Receiver with its waiting methods awaited. They are cancel safe: a receive that is
    cancelled has taken no message, and like every way of coming back for more it has
    acknowledged what was handed out before.
    """

    @cached_property
    def _turns(self) -> Turns:
        return Turns()

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
        """Return the next batch.

        What is left of a batch that ``receive`` or a loop has begun comes first, as a batch.

        Args:
            timeout: seconds to wait at most; None waits for ever, 0 not at all.

        Raises:
            TimedOut: none came in time. Nothing is lost by it.
            Closed: the receiver was closed or stopped.

        """
        timeout = arguments.timeout(timeout)
        # It may suspend before the batch is taken, not after, so that cancelling loses nothing.
        await self._turns.begin()
        since = monotonic()
        while (batch := self.try_receive_batch()) is None:
            wait = self._wait_time(timeout, since)
            await wait_at_most(wait, partial(anyio.wait_readable, self._engine().fileno()))
        return batch

    def batches(
        self, *, after: int | None = None, cursor: str | None = None
    ) -> AsyncIterator[Batch[T]]:
        """Iterate over batches until the receiver is stopped.

        Args:
            after: with a journal: go on behind this position (``batch.position``), which the
                handler has committed together with its results; so it handles everything once.
                The cursor is set to it, even back.
            cursor: with a journal: follow it with a cursor of this name, apart from the
                receiver's own ("main") and from others. Nothing is trimmed that one of them has
                still to pass.

        Raises:
            ConfigurationError: there is no journal, or it does not hold what comes after.

        """
        self._check_follower(after, cursor)
        if after is None and cursor is None:
            return _Batches(self)
        return self._follow(self._follower(after, cursor))

    async def _follow(self, follower: Follower) -> AsyncIterator[Batch[T]]:
        engine = self._engine()
        handled = True
        try:
            while not engine.closed:
                await self._turns.begin()
                batch = follower.next_batch()
                if batch is not None:
                    handled = False
                    yield batch
                    handled = True
                elif follower.finished:
                    return
                else:
                    await anyio.wait_readable(follower.fileno())
        finally:
            follower.leave(handled=handled)

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
