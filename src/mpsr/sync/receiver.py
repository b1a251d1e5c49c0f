"""Receive in the caller's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mpsr import arguments
from mpsr.errors import Closed
from mpsr.front.receiver import ReceiverBase
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from typing_extensions import TypeVar

    from mpsr.batch import Batch
    from mpsr.engine.receiving.follower import Follower

    T = TypeVar("T", default=bytes)
else:
    from typing import TypeVar

    T = TypeVar("T")

_LONGEST_WAIT: Final = 1e6  # seconds: below what poll(2) can wait, a C int of milliseconds


class Receiver(ReceiverBase[T]):
    """Receives messages from any number of producers; one thread iterates it.

    Coming back for the next batch, or for the message behind the last of a batch, acknowledges
    the one before: what a handler had not finished when it crashed is sent again to the next
    receiver. While the caller handles a batch nothing is read, and producers feel it.
    """

    def receive(self, timeout: float | None = None) -> T:
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
            self._open(self.receive_batch(timeout))

    def receive_batch(self, timeout: float | None = None) -> Batch[T]:
        """Return the next batch.

        What is left of a batch that ``receive`` or a loop has begun comes first, as a batch.

        Args:
            timeout: seconds to wait at most; None waits for ever, 0 not at all.

        Raises:
            TimedOut: none came in time. Nothing is lost by it.
            Closed: the receiver was closed or stopped.

        """
        timeout = arguments.timeout(timeout)
        since = monotonic()
        while (batch := self.try_receive_batch()) is None:
            wait = self._wait_time(timeout, since)
            self._engine().wait(wait if wait is None else min(wait, _LONGEST_WAIT))
        return batch

    def batches(self, *, after: int | None = None, cursor: str | None = None) -> Iterator[Batch[T]]:
        """Iterate over batches until the receiver is stopped.

        Args:
            after: with a journal: go on behind this position (``batch.position``), which the
                handler has committed together with its results; so it handles everything once.
                The cursor is set to it, even back.
            cursor: with a journal: follow it with a cursor of this name, apart from the
                receiver's own ("main") and from others, in any thread. Nothing is trimmed that
                one of them has still to pass.

        Raises:
            ConfigurationError: there is no journal, or it does not hold what comes after.

        """
        self._check_follower(after, cursor)
        return self._batches(after, cursor)

    def _batches(self, after: int | None, cursor: str | None) -> Iterator[Batch[T]]:
        if after is not None or cursor is not None:
            yield from self._follow(self._follower(after, cursor))
            return
        try:
            while True:
                yield self.receive_batch()
        except Closed:
            return

    def _follow(self, follower: Follower) -> Iterator[Batch[T]]:
        engine = self._engine()
        handled = True
        try:
            while not engine.closed:
                batch = follower.next_batch()
                if batch is not None:
                    handled = False
                    yield batch
                    handled = True
                elif follower.finished:
                    return
                else:
                    follower.wait(None)
        finally:
            follower.leave(handled=handled)

    def __iter__(self) -> Iterator[T]:
        """Iterate over messages until the receiver is stopped.

        All iterators of a receiver stand where the receiver does: another one, ``next()`` and
        ``receive()`` go on behind the message that any of them gave last.
        """
        while True:
            cursor = self._cursor
            if self._decode is None:
                yield from cursor  # type: ignore[misc]  # bytes where there is no decode=
            else:
                for body in cursor:
                    yield self._decoded(body)
            if cursor is self._cursor:  # nobody else has gone on
                try:
                    self._open(self.receive_batch())
                except Closed:
                    return

    def __next__(self) -> T:
        """Return the next message, as ``receive()`` does; StopIteration once there is none."""
        try:
            return self.receive()
        except Closed:
            raise StopIteration from None

    def close(self) -> None:
        """Acknowledge what was handed out, then give the address up.

        Messages that were not handed out stay with the native producers, for the next receiver.
        If an exception such as KeyboardInterrupt ends the call, another call does the remainder.
        """
        self._finish(handled=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an exception the message or batch in hand stays unacknowledged."""
        self._finish(handled=kind is None)


def arrives(receiver: Receiver[Any]) -> bool:
    """Return whether a message has arrived, as ``ready()`` does, of new producers, too.

    A producer sends its first message once the receiver has welcomed it, so that this waits for
    producers which have connected since the last call; see ``FIRST_MESSAGE``.
    """
    while not receiver.ready():
        engine = receiver._engine()  # noqa: SLF001 - its own module
        seconds = engine.newcomers_time()
        if not seconds:
            return False
        engine.wait(seconds)
    return True
