"""Receive, waiting with select: the sync front of the inbox."""

from __future__ import annotations

import warnings
from operator import length_hint
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, NoReturn

from mpsr import arguments
from mpsr.batch import decode_body
from mpsr.endpoint import DEFAULT_MODE, SOCKET_TYPES, claim, parse_address
from mpsr.errors import AddressError, Closed, ConfigurationError, TimedOut
from mpsr.forking import watch_forks
from mpsr.inbox import Inbox
from mpsr.limits import (
    BACKLOG,
    JOURNAL_LIMIT,
    MAX_BACKLOG,
    MAX_CONNECTIONS,
    MAX_MESSAGE,
)
from mpsr.wire.framing import FRAMINGS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from typing_extensions import TypeVar

    from mpsr.batch import Batch
    from mpsr.endpoint import SocketType
    from mpsr.inbox import ReceiverStats
    from mpsr.journaled import JournaledInbox, Reader
    from mpsr.wire.framing import Framing

    T = TypeVar("T", default=bytes)
else:
    from typing import TypeVar

    T = TypeVar("T")

_LONGEST_WAIT: Final = 1e6  # seconds: below what poll(2) can wait, a C int of milliseconds
_FRAMINGS = ("auto", *FRAMINGS)


class ReceiverBase(Generic[T]):
    """What the sync and the async receiver share: everything but waiting.

    Args:
        address: a path, ``@name`` (Linux's abstract namespace) or ``fd:N``; ``unix:`` before it
            is accepted.
        type: ``"stream"`` or ``"dgram"``.
        framing: how bytes become messages: ``"auto"`` (by what each connection begins with),
            ``"native"``, ``"lines"``, ``"null"``, ``"length"``, ``"length-le"``,
            ``"octet-counted"`` or ``"stream"``. Datagrams have none: each is a message.
        mode: the permissions of a path, such as ``0o660``; its owner may read and write it. The
            default, ``0o600``, lets only programs of the receiver's own user (and root) send.
            Programs that run as another user, as nginx, HAProxy and syslog do, get EACCES, and the
            receiver does not hear of it: for them set ``mode=0o660`` and their ``group=``.
        group: a group's name or id for the path.
        decode: applied to every message; without it messages are bytes.
        max_message: bytes; a connection that sends more in one message is closed, with a word.
        max_connections: more than so many wait in the backlog.
        backlog: connections that may wait to be accepted.
        journal: a directory; what comes is written there, synced, and only then acknowledged. It
            is handed out from there, and what was not is kept for the next receiver.
        journal_limit: bytes that the directory may take on the disk; producers wait while it is
            full. A message is at most a fourth of it.

    A receiver stays in the process that made it, and cannot be pickled; producers can be.

    Raises:
        AddressError: the address cannot be claimed; its subclasses say why.
        ConfigurationError: an argument makes no sense; WrongType if it is its type that is wrong.
        JournalError: the journal cannot be opened; its subclasses say why.

    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: SocketType = "stream",  # noqa: A002 - the standard library's word for it
        framing: Framing = "auto",
        mode: int = DEFAULT_MODE,
        group: str | int | None = None,
        decode: Callable[[bytes], T] | None = None,
        max_message: int = MAX_MESSAGE,
        max_connections: int = MAX_CONNECTIONS,
        backlog: int = BACKLOG,
        journal: str | os.PathLike[str] | None = None,
        journal_limit: int = JOURNAL_LIMIT,
    ) -> None:
        self._inbox: Inbox | JournaledInbox | None = None
        arguments.address(address)
        arguments.choice("type", type, SOCKET_TYPES)
        if framing != "auto":
            arguments.framing(framing, _FRAMINGS, socket_type=type)
        mode = arguments.mode(mode)
        arguments.group(group)
        arguments.function("decode", decode)
        max_message = arguments.max_message(max_message)
        max_connections = arguments.integer("max_connections", max_connections, "connections")
        backlog = arguments.integer("backlog", backlog, "connections", most=MAX_BACKLOG)
        arguments.file("journal", journal)
        journal_limit = arguments.integer("journal_limit", journal_limit)
        self.address = parse_address(address)
        self._decode = decode
        self._cursor: Iterator[bytes] = iter(())
        self._opened: Batch[T] | None = None  # the batch that the cursor runs over
        self._inherited = False

        def open_inbox(max_message: int) -> Inbox:
            place = claim(self.address, type=type, mode=mode, group=group, backlog=backlog)
            try:
                return Inbox(
                    place,
                    type=type,
                    framing=framing,
                    max_message=max_message,
                    max_connections=max_connections,
                    decode=decode,
                )
            except OSError as exc:
                place.close()
                error = f"cannot receive at {self.address}: {exc.strerror}; close files, or see "
                raise AddressError(error + "ulimit -n", address=str(self.address)) from exc
            except BaseException:
                place.close()
                raise

        if journal is None:
            self._inbox = open_inbox(max_message)
        else:
            from mpsr.journaled import open_journaled  # noqa: PLC0415 - not light, and not for all

            self._inbox = open_journaled(
                journal, journal_limit, open_inbox, max_message=max_message, decode=decode
            )
        watch_forks(self)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be something to receive.

        It can sit in anyone's select; then call ``try_receive_batch`` until it returns None, or
        ``receive(timeout=0)`` until it raises TimedOut.
        """
        engine = self._engine()
        engine.watch()
        return engine.fileno()

    def try_receive_batch(self) -> Batch[T] | None:
        """Return the next batch, or None where none has arrived; never waits.

        What is left of a batch that ``receive`` or a loop has begun comes first, as a batch.
        Like every way of coming back for more, it acknowledges what was handed out before.

        Raises:
            Closed: the receiver was closed, or was stopped and has handed out everything.

        """
        engine = self._engine()
        batch = self._rest(engine) or engine.next_batch(monotonic())
        engine.signal(more=batch is not None)
        if batch is None:
            self._check_finished(engine)
        return batch

    def _check_finished(self, engine: Inbox | JournaledInbox) -> None:
        if engine.finished:
            error = f"the receiver at {self.address} was stopped and has handed out everything"
            raise Closed(error)

    def acknowledge(self, count: int | None = None) -> None:
        """Acknowledge now what was handed out, without coming back for more.

        Args:
            count: the first so many messages of the last batch alone. Closed then, the receiver
                leaves the others to be sent again, to the next one.

        Raises:
            ConfigurationError: the last batch has not so many messages.

        """
        engine = self._engine()
        consumed = self._consumed()
        if count is not None:
            most = None if engine.in_hand is None else len(engine.in_hand)
            engine.acknowledge(arguments.integer("count", count, "messages", least=0, most=most))
        else:
            engine.acknowledge(consumed, more=consumed is not None)
        engine.tell()

    def stop(self) -> None:
        """Ask for an orderly end: iteration ends once what has arrived by now is handed out.

        Safe in a signal handler and in any thread.
        """
        self._engine().stop()

    def stats(self) -> ReceiverStats:
        """Return counters of everything since the receiver was created."""
        return self._engine(closed_too=True).stats()

    def after_fork_in_child(self) -> None:
        """Leave the address and the connections to the parent process."""
        self._inherited = True
        if self._inbox is not None and not self._inbox.closed:
            self._inbox.abandon()

    @property
    def journal_set_aside(self) -> str | None:
        """Where a damaged journal was moved when this receiver began a new one, else None."""
        journal = getattr(self._engine(closed_too=True), "journal", None)
        return journal and journal.set_aside

    def _check_reader(self, after: int | None, cursor: str | None) -> None:
        if after is not None:
            arguments.whole("after", after, "messages")
        arguments.text("cursor", cursor)

    def _reader(self, after: int | None, cursor: str | None) -> Reader:
        """Return a reader of the journal, apart from the one that the receiver itself is."""
        engine = self._engine()
        if isinstance(engine, Inbox):
            error = "after= and cursor= are for a receiver with a journal"
            raise ConfigurationError(error)
        return engine.reader(cursor, after=after)

    def _engine(self, *, closed_too: bool = False) -> Inbox | JournaledInbox:
        if self._inherited:
            error = f"the receiver at {self.address} belongs to the parent process"
            raise Closed(error)
        if self._inbox is None or (self._inbox.closed and not closed_too):
            error = f"the receiver at {self.address} is closed"
            raise Closed(error)
        return self._inbox

    def _open(self, batch: Batch[T]) -> None:
        """Hand a batch out message by message from here on."""
        self._opened = batch
        self._cursor = batch.iter_raw()

    def _rest(self, engine: Inbox | JournaledInbox) -> Batch[T] | None:
        """Close the open batch; return what is left of it, as a batch that is now in hand."""
        opened, consumed = self._opened, self._consumed()
        left = list(self._cursor)
        self._opened = None
        self._cursor = iter(())
        if opened is None or not left:
            return None
        engine.acknowledge(consumed, more=True)
        rest = engine.in_hand = opened.last(left)
        return rest

    def _consumed(self) -> int | None:
        """Return how many messages of the open batch were handed out; None: the whole batch."""
        return None if self._opened is None else len(self._opened) - length_hint(self._cursor)

    def _decoded(self, body: bytes) -> T:
        return body if self._decode is None else decode_body(self._decode, body)  # type: ignore[return-value]

    def _finish(self, *, handled: bool) -> None:
        """Close; ``handled`` says whether the last message handed out was dealt with."""
        if self._inbox is None or self._inbox.closed:
            return
        consumed = self._consumed()
        if handled:
            self._inbox.acknowledge(consumed)
        elif consumed:
            self._inbox.acknowledge(consumed - 1)
        else:
            self._inbox.disown()
        self._inbox.close()

    def _timed_out(self, timeout: float) -> TimedOut:
        return TimedOut(f"no message came to {self.address} within {timeout:g} s")

    def __reduce__(self) -> NoReturn:
        error = (
            f"the receiver at {self.address} cannot be pickled: make it in the process that "
            "receives, and give the others a Producer"
        )
        raise TypeError(error)

    def __repr__(self) -> str:
        closed = " closed" if self._inbox is None or self._inbox.closed else ""
        return f"<{type(self).__name__} at {self.address}{closed}>"

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None and not inbox.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            inbox.close()


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
        """Return the next batch; the time-out and the errors are those of ``receive``.

        What is left of a batch that ``receive`` or a loop has begun comes first, as a batch.
        """
        timeout = arguments.timeout(timeout)
        engine = self._engine()
        rest = self._rest(engine)
        if rest is not None:
            return rest
        deadline = None if timeout is None else monotonic() + timeout
        now = monotonic()
        while (batch := engine.next_batch(now)) is None:
            engine.signal(more=False)
            self._check_finished(engine)
            if deadline is not None and now >= deadline:
                raise self._timed_out(timeout or 0)
            wait = engine.wait_time(now)
            if deadline is not None:
                wait = deadline - now if wait is None else min(wait, deadline - now)
            engine.wait(wait if wait is None else min(wait, _LONGEST_WAIT))
            self._engine()  # another greenlet may have closed it, or a fork
            now = monotonic()
        engine.signal(more=True)
        return batch

    def batches(self, *, after: int | None = None, cursor: str | None = None) -> Iterator[Batch[T]]:
        """Iterate over batches until the receiver is stopped.

        Args:
            after: with a journal: go on behind this position (``batch.position``), which the
                handler has committed together with its results; so it handles everything once.
            cursor: with a journal: follow it with a cursor of this name, apart from the
                receiver's own ("main") and from others, in any thread. Nothing is trimmed that
                one of them has still to pass.

        Raises:
            ConfigurationError: there is no journal, or it does not hold what comes after.

        """
        self._check_reader(after, cursor)
        return self._batches(after, cursor)

    def _batches(self, after: int | None, cursor: str | None) -> Iterator[Batch[T]]:
        if after is not None or cursor is not None:
            yield from self._follow(self._reader(after, cursor))
            return
        try:
            while True:
                yield self.receive_batch()
        except Closed:
            return

    def _follow(self, reader: Reader) -> Iterator[Batch[T]]:
        engine = self._engine()
        handled = True
        try:
            while not engine.closed:
                batch = reader.next_batch()
                if batch is not None:
                    handled = False
                    yield batch
                    handled = True
                elif reader.finished:
                    return
                else:
                    reader.wait(None)
        finally:
            reader.leave(handled=handled)

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
                    yield decode_body(self._decode, body)
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

        What was not handed out stays with the native producers, for the next receiver.
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
