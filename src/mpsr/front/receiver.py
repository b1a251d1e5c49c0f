"""Check and keep the arguments of a receiver: what the sync and the async one share in public."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, NoReturn

from mpsr import arguments
from mpsr.batch import last_of, undecodable
from mpsr.engine.receiving.allowances import UserLimits
from mpsr.engine.receiving.inbox import Inbox
from mpsr.engine.receiving.inherited import NOTHING
from mpsr.engine.receiving.senders import Senders
from mpsr.errors import AddressError, Closed, ConfigurationError, Explanation, TimedOut
from mpsr.front.listening import (
    Endpoint,
    check_files,
    check_max_message,
    claim_all,
    places_of,
)
from mpsr.limits import (
    BACKLOG,
    JOURNAL_LIMIT,
    MAX_BACKLOG,
    MAX_CONNECTIONS,
    MAX_MESSAGE,
    MAX_RINGS_PER_UID,
)
from mpsr.system.calls import advice_for
from mpsr.system.clock import monotonic
from mpsr.system.forks import watch_forks
from mpsr.system.path_claim import DEFAULT_MODE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator

    from typing_extensions import TypeVar

    from mpsr.batch import Batch, Peer
    from mpsr.engine.receiving.follower import Follower
    from mpsr.engine.receiving.inherited import Inherited
    from mpsr.engine.receiving.journaled import JournaledInbox
    from mpsr.front.listening import Where
    from mpsr.stats import JournalStats, ReceiverStats
    from mpsr.system.address import Address, SocketType
    from mpsr.system.claims import Claim
    from mpsr.wire.framing import Framing

    T = TypeVar("T", default=bytes)
else:
    from typing import TypeVar

    T = TypeVar("T")


class ReceiverBase(Generic[T]):
    """A receiver, but for its waiting methods."""

    def __init__(
        self,
        address: Where,
        *,
        type: SocketType | None = None,  # noqa: A002 - the standard library's word for it
        framing: Framing = "auto",
        mode: int = DEFAULT_MODE,
        group: str | int | None = None,
        allow_uids: Collection[int] | None = None,
        allow_gids: Collection[int] | None = None,
        authorize: Callable[[Peer], object] | None = None,
        decode: Callable[[bytes], T] | None = None,
        max_message: int = MAX_MESSAGE,
        max_connections: int = MAX_CONNECTIONS,
        max_connections_per_uid: int | None = None,
        max_bytes_per_uid: int | None = None,
        max_rate_per_uid: int | None = None,
        max_rings_per_uid: int = MAX_RINGS_PER_UID,
        backlog: int = BACKLOG,
        journal: str | os.PathLike[str] | None = None,
        journal_limit: int = JOURNAL_LIMIT,
        handover: bool = False,
        accept_files: bool = False,
        observers: Collection[int] | None = None,
    ) -> None:
        """Claim the address and listen.

        A receiver stays in the process that made it, and cannot be pickled; producers can be.

        Args:
            address: str or path-like: a path, ``@name`` (Linux's abstract namespace), ``fd:N``,
                or ``systemd:`` or ``systemd:NAME`` (sockets that systemd passed: all, or those of
                a FileDescriptorName=); ``unix:`` before it is accepted. Several are given in a
                list; one that differs from the others is an ``Endpoint``.
            type: ``"stream"`` (default), ``"dgram"`` or ``"seqpacket"``. A socket of systemd's is
                taken as it is, if there is no type.
            framing: how bytes become messages: ``"auto"`` (default; by what each connection
                begins with), ``"native"``, ``"lines"``, ``"null"``, ``"length"``,
                ``"length-le"``, ``"octet-counted"`` or ``"eof"`` (a connection is a message).
                Of datagrams and packets each is a message, ``"packet"``. With ``"auto"`` there a
                syslog message loses the zero byte or newline at its end, and with ``"lines"`` or
                ``"null"`` each may hold several messages.
            mode: int, the permissions of a path, such as ``0o660``; its owner may read and write
                it. The default, ``0o600``, lets only programs of the receiver's own user (and
                root) send. Programs that run as another user, as nginx, HAProxy and syslog do,
                get EACCES, and the receiver does not hear of it: for them set ``mode=0o660`` and
                their ``group=``.
            group: str or int, a group's name or id for the path; default: as the directory has it.
            allow_uids: collection of int, the users who may send. Default: whoever can connect.
            allow_gids: collection of int, the groups whose members may send, too. What is not of
                them is refused, with the reason to a native producer, and counted by user: see
                ``stats().refused_by_uid``. Root is no exception.
            authorize: a function of one ``Peer``, called when it connects, or for its datagram;
                what it returns false for, or raises at, is refused. It may ask for the peer's
                groups and program.
            decode: a function of one message (bytes), applied to each; default: messages are bytes.
            max_message: int, bytes (default 16 MiB); a connection that sends more in one message
                is sent the reason and closed. At least 4,072 where native producers may connect.
            max_connections: int (default 1,024); further connections wait in the backlog.
            max_connections_per_uid: int, connections of one user at once (default: no limit but
                ``max_connections``); further ones of that user wait, and hold up no other user's.
            max_bytes_per_uid: int, bytes of one user's messages, with 4 bytes each, that were read
                and are not handed out, or with a journal not synced (default: no limit). Beyond
                it no connection of that user is read until some are; of messages that are not
                whole, one goes on at a time. So there is at most one read of 1 MiB, or one
                message, more.
            max_rate_per_uid: int, messages a second from one user (default: no limit), and as
                many at once after a pause. Beyond it the connections of that user are not read
                until the time for what came has passed. At a limit producers wait and nothing is
                lost; ``stats().limited`` tells. Datagrams count, but are read in any case.
            max_rings_per_uid: int, rings of shared memory, of 1 MiB each, that producers of one
                user are given at a time (default 32, of 64 in all; 0: none).
            backlog: int, connections that may wait to be accepted (default 4,096).
            journal: path of a directory; what comes is written there, synced, and only then
                acknowledged. It is handed out from there, and what was not is kept for the next
                receiver. Default: no journal.
            journal_limit: int, bytes that the directory may take on the disk (default 1 GiB);
                producers wait while it is full. A message is at most a fourth of it.
            handover: bool; if a receiver of the same user has the addresses, take them over from
                it, with its connections and the state of its producers. It hands out what it has
                read, and its iteration ends; no connection is refused meanwhile. This waits for
                it, and for other new receivers that asked before, 30 s at most. Default: an
                address in use is an error.
            accept_files: bool, whether native producers may send open files with their messages;
                see ``Batch.files``. Whoever may send may then have 64 descriptors under way, of
                whatever file, and nothing is read in place or through a ring. Not with a journal.
            observers: collection of int, the users who may look inside (``mpsr status``, ``top``
                and ``tap``) beside our own user and root. They see messages, too; what permissions
                a path has must let them connect. Default: nobody else.

        Raises:
            AddressError: the address cannot be claimed; its subclasses say why.
            ConfigurationError: an argument makes no sense; WrongType if its type is wrong.
            JournalError: the journal cannot be opened; its subclasses say why.

        """
        self._inbox: Inbox | JournaledInbox | None = None
        backlog = arguments.integer("backlog", backlog, "connections", most=MAX_BACKLOG)
        shared = Endpoint("", type, framing, mode, group)
        places = places_of(address, shared, backlog)
        allow_uids = arguments.ids("allow_uids", allow_uids)
        allow_gids = arguments.ids("allow_gids", allow_gids)
        looking = arguments.ids("observers", observers) or frozenset()
        arguments.function("authorize", authorize, of="peer")
        senders = Senders(allow_uids, allow_gids, authorize)
        arguments.function("decode", decode)
        max_message = arguments.max_message(max_message)
        check_max_message(places, max_message)
        max_connections = arguments.integer("max_connections", max_connections, "connections")
        per_uid = UserLimits(
            arguments.limit("max_connections_per_uid", max_connections_per_uid, "connections"),
            arguments.integer("max_rings_per_uid", max_rings_per_uid, "rings", least=0),
            arguments.limit("max_bytes_per_uid", max_bytes_per_uid, "bytes"),
            arguments.limit("max_rate_per_uid", max_rate_per_uid, "messages"),
        )
        arguments.file("journal", journal)
        journal_limit = arguments.integer("journal_limit", journal_limit)
        if accept_files:
            check_files(places, journal=journal is not None)
        self.addresses: tuple[Address, ...] = tuple(each.address for each in places)
        self._decode = decode
        self._cursor: Iterator[bytes] = iter(())
        self._opened: Batch[T] | None = None  # the batch that the cursor runs over
        self._inherited = False

        def open_inbox(max_message: int) -> Inbox:
            claims, rest = taken_over or (claim_all(places), NOTHING)
            try:
                return Inbox(
                    claims,
                    senders=senders,
                    inherited=rest,
                    max_message=max_message,
                    max_connections=max_connections,
                    per_uid=per_uid,
                    decode=decode,
                    accept_files=accept_files,
                    observers=looking,
                )
            except BaseException as exc:
                for claimed, _ in claims:
                    claimed.close()
                if not isinstance(exc, OSError):
                    raise
                what, why = f"cannot receive at {self._where}", exc.strerror or str(exc)
                error = Explanation(what, why, advice_for(exc))
                raise AddressError(error, address=self._where) from exc

        taken_over: tuple[list[tuple[Claim, Framing]], Inherited] | None = None
        if handover:
            from mpsr.front.takeover import claim_or_take_over  # noqa: PLC0415 - not for all

            taken_over = claim_or_take_over(places, journal=journal is not None)
        if journal is None:
            self._inbox = open_inbox(max_message)
        else:
            from mpsr.engine.receiving.journaled import open_journaled  # noqa: PLC0415 - not light, and not for all

            self._inbox = open_journaled(
                journal, journal_limit, open_inbox, max_message=max_message, decode=decode
            )
        watch_forks(self._after_fork_in_child)

    @property
    def address(self) -> Address:
        """Where it receives; of several addresses the first."""
        return self.addresses[0]

    @property
    def _where(self) -> str:
        return ", ".join(map(str, self.addresses))

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be something to receive.

        It can sit in anyone's select; then call ``try_receive_batch`` until it returns None, or
        ``receive(timeout=0)`` until it raises TimedOut.
        """
        engine = self._engine()
        engine.watch()
        return engine.fileno()

    def try_receive(self) -> T | None:
        """Return the next message, or None where none has arrived; never waits.

        Where ``decode=`` may return None itself, use ``try_receive_batch``. Behind the last
        message of a batch it acknowledges the batch, like every way of coming back for more.

        Raises:
            DecodeError: ``decode=`` failed on this message; the next call goes on behind it.
            Closed: the receiver was closed, or was stopped and has handed out everything.

        """
        self._engine()
        while True:
            for body in self._cursor:
                return self._decoded(body)
            batch = self.try_receive_batch()
            if batch is None:
                return None
            self._open(batch)

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

    def ready(self) -> bool:
        """Return whether a message is there, which the next call then gives; never waits.

        It takes none. Behind the last message of a batch it acknowledges the batch, like every
        way of coming back for more.

        Raises:
            Closed: the receiver was closed, or was stopped and has handed out everything.

        """
        self._engine()
        while not length_hint(self._cursor):
            batch = self.try_receive_batch()
            if batch is None:
                return False
            self._open(batch)
        return True

    def _check_finished(self, engine: Inbox | JournaledInbox) -> None:
        if engine.finished:
            error = f"the receiver at {self._where} was stopped and has handed out everything"
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
        engine.send_acks()

    def stop(self) -> None:
        """Ask for an orderly end: iteration ends once what has arrived by now is handed out.

        Safe in a signal handler and in any thread, at any time and any number of times. A receiver
        that is closed, or belongs to the parent process, stays as it is.
        """
        if self._inbox is not None:
            self._inbox.stop()

    def stats(self) -> ReceiverStats:
        """Return counters of everything since the receiver was created.

        Any thread may ask, also while another one handles a batch; so may it ``journal_stats``.
        """
        return self._engine(closed_too=True).stats()

    def journal_stats(self) -> JournalStats | None:
        """Return what the journal holds, and how far each cursor has come; None without one."""
        engine = self._engine(closed_too=True)
        return None if isinstance(engine, Inbox) else engine.journal_stats()

    def _after_fork_in_child(self) -> None:
        """Leave the address and the connections to the parent process."""
        self._inherited = True
        if self._inbox is not None and not self._inbox.released:
            self._inbox.abandon()

    @property
    def journal_set_aside(self) -> str | None:
        """Where a damaged journal was moved when this receiver began a new one, else None."""
        journal = getattr(self._engine(closed_too=True), "journal", None)
        return journal and journal.set_aside

    def _check_follower(self, after: int | None, cursor: str | None) -> None:
        if after is not None:
            arguments.whole("after", after, "messages")
        arguments.text("cursor", cursor)

    def _follower(self, after: int | None, cursor: str | None) -> Follower:
        """Return a follower of the journal, apart from the one that the receiver itself is."""
        engine = self._engine()
        if isinstance(engine, Inbox):
            error = "after= and cursor= are for a receiver with a journal"
            raise ConfigurationError(error)
        return engine.follower(cursor, after=after)

    def _engine(self, *, closed_too: bool = False) -> Inbox | JournaledInbox:
        if self._inherited:
            error = f"the receiver at {self._where} belongs to the parent process"
            raise Closed(error)
        if self._inbox is None or (self._inbox.closed and not closed_too):
            error = f"the receiver at {self._where} is closed"
            raise Closed(error)
        return self._inbox

    def _open(self, batch: Batch[T]) -> None:
        """Hand a batch out message by message from here on."""
        self._opened = batch
        self._cursor = batch.iter_raw()

    def _rest(self, engine: Inbox | JournaledInbox) -> Batch[T] | None:
        """Close the open batch; return what is left of it, as a batch that is now in hand."""
        if self._opened is None:
            return None
        opened, consumed = self._opened, self._consumed()
        left = list(self._cursor)
        self._opened = None
        self._cursor = iter(())
        if not left:
            return None
        engine.acknowledge(consumed, more=True)
        rest = engine.in_hand = last_of(opened, left)
        return rest

    def _consumed(self) -> int | None:
        """Return how many messages of the open batch were handed out; None: the whole batch."""
        return None if self._opened is None else len(self._opened) - length_hint(self._cursor)

    def _decoded(self, body: bytes) -> T:
        """Return a message of the open batch as ``decode=`` makes it."""
        if self._decode is None:
            return body  # type: ignore[return-value]  # T is bytes then
        try:
            return self._decode(body)
        except Exception as exc:
            if self._opened is None:
                raise
            raise undecodable(self._opened, (self._consumed() or 0) - 1, body, exc) from exc

    def _finish(self, *, handled: bool) -> None:
        """Close; ``handled`` says whether the last message handed out was dealt with."""
        if self._inbox is None or self._inbox.released:
            return
        with ExitStack() as steps:  # the later ones follow even if an earlier one raises
            steps.callback(self._inbox.end_handover)
            steps.callback(self._inbox.close)
            consumed = self._consumed()
            if self._inbox.closed:
                return
            if handled:
                self._inbox.acknowledge(consumed)
            elif consumed:
                self._inbox.acknowledge(consumed - 1)
            else:
                self._inbox.disown()

    def _wait_time(self, timeout: float | None, since: float) -> float | None:
        """Return how many seconds to wait for the engine, at most; None: for ever.

        Raises TimedOut if the time-out, which counts from ``since``, has passed.
        """
        now = monotonic()
        wait = self._engine().wait_time(now)
        if timeout is None:
            return wait
        left = since + timeout - now
        if left <= 0:
            raise TimedOut(f"no message came to {self._where} within {timeout:g} s")
        return left if wait is None else min(wait, left)

    def __reduce__(self) -> NoReturn:
        error = (
            f"the receiver at {self._where} cannot be pickled: make it in the process that "
            "receives, and give the others a Producer"
        )
        raise TypeError(error)

    def __repr__(self) -> str:
        closed = " closed" if self._inbox is None or self._inbox.closed else ""
        return f"<{type(self).__name__} at {self._where}{closed}>"

    def __del__(self) -> None:
        inbox = getattr(self, "_inbox", None)
        if inbox is not None and not inbox.released:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            inbox.close()
            inbox.end_handover()


def has_more(receiver: ReceiverBase[Any]) -> bool:
    """Return whether the batch of the message that ``receive`` gave last has others behind it."""
    return length_hint(receiver._cursor) > 0  # noqa: SLF001 - its own module
