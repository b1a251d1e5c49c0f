"""Give producers and receivers the methods of ``multiprocessing.Queue``."""

from __future__ import annotations

import sys
import threading
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from mpsr.errors import BufferFull, Closed, DecodeError, SendTimedOut, TimedOut
from mpsr.front.receiver import has_more
from mpsr.limits import BUFFER, LONGEST_TIMEOUT, SHORT_MESSAGE
from mpsr.sync.background import end_in_background
from mpsr.sync.producer import Producer
from mpsr.sync.receiver import arrives
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from logging import LogRecord
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from mpsr.engine.sending.window import OnFull
    from mpsr.sync.receiver import Receiver

T = TypeVar("T")


@overload
def queue(
    address: str | os.PathLike[str],
    *,
    encode: None = None,
    label: str | None = None,
    on_full: OnFull = "block",
    buffer: int = BUFFER,
    exit_timeout: float | None = None,
) -> QueueWriter[Buffer | LogRecord]: ...
@overload
def queue(
    address: str | os.PathLike[str],
    *,
    encode: Callable[[T], Buffer],
    label: str | None = None,
    on_full: OnFull = "block",
    buffer: int = BUFFER,
    exit_timeout: float | None = None,
) -> QueueWriter[T]: ...
def queue(
    address: str | os.PathLike[str],
    *,
    encode: Callable[[Any], Buffer] | None = None,
    label: str | None = None,
    on_full: OnFull = "block",
    buffer: int = BUFFER,
    exit_timeout: float | None = None,
) -> QueueWriter[Any]:
    """Return the writing half of a queue: a ``QueueWriter`` with a producer of its own.

    Where another argument of ``Producer`` is needed, write ``QueueWriter(Producer(...))``.

    Args:
        address: str or path-like, where the receiver is.
        encode: a function of one object that returns bytes-like, such as ``msgspec.json.encode``;
            default: objects are bytes-like, or log records, which are sent as ``mpsr.logging``
            does; any other is a TypeError. To travel to a spawned process it must be a function
            of a module. Nothing is pickled.
        label: str, a name for the receiver to show; default: the program's own name.
        on_full: what a full buffer does: ``"block"`` (default; ``put`` waits, and ``put_nowait``
            raises ``queue.Full``), ``"raise"`` (``put`` does, too), ``"drop_newest"`` or
            ``"drop_oldest"`` (never Full: what is dropped is counted, and told the receiver).
        buffer: int, bytes that may wait in this process to be accepted (default 32 MiB). It takes
            the place of ``maxsize``, which counts objects of all processes.
        exit_timeout: float, seconds that the end of the program waits until all is accepted; None
            (default) waits as long as the receiver makes progress, and five seconds without.

    Raises:
        AddressError: the address makes no sense. That nobody listens there is no error.
        ConfigurationError: an argument makes no sense; WrongType if its type is wrong.

    """
    return QueueWriter(
        Producer(
            address,
            encode=encode or plain,
            label=label,
            on_full=on_full,
            buffer=buffer,
            exit_timeout=exit_timeout,
        )
    )


def plain(obj: Any) -> Buffer:  # noqa: ANN401 - what is checked
    """Return what ``queue`` sends of an object without ``encode=``.

    That is bytes-like objects as they are, and log records as ``mpsr.logging`` writes them.

    Raises:
        TypeError: it is something else.

    """
    if isinstance(obj, bytes):
        return obj
    logging = sys.modules.get("logging")  # else there are no records
    if logging is not None and isinstance(obj, logging.LogRecord):
        from mpsr.logging.encoding import encode  # noqa: PLC0415 - not for all

        return encode(obj, obj.getMessage())
    try:
        return memoryview(obj)
    except TypeError:
        error = (
            f"put() takes bytes-like objects, not {type(obj).__name__}: name a serialiser, as in "
            "mpsr.queue(address, encode=msgspec.json.encode)"
        )
        raise TypeError(error) from None


