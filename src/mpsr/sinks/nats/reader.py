"""Read what a stream holds, message by message, whoever published it."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from mpsr.errors import SinkError
from mpsr.sinks.nats.connection import NO_STREAM, Connection, Refused
from mpsr.sinks.nats.layout import Stored, unpack
from mpsr.sinks.nats.thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

    from mpsr.sinks.nats.address import Target

_ANSWER_TIMEOUT: Final = 10.0  # seconds without a message that is known to be there
_FIRST_TIMEOUT: Final = 2.0  # seconds until there is none that is wanted
_MOST: Final = 1000  # messages that are given at once


class StreamMessage(NamedTuple):
    """A message of a stream."""

    seq: int
    """Its number in the stream."""
    subject: str
    stored: Stored


class StreamReader:
    """Reads a stream's messages of some subjects.

    Raises SinkError where the servers refuse or lose it; ConfigurationError, for what makes no
    sense, has come before.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._subjects = target.subject or ">"
        self._connection = Connection(target)
        self._thread = LoopThread(f"mpsr log {target}")
        self._first = 0
        self._subscription: JetStreamContext.PushSubscription | None = None

    def __enter__(self) -> Self:
        try:
            self._thread.call(self._open())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._thread.call(self._connection.close())
        self._thread.close()

    def present(self, since: int | None = None) -> Iterator[list[StreamMessage]]:
        """Give what there is, oldest first; ``since`` is in microseconds since 1970."""
        last = self._last()
        self._thread.call(self._subscribe(self._first, since))
        if last:
            yield from self._until(last)

    def after(self, seq: int) -> Iterator[list[StreamMessage]]:
        """Give what there is behind a message, oldest first."""
        last = self._last()
        self._thread.call(self._subscribe(seq + 1, None))
        if last > seq:
            yield from self._until(last)

    def newest(self, count: int, wanted: Callable[[StreamMessage], bool]) -> list[StreamMessage]:
        """Return the newest that are wanted, oldest first; of packed messages each counts."""
        last, window = self._last(), max(1, count)
        found: deque[StreamMessage] = deque()
        while last and count:
            begin = max(self._first, last + 1 - window)
            self._thread.call(self._subscribe(begin, None))
            found.clear()
            held = 0
            for message in (each for some in self._until(last) for each in some):
                if not wanted(message):
                    continue
                found.append(message)
                held += _lines(message)
                while held - _lines(found[0]) >= count:
                    held -= _lines(found.popleft())
            if held >= count or begin <= self._first:
                if held > count:
                    found[0] = _without_first(found[0], held - count)
                break
            window *= 8
        if not (last and count):
            self._thread.call(self._subscribe(last + 1, None))
        return list(found)

    def coming(self, wait: float) -> list[StreamMessage]:
        """Return what has come behind that; none if nothing comes within so many seconds."""
        return self._thread.call(self._next(wait))

    # -- in the thread --------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._connection.open()
        try:
            info = await self._connection.stream_info(f"STREAM.INFO.{self._target.stream}")
        except Refused as exc:
            if exc.code == NO_STREAM:
                error = f"{self._target} has no stream {self._target.stream}"
                raise SinkError(error) from exc
            raise
        self._first = max(1, info["state"]["first_seq"])

    def _last(self) -> int:
        found = self._thread.call(self._connection.last_message(self._subjects))
        return 0 if found is None else found["seq"]

    async def _subscribe(self, begin: int, since: int | None) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(1, begin),
            ack_policy=AckPolicy.NONE,
        )
        if since is not None:
            config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_TIME, None
            config.opt_start_time = datetime.fromtimestamp(since / 1_000_000, UTC)
        domain = self._target.options.get("domain")
        context = self._connection.client.jetstream(domain=domain)
        try:
            self._subscription = await context.subscribe(
                self._subjects, stream=self._target.stream, config=config, ordered_consumer=True
            )
        except (nats.errors.Error, OSError) as exc:
            raise SinkError(f"{self._target} gives nothing of the stream: {exc}") from exc

    def _until(self, last: int) -> Iterator[list[StreamMessage]]:
        seq = 0
        while seq < last:
            some = self._thread.call(self._next(_ANSWER_TIMEOUT if seq else _FIRST_TIMEOUT))
            if not some:
                if seq:
                    error = f"{self._target}: no message comes any more; the last had number {seq}"
                    raise SinkError(error)
                return  # none is so new
            seq = some[-1].seq
            yield some

    async def _next(self, wait: float) -> list[StreamMessage]:
        subscription = self._subscription
        if subscription is None:
            return []
        try:
            first = await subscription.next_msg(wait)
            more = min(subscription.pending_msgs, _MOST)
            rest = [await subscription.next_msg(wait) for _ in range(more)]
        except (TimeoutError, nats.errors.TimeoutError):
            if self._connection.client.is_closed:
                raise SinkError(f"{self._target}: the connection was lost") from None
            return []
        except (nats.errors.Error, OSError) as exc:
            raise SinkError(f"{self._target}: the connection was lost") from exc
        return list(map(_message, [first, *rest]))


def _message(message: Msg) -> StreamMessage:
    metadata, stored = message.metadata, unpack(message.headers, message.data)
    if not stored.received_at:
        stored = stored._replace(received_at=int(metadata.timestamp.timestamp() * 1_000_000) * 1000)
    return StreamMessage(metadata.sequence.stream, message.subject, stored)


def _lines(message: StreamMessage) -> int:
    return len(message.stored.bodies) or 1


def _without_first(message: StreamMessage, count: int) -> StreamMessage:
    stored = message.stored
    rest = stored._replace(
        bodies=list(islice(stored.bodies, count, None)), first_seq=stored.first_seq + count, lost=0
    )
    return message._replace(stored=rest)