class QueueWriter(Generic[T]):
    """The writing half of ``multiprocessing.Queue``, over a producer; thread-safe and fork-safe.

    It travels to other processes as an argument, as its producer does, and may be inherited by
    ``fork``; each process then has an identity, a connection and a buffer of its own. Methods have
    the names, arguments and errors of ``multiprocessing.Queue``. It differs in this: an object
    that cannot be encoded, or is too large, raises in ``put``, and not in a background thread;
    and what no receiver accepts is told, where the queue would wait for ever.
    """

    def __init__(self, producer: Producer[T]) -> None:
        """Put through a producer.

        Args:
            producer: a Producer, which the writer closes from now on.

        """
        self.producer = producer
        self._closed = False
        self._joins = True

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002 - as in the standard library
        """Take an object to be sent, waiting for room if need be.

        Args:
            obj: what the producer's ``encode=`` takes. It is encoded before ``put`` returns.
            block: bool, whether to wait for room.
            timeout: seconds to wait at most; None waits for ever. Not looked at without ``block``.

        Raises:
            queue.Full: there is no room in the buffer, or was none in time.
            ValueError: the queue was closed; MessageError, a ValueError: the message is too large.
            Rejected: the receiver has refused this producer for good.

        """
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if not block:
            if not self.producer.try_send(obj):
                raise Full
            return
        try:
            self.producer.send(obj, None if timeout is None else max(0, timeout))
        except (SendTimedOut, BufferFull) as exc:
            raise Full(str(exc)) from exc

    def put_nowait(self, obj: T) -> None:
        """Take an object to be sent if there is room; the errors are those of ``put``.

        Args:
            obj: what the producer's ``encode=`` takes.

        """
        self.put(obj, block=False)

    def full(self) -> bool:
        """Return whether less than 4 KiB of the buffer is free."""
        return self.producer.stats().buffered_bytes + SHORT_MESSAGE > self.producer.buffer

    def close(self) -> None:
        """Take no more objects from this process; what was put is delivered in the background.

        The connection is released after that. It never waits. ``join_thread`` does, and so does
        the end of the program.
        """
        self._closed = True
        end_in_background(self.producer)

    def join_thread(self) -> None:
        """Wait until all that was put is accepted, and release the connection.

        It may only be called behind ``close``. It waits as long as the receiver makes progress,
        and gives up after five seconds without; for another time call ``producer.close(timeout)``.

        Raises:
            Undelivered: it carries what the receiver has not accepted.
            AssertionError: the queue was not closed.

        """
        if not self._closed:
            raise AssertionError(f"Queue {self!r} not closed")
        if self._joins:
            self.producer.close()

    def cancel_join_thread(self) -> None:
        """Let neither ``join_thread`` nor the end of the program wait.

        What is not accepted by the end is lost, and its number is told on stderr.
        """
        self._joins = False
        self.producer.exit_timeout = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the producer does."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed, and cannot be pickled")
        return type(self), (self.producer,)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, and wait as ``join_thread`` does, unless ``cancel_join_thread`` was called."""
        self.close()
        if self._joins:
            self.producer.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.producer.address}{' closed' * self._closed}>"


class QueueReader(Generic[T]):
    """The reading half of ``multiprocessing.Queue``, over a receiver, for any number of threads.

    It stays in the process that made the receiver. As with ``multiprocessing.Queue`` an object is
    gone once it was got: ``get`` acknowledges a batch with the last object of it. If the process
    is killed, the next receiver gets again what was not acknowledged, which may be objects that
    were got. Who must not lose the object in hand iterates over the receiver instead.
    """

    def __init__(self, receiver: Receiver[T]) -> None:
        """Get from a receiver.

        Args:
            receiver: a Receiver, which the reader closes from now on.

        """
        self.receiver = receiver
        # Callers wait for it: where it was monkey-patched, they let other greenlets run.
        self._lock = threading.Lock()  # noqa: TID251 - see above
        self._closed = False

    def get(self, block: bool = True, timeout: float | None = None) -> T:  # noqa: FBT001, FBT002 - as in the standard library
        """Return the next object.

        Args:
            block: bool, whether to wait for one.
            timeout: seconds to wait at most; None waits for ever. Not looked at without ``block``.
                A call that does not wait still gives new processes 0.25 s, as ``empty`` does.

        Raises:
            queue.Empty: there is none, or none came in time.
            ValueError: the queue was closed, or its receiver stopped.
            DecodeError: the receiver's ``decode=`` failed; the next call goes on behind it.

        """
        if not block:
            timeout = 0.0
        elif timeout is not None:
            timeout = min(max(0.0, timeout), LONGEST_TIMEOUT)
        since = monotonic()
        self._enter(timeout)
        try:
            if timeout is not None:
                timeout = max(0.0, since + timeout - monotonic())
            try:
                obj = self.receiver.receive(timeout)
            except TimedOut:
                if timeout or not arrives(self.receiver):
                    raise
                obj = self.receiver.receive(0)
            self._acknowledge_last()
            return obj
        except TimedOut:
            raise Empty from None
        except DecodeError:
            self._acknowledge_last()
            raise
        except Closed as exc:
            raise self._ended() from exc
        finally:
            self._leave()

    def _acknowledge_last(self) -> None:
        """Acknowledge the batch after its last object: writers wait for that when they end."""
        if not has_more(self.receiver):
            self.receiver.acknowledge()

    def get_nowait(self) -> T:
        """Return the next object if there is one; the errors are those of ``get``."""
        return self.get(block=False)

    def empty(self) -> bool:
        """Return whether no object has arrived; if it returns False, the next ``get`` has one.

        A process sends its first object when the reader has answered its connection, so that this
        may wait up to 0.25 s for processes that have connected since the last call. It returns
        True while another thread is in ``get``. The errors are those of ``get``.
        """
        try:
            self._enter(0)
        except Empty:
            return True
        try:
            return not arrives(self.receiver)
        except Closed as exc:
            raise self._ended() from exc
        finally:
            self._leave()

    def qsize(self) -> int:
        """Raise NotImplementedError, as on macOS: what producers still hold is not known here."""
        raise NotImplementedError

    def close(self) -> None:
        """Acknowledge what was got, then give the address up.

        What was not got stays with its producers, for the next receiver. A thread that waits in
        ``get`` is woken, and gets a ValueError. Safe in a signal handler and in any thread.
        """
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an exception what was got last stays unacknowledged if more follows it."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self.receiver.__exit__(kind, error, traceback)
            finally:
                self._lock.release()
        else:  # a thread is at it, and closes it when it leaves
            self.receiver.stop()

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.receiver.addresses))
        return f"<{type(self).__name__} at {where}{' closed' * self._closed}>"

    def _enter(self, timeout: float | None) -> None:
        """Have the receiver for this thread alone; raise Empty if others keep it so long."""
        if self._closed:
            raise self._ended()
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise Empty
        if self._closed:  # meanwhile
            self._leave()
            raise self._ended()

    def _leave(self) -> None:
        self._lock.release()
        if self._closed:
            self.close()

    def _ended(self) -> ValueError:
        return ValueError(f"Queue {self!r} is closed, or its receiver was stopped")
