"""Receive from a listener and its connections, never waiting.

The inbox owns one selector, whose descriptor (``fileno``) is readable when there is something
to do, and gives out batches one at a time (``next_batch``). It reads only when it has none
left, one bounded read at a time, so that the kernel's socket buffers are the queue.
"""

from __future__ import annotations

import errno
import resource
import socket
import struct
import sys
from collections import Counter, deque
from contextlib import ExitStack
from fcntl import ioctl
from functools import partial
from mmap import mmap
from termios import FIONREAD
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr import passing, primitives, ring
from mpsr.batch import UNKNOWN_PEER, Batch, Peer, ProducerIdentity
from mpsr.endpoint import peer_of
from mpsr.errors import MpsrError, RemoteProtocolError
from mpsr.heap import keep_freed_memory
from mpsr.keeping import Keeper
from mpsr.limits import (
    ACCEPT_PAUSE,
    ACCEPTS_PER_ROUND,
    ACK_DELAY,
    DATAGRAMS_PER_ROUND,
    DESCRIPTOR_RESERVE,
    FIRST_READ,
    FRAME_DEADLINE,
    HELLO_DEADLINE,
    LOOKS,
    MAX_CONNECTIONS,
    MAX_MESSAGE,
    MAX_RINGS,
    MAX_UNFINISHED,
    READ_BEHIND,
    READ_SIZE,
    REPLY_DEADLINE,
    RING_AFTER,
    RING_SIZE,
    SILENT_START,
    STOP_ROUNDS,
    UNPLACED,
)
from mpsr.poller import READ, WRITE, Poller
from mpsr.shares import gives_way, holds_most
from mpsr.wakeup import Wakeup
from mpsr.wire.frames import Hello, Move, RejectCode, malformed
from mpsr.wire.ledger import Ledger, Track
from mpsr.wire.session import ReceivingSession, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from logging import Logger
    from typing import Any

    from mpsr.endpoint import Claim, SocketType
    from mpsr.ring import Reader
    from mpsr.wire.framing import Framing

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_AGAIN: Final = 1 << 16  # no event of a poller: look into the ring alone
_TIMED: Final = frozenset({"native", "length", "length-le", "octet-counted"})
_LET_GO: Final[list[object]] = []  # what is kept for ever, so that it closes nothing
_DEADLINE_CHECK: Final = 0.25  # seconds between looks at the deadlines


class ReceiverStats(NamedTuple):
    """What a receiver has seen since it was created."""

    connections: int
    """Connections open now."""
    accepted: int
    """Connections accepted in all."""
    batches: int
    """Batches handed out."""
    messages: int
    """Messages handed out."""
    nbytes: int
    """Bytes of the messages handed out."""
    lost: int
    """Messages that producers reported as dropped."""
    rejected: int
    """Connections closed, or datagrams discarded, for breaking a rule."""
    discarded: int
    """Bytes of foreign messages that were read and not handed out when the receiver closed."""
    paused: bool
    """Whether accepting rests because connections or descriptors ran out."""


class _Connection:
    """One accepted connection."""

    __slots__ = (
        "ended",
        "given",
        "heard",
        "heard_at",
        "open",
        "order",
        "out",
        "peer",
        "refuses",
        "ring",
        "session",
        "socket",
        "track",
        "uid",
        "unfinished",
        "until_ring",
    )

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        session: ReceivingSession,
        order: int,
        *,
        refuses: bool,
    ) -> None:
        self.open = True
        self.refuses = refuses  # whether the kernel refuses descriptors for it
        self.order = order  # among all that were accepted
        self.socket = sock
        self.session = session
        self.peer = peer
        self.uid = peer.uid
        self.heard_at = 0.0  # when it last brought something whole, or else when it came
        self.heard = False  # whether it has brought something whole
        self.unfinished = 0  # bytes of a foreign message that is not whole
        self.track: Track | None = None  # set while it speaks for a native producer
        self.out = b""  # what the peer has not taken yet
        self.until_ring = 0  # bytes to come before it gets a ring; 0 if it is to have none
        self.given: Reader | None = None  # the ring that it got
        self.ring: Reader | None = None  # the same, once all comes through it
        self.ended = False  # its socket did, before the ring was empty

    @property
    def native(self) -> bool:
        """Whether it is a producer's of ours, which comes back if it is sent away."""
        return self.session.framing == "native"

    def close(self) -> None:
        """Close the descriptor, and part with the ring."""
        if self.refuses:
            self.socket.close()
        else:  # what was passed and not read is closed with it
            passing.close_socket(self.socket)
        if self.given is not None:
            self.given.close()

    def __str__(self) -> str:
        name = f"pid {self.peer.pid}, uid {self.peer.uid}"
        if self.track is not None and self.track.identity.label:
            name += f", {self.track.identity.label!r}"
        return name


class Inbox:
    """The receiving engine."""

    def __init__(
        self,
        claim: Claim,
        *,
        type: SocketType = "stream",  # noqa: A002 - the standard library's word for it
        framing: Framing = "auto",
        max_message: int = MAX_MESSAGE,
        max_connections: int = MAX_CONNECTIONS,
        decode: Callable[[bytes], Any] | None = None,
    ) -> None:
        keep_freed_memory()
        self._claim = claim
        self._listener = claim.socket
        # Those that wait on an inherited listener may have been passed something before.
        self._refuses = passing.refuse(self._listener) and claim.address.kind != "fd"
        self._framing: Framing = framing
        self._max_message = max_message
        self._max_connections = min(max_connections, _spare_descriptors())
        self._decode = decode
        self.ledger = Ledger()
        self._logger = _logger()  # loaded while there are descriptors to load it with
        self._keeper = Keeper(claim, self._logger)

        with ExitStack() as undo:
            undo.callback(self._keeper.close)
            self._poller = Poller()
            undo.callback(self._poller.close)
            self._wakeup = Wakeup()
            undo.pop_all()
        self._poller.register(self._wakeup, READ, None)
        self._connections: set[_Connection] = set()
        self._unplaced: deque[_Connection] = deque()  # accepted, and there was no place for it
        self._unfinished: set[_Connection] = set()  # of foreign framings, with a message begun
        self._unfinished_bytes = 0
        self._speakers: dict[Track, _Connection] = {}
        self._ready: deque[tuple[Any, int]] = deque()  # what the poller found to do
        self._loud: dict[_Connection, int] = {}  # their rings may hold more, and no bell will tell
        self._rings = 0  # given, and not back yet
        self._pending: deque[Batch[Any]] = deque()  # read and not handed out
        self._handed: Batch[Any] | None = None  # handed out and not acknowledged
        self._told: set[Track] = set()  # acknowledged here, not yet told the producer
        self._told_at = 0.0

        # Deadlines run on a clock that stands still while the caller handles a batch, and while
        # it stays away longer than it was told to: nothing is read then, so a producer that
        # waits for us is not late.
        self._now = self._away = self._looked_at = 0.0
        self._handed_at: float | None = None
        self._due: dict[tuple[_Connection, str], float] = {}
        self._check_at = 0.0

        self._resume_at: float | None = None  # accepting rests until then
        self._paused = self._pause_told = self._full_told = False
        self._place_at: float | None = None  # then those that wait for a place look again
        self._stop_asked = False
        self._stopping = False
        self._draining: deque[tuple[_Connection, int]] = deque()
        self.finished = False
        self.closed = False
        self._signal = False  # whether somebody waits on our descriptor from outside

        self._accepted = self._batches = self._messages = self._nbytes = 0
        self._lost = self._rejected = self._discarded = 0
        self._begin_to_listen(type)

    def _begin_to_listen(self, type: SocketType) -> None:  # noqa: A002 - as above
        if type == "dgram":
            self._buffer = memoryview(
                mmap(-1, self._max_message + 1)
            )  # untouched pages cost nothing
            self._datagrams = 0
            self._read_listener: Callable[[], None] = self._read_datagrams
        else:
            self._read_size = FIRST_READ
            self._behind = memoryview(bytearray(READ_BEHIND))
            self._read_listener = self._accept
        self._poller.register(self._listener, READ, self)
        if self._keeper.timer is not None:
            self._poller.register(self._keeper.timer, READ, None)

    # -- for the fronts ---------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``next_batch`` has something to do."""
        return self._poller.fileno()

    def watch(self) -> None:
        """Keep ``fileno`` readable also while batches that were read wait to be handed out."""
        self._signal = True

    def signal(self, more: bool) -> None:  # noqa: FBT001 - a flag by nature
        """Tell a watcher whether the caller has something to come back for."""
        if self._signal and not self._stop_asked:
            if more or self._pending or self._loud:
                self._wakeup.set()
            else:
                self._wakeup.clear()
                if self._stop_asked:  # meanwhile, in another thread
                    self._wakeup.set()

    def next_batch(self, now: float) -> Batch[Any] | None:
        """Acknowledge the batch handed out before; return the next, or None for now."""
        self._set_clock(now)
        handed = self._handed
        if handed is not None:
            self._settle(handed.track, handed.end_seq)
        if self._told and now - self._told_at >= ACK_DELAY:
            self._told_at = now
            self.tell()
        batch = self._handed = self._next(now)
        if batch is None:
            self.tell()
        else:
            self._handed_at = now
        return batch

    def take(self, now: float) -> Batch[Any] | None:
        """Return what has come next, or None for now; whoever takes it accepts it later."""
        self._set_clock(now)
        return self._next(now)

    def put_back(self, batches: Sequence[Batch[Any]]) -> None:
        """Have what was taken, and cannot be accepted, among what was not handed out."""
        self._pending.extendleft(reversed(batches))

    def accept(self, batches: Iterable[Batch[Any]]) -> None:
        """Acknowledge what was taken."""
        for batch in batches:
            self._settle(batch.track, batch.end_seq)
        self.tell()

    def _set_clock(self, now: float) -> None:
        if self._handed_at is not None:
            self._away += now - self._handed_at
            self._handed_at = None
        elif self._due or self._place_at is not None:
            self._away += max(0.0, now - self._looked_at - _DEADLINE_CHECK)
        self._looked_at = now
        self._now = now - self._away

    def _next(self, now: float) -> Batch[Any] | None:
        if not self._pending:
            self._look(now)
            if not self._pending:
                return None
        batch = self._pending.popleft()
        self._batches += 1
        self._messages += batch.end_seq - batch.first_seq
        self._nbytes += batch.nbytes
        return batch

    @property
    def in_hand(self) -> Batch[Any] | None:
        """The batch handed out last, until it is acknowledged; its last part may stand for it."""
        return self._handed

    @in_hand.setter
    def in_hand(self, batch: Batch[Any]) -> None:
        self._handed = batch

    def acknowledge(self, count: int | None = None, *, more: bool = False) -> None:
        """Accept the batch handed out last, or its first ``count`` messages alone.

        ``more`` says that the others are still being handed out.
        """
        batch = self._handed
        if not more:
            self._handed = None
        if batch is not None:
            seq = batch.end_seq if count is None else batch.first_seq + count
            self._settle(batch.track, seq)

    def _settle(self, track: Track | None, seq: int) -> None:
        if track is not None and seq > track.accepted_seq:
            track.accepted_seq = seq
            self._told.add(track)

    def disown(self) -> None:
        """Leave the batch handed out last unacknowledged: its handler did not finish."""
        self._handed = None

    def wait_time(self, now: float) -> float | None:
        """Return the seconds after which ``next_batch`` has something to do in any case."""
        times = [0.0] if self._loud else []
        if self._resume_at is not None:
            times.append(self._resume_at - now)
        if self._due:
            times.append(self._check_at - (now - self._away))
        if self._keeper.look_at is not None and self._keeper.timer is None:
            times.append(self._keeper.look_at - now)
        if self._place_at is not None:
            times.append(self._place_at - (now - self._away))
        return max(0.0, min(times)) if times else None

    def stop(self) -> None:
        """Ask for an orderly end: take what has arrived by now, then finish.

        Safe in a signal handler and in any thread.
        """
        self._stop_asked = True
        self._wakeup.set()

    def _check_descriptors(self) -> None:
        """Raise MpsrError if the program has closed our descriptors, as one does for a daemon."""
        if not self._wakeup.intact:
            self._let_go()
            error = (
                f"the receiver at {self._claim.address} has lost its descriptors, which the "
                "program has closed: make a receiver only after that"
            )
            raise MpsrError(error)

    def _let_go(self) -> None:
        """End without closing a descriptor: their numbers may be somebody else's by now."""
        self.closed = self.finished = True
        for connection in (*self._connections, *self._unplaced):
            connection.open = False
            connection.socket.detach()
        self._connections.clear()
        self._unplaced.clear()
        self._claim.let_go()
        self._wakeup.let_go()
        _LET_GO.append(self._poller)  # an epoll object would close its number

    def close(self) -> None:
        """Tell what was acknowledged, then close everything and give the address up."""
        if self.closed:
            return
        if not self._wakeup.intact:
            self._let_go()
            return
        self.closed = self.finished = True
        self.tell()
        for batch in self._pending:
            if batch.track is None:
                self._discarded += batch.nbytes
        for connection in self._connections:
            if connection.session.state is State.FOREIGN:
                self._discarded += connection.session.pending + _unread(connection)
            connection.close()
        if self._discarded:
            what = "closed with %d bytes of foreign messages not handed out"
            self._logger.warning(what, self._discarded)
        self._close_unplaced()
        self._connections.clear()
        self._claim.close()
        self._release()

    def abandon(self) -> None:
        """Close the descriptors that a forked child inherited; the parent's stay as they are."""
        self.closed = self.finished = True
        for connection in self._connections:
            connection.close()
        self._close_unplaced()
        self._connections.clear()
        self._claim.abandon()
        self._release()

    def _close_unplaced(self) -> None:
        while self._unplaced:
            self._unplaced.popleft().close()

    def stats(self) -> ReceiverStats:
        """Return what was seen so far."""
        return ReceiverStats(
            connections=len(self._connections),
            accepted=self._accepted,
            batches=self._batches,
            messages=self._messages,
            nbytes=self._nbytes,
            lost=self._lost,
            rejected=self._rejected,
            discarded=self._discarded,
            paused=self._paused or bool(self._unplaced),
        )

    def wait(self, seconds: float | None) -> None:
        """Wait until ``next_batch`` has something to do; for a front that waits for this alone."""
        self._ready.extend(self._poller.poll(0 if self._loud else seconds))

    # -- a round ----------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Read from one ready connection after the other, until there is a batch."""
        self._check_descriptors()
        if self._stop_asked:
            if not self._stopping:
                self._begin_stop()
            self._drain()
            return
        self._keep_address(now)
        if self._resume_at is not None and now >= self._resume_at:
            self._resume()
        ready, pending = self._ready, self._pending
        for _ in range(LOOKS):
            if not ready:
                ready.extend(self._poller.poll(0))
                ready.extend(self._loud.items())
                self._loud.clear()
            while ready and not pending:
                self._serve(*ready.popleft())
            if pending:
                break
        if self._due and self._now >= self._check_at and not ready:
            self._check_deadlines()
        if self._place_at is not None and self._now >= self._place_at and not ready:
            self._place()

    def _serve(self, source: Any, events: int) -> None:  # noqa: ANN401 - what the poller holds
        if source is self:
            self._read_listener()
        elif source is not None and source.open:
            if events & ~READ:
                self._flush(source)
            if source.ring is not None:
                self._read_ring(source, source.ring, heard=events != _AGAIN)
            elif events & ~WRITE:
                self._read(source)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_ROUND):
            try:
                sock = primitives.accept(self._listener)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _NO_DESCRIPTORS:
                    self._pause(str(exc), self._now + self._away + ACCEPT_PAUSE)
                    return
                continue  # that connection is gone; the next may be well
            sock.setblocking(False)
            peer = peer_of(sock)
            session = ReceivingSession(
                self._framing, max_message=self._max_message, peer=peer, decode=self._decode
            )
            refuses = passing.refuse(sock) and self._refuses
            connection = _Connection(sock, peer, session, self._accepted, refuses=refuses)
            self._accepted += 1
            self._unplaced.append(connection)
            self._place()
            if len(self._unplaced) > UNPLACED:
                self._crowd()
                if self._paused:
                    return

    def _place(self, *, anyhow: bool = False) -> None:
        """Begin to read from those that were accepted, as far as there is a place for them."""
        counts = Counter(each.uid for each in self._connections)
        # Those of a user who has few come first.
        left = sorted(self._unplaced, key=lambda each: (counts[each.uid], each.order))
        self._unplaced = deque()
        for connection in left:
            if not anyhow and len(self._connections) >= self._max_connections:
                silent = gives_way(self._connections, connection.uid, self._now)
                if silent is None:
                    self._unplaced.append(connection)
                    continue
                text = "it says nothing, and another connection needs its place"
                self._fail(silent, RemoteProtocolError(text, code=RejectCode.BUSY))
            connection.heard_at = self._now
            self._connections.add(connection)
            self._poller.register(connection.socket, READ, connection)
            self._watch_deadlines(connection, 0)
        if self._unplaced and not self._full_told:
            self._full_told = True  # once: a receiver that lives at its limit would flood the log
            count = len(self._connections)
            what = "connection is open" if count == 1 else "connections are open"
            self._logger.warning("stopped accepting for now: %d %s, the most allowed", count, what)
        self._place_at = self._now + SILENT_START if self._unplaced else None

    def _crowd(self) -> None:
        """Do something about more connections than may wait for a place."""
        holding = Counter(each.uid for each in (*self._connections, *self._unplaced))
        if len(holding) == 1:  # nobody else is held up: the next ones wait in the backlog
            self._pause("too many wait for a place", self._now + self._away + SILENT_START)
            return
        crowding = max(self._unplaced, key=lambda each: (holding[each.uid], each.order))
        self._unplaced.remove(crowding)
        self._rejected += 1
        crowding.open = False
        crowding.close()

    def _read(self, connection: _Connection) -> int:
        """Read once; return how many bytes came, 0 where the connection ended or had none."""
        session = connection.session
        settled, apart = session.settled, session.apart
        placed, data = 0, b""
        try:
            placed, data = self._receive(connection, settled=settled, apart=apart)
        except BlockingIOError:
            return 0
        except OSError:  # reset: the peer is gone, and so is what it had not sent
            pass
        size = placed + len(data)
        if not size:
            self._end(connection)
            return 0
        if connection.until_ring:
            self._count_towards_ring(connection, size)
        if settled and data:  # on the straight road there are whole batches, and nothing else
            end = session.receive_whole(data, self._pending)
            connection.heard_at = self._now
            if end == size and not self._due:
                return size
            data = data[end:]
        self._understand(connection, placed, data, size)
        if settled and apart and size == READ_BEHIND and connection.open and not session.settled:
            size += self._read(connection)  # a frame has begun, and now its place is known
        return size

    def _understand(self, connection: _Connection, placed: int, data: bytes, size: int) -> None:
        """Have a connection's session take what was read, of ``size`` bytes; answer it."""
        session = connection.session
        failure = _feed(session, placed, data)
        failure = self._deliver(connection) or failure
        if failure is not None:
            self._fail(connection, failure)
        elif self._due or not session.settled:
            self._watch_deadlines(connection, size)
            if session.state is State.FOREIGN and connection.open:
                self._count_unfinished(connection, session.pending)
        if session.answers:
            self._flush(connection)

    def _end(self, connection: _Connection) -> None:
        """Take the end of a connection."""
        failure = _feed(connection.session, 0, b"", ended=True)
        failure = self._deliver(connection) or failure
        if failure is not None:
            self._fail(connection, failure)
        else:
            self._close(connection)

    def _receive(self, connection: _Connection, *, settled: bool, apart: bool) -> tuple[int, bytes]:
        """Return how many bytes went straight to where they belong, and what else came."""
        if not connection.refuses and connection.ring is None:
            return 0, self._receive_with_descriptors(connection)
        session, sock = connection.session, connection.ring or connection.socket
        rooms = () if settled else session.wanted()
        if rooms and connection.ring is not None:
            try:
                return connection.ring.recv_into(rooms), b""
            finally:
                for each in rooms:
                    each.release()
        if rooms:
            room = sum(map(len, rooms))
            try:
                size = connection.socket.recvmsg_into([*rooms, self._behind])[0]
            finally:
                for each in rooms:
                    each.release()
            return min(size, room), bytes(self._behind[: max(0, size - room)])
        if settled and apart:  # once its places are known, what follows is read into them
            return 0, sock.recv(READ_BEHIND)
        data = sock.recv(self._read_size)
        if len(data) == self._read_size:
            self._read_size = min(2 * self._read_size, READ_SIZE)
        return 0, data

    def _receive_with_descriptors(self, connection: _Connection) -> bytes:
        """Read on a kernel that does not refuse descriptors; whoever passes one is sent away."""
        data, descriptors = passing.receive(connection.socket, self._read_size)
        if not descriptors:
            return data
        passing.close_apart(descriptors)
        text = "it passed a descriptor, which nobody asked for"
        self._fail(connection, RemoteProtocolError(text, code=RejectCode.UNEXPECTED))
        raise BlockingIOError  # there is nothing to understand any more

    def _deliver(self, connection: _Connection) -> RemoteProtocolError | None:
        """Take what the session has understood; return what went wrong in answering it."""
        for event in connection.session.events_received():
            if isinstance(event, Batch | Hello):
                connection.heard, connection.heard_at = True, self._now
            if isinstance(event, Batch):
                self._lost += event.lost
                self._pending.append(event)
            elif isinstance(event, Hello):
                try:
                    self._greet(connection, event)
                except RemoteProtocolError as exc:
                    connection.session.reject(exc.code, str(exc))
                    self._deliver(connection)
                    return exc
                return self._deliver(connection)
            elif isinstance(event, Move):
                connection.ring = connection.given
                self._loud[connection] = _AGAIN  # its bells may have come before
            elif connection.track is not None:
                self._leave(connection, orderly=event.orderly)
        return None

    def _greet(self, connection: _Connection, hello: Hello) -> None:
        identity = ProducerIdentity(hello.producer_id, hello.label)
        track = self.ledger.open(
            connection.peer.uid, identity, hello.lowest_seq, self._now, order=connection.order
        )
        if hello.takes_ring and ring.AVAILABLE:
            connection.until_ring = RING_AFTER
        track.fence = partial(self._fence, connection)
        self._speakers[track] = connection
        connection.track = track
        connection.session.welcome(track)

    def _fence(self, connection: _Connection) -> None:
        connection.track = None
        text = "a newer connection speaks for this producer"
        self._fail(connection, RemoteProtocolError(text, code=RejectCode.FENCED))

    def _leave(self, connection: _Connection, *, orderly: bool) -> None:
        """Part a connection from its producer's track."""
        track, connection.track = connection.track, None
        if track is not None:
            del self._speakers[track]
            self._told.discard(track)
            self.ledger.gone(track, self._now, orderly=orderly)

    def _fail(self, connection: _Connection, failure: RemoteProtocolError) -> None:
        """Close a connection that broke a rule, after telling it why."""
        self._rejected += 1
        self._logger.warning("closed the connection of %s: %s", connection, failure)
        connection.session.reject(failure.code, str(failure))
        self._flush(connection)
        if connection.open:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._leave(connection, orderly=False)
        connection.open = False
        self._connections.discard(connection)
        for what in ("hello", "frame", "reply"):
            self._due.pop((connection, what), None)
        self._poller.unregister(connection.socket)
        self._loud.pop(connection, None)
        self._rings -= connection.given is not None
        connection.close()
        self._unfinished_bytes -= connection.unfinished
        self._unfinished.discard(connection)
        if self._paused and not self._stopping:
            self._resume()
        if self._unplaced and self._place_at is not None:
            self._place_at = self._now

    # -- rings ------------------------------------------------------------------------------

    def _count_towards_ring(self, connection: _Connection, size: int) -> None:
        """Give who has sent much a ring; more is to come."""
        connection.until_ring -= size
        if connection.until_ring <= 0:
            self._give_ring(connection)

    def _give_ring(self, connection: _Connection) -> None:
        """Give a ring, if there is one to give; else the producer may have one later."""
        connection.until_ring = RING_AFTER
        if self._rings >= MAX_RINGS or connection.session.state is not State.OPEN:
            return
        try:
            descriptor, connection.given = ring.make()
        except OSError:
            return  # it does not need one
        self._rings += 1
        connection.until_ring = 0
        connection.session.give_ring(RING_SIZE)
        try:
            self._flush(connection, descriptor)
        finally:
            primitives.close(descriptor)

    def _hear(self, connection: _Connection) -> bool:
        """Clear the bells; tell whether the socket has ended."""
        if not connection.ended:
            try:
                if connection.refuses:
                    connection.ended = not connection.socket.recv_into(self._behind)
                else:
                    data, descriptors = passing.receive(connection.socket, READ_BEHIND)
                    passing.close_apart(descriptors)
                    connection.ended = not data
            except BlockingIOError:
                pass
            except OSError:
                connection.ended = True
        return connection.ended

    def _read_ring(self, connection: _Connection, reader: Reader, *, heard: bool) -> int:
        """Clear the bells; read once what the ring holds, and tell who waits for room in it."""
        if heard:
            self._hear(connection)
        # Asked before the ring is looked at: what the peer wrote before its end is in it by then.
        size, rouse = 0, False
        try:
            size = self._read(connection)
            rouse = size > 0 and connection.open and reader.rouses()
        except ValueError as exc:
            self._fail(connection, malformed("ring", str(exc)))
        if not connection.open:
            return size
        if size:
            self._loud[connection] = _AGAIN
        elif connection.ended:
            self._end(connection)
        if rouse and connection.track is not None and not connection.out:
            connection.session.acknowledge(connection.track.accepted_seq)
            self._flush(connection)
        return size

    # -- answers ----------------------------------------------------------------------------

    def tell(self) -> None:
        """Send the acknowledgements that are due, one a producer."""
        if not self._told:
            return
        told, self._told = self._told, set()
        for track in told:
            connection = self._speakers.get(track)
            if connection is None:
                continue
            if connection.out:
                self._told.add(track)  # the peer is slow to read: one will stand for many
                continue
            connection.session.acknowledge(track.accepted_seq)
            self._flush(connection)

    def _flush(self, connection: _Connection, descriptor: int | None = None) -> None:
        """Send what the peer will take now, and wait for room for the rest.

        A descriptor goes with it, or not at all.
        """
        had = bool(connection.out)
        out = connection.out + connection.session.data_to_send()
        if not out:
            return
        try:
            if descriptor is None:
                sent = connection.socket.send(out)
            else:
                sent = ring.send_along(connection.socket, out, descriptor)
        except BlockingIOError:
            sent = 0
        except OSError:  # gone: reading will tell
            sent = len(out)
        connection.out = out[sent:]
        if bool(connection.out) != had:
            self._poller.modify(connection.socket, READ | WRITE if connection.out else READ)
        if connection.out:
            self._due.setdefault((connection, "reply"), self._now + REPLY_DEADLINE)
        else:
            self._due.pop((connection, "reply"), None)

    # -- limits -----------------------------------------------------------------------------

    def _watch_deadlines(self, connection: _Connection, size: int) -> None:
        """Note, after ``size`` bytes came, what the connection owes and until when."""
        session = connection.session
        if session.framing not in _TIMED:
            return
        if session.state in (State.PREFACE, State.HELLO):
            self._due.setdefault((connection, "hello"), self._now + HELLO_DEADLINE)
        else:
            self._due.pop((connection, "hello"), None)
        pending = session.pending
        if 0 < pending <= size:  # it began in this read
            self._due[connection, "frame"] = self._now + FRAME_DEADLINE
        elif not pending:
            self._due.pop((connection, "frame"), None)

    def _count_unfinished(self, connection: _Connection, size: int) -> None:
        """Note what a foreign connection has unfinished; keep the sum of all within its bound."""
        self._unfinished_bytes += size - connection.unfinished
        connection.unfinished = size
        if size:
            self._unfinished.add(connection)
        else:
            self._unfinished.discard(connection)
        while self._unfinished_bytes > max(MAX_UNFINISHED, self._max_message):
            text = "too much of what all have sent is unfinished, and most of it is of its user"
            most = holds_most(self._unfinished)
            self._fail(most, RemoteProtocolError(text, code=RejectCode.TOO_LARGE))

    def _check_deadlines(self) -> None:
        self._check_at = self._now + _DEADLINE_CHECK
        for connection, what in [key for key, due in self._due.items() if due < self._now]:
            if connection.open:
                text = f"its {what} did not come in time"
                if what == "reply":
                    text = "it does not read its acknowledgements"
                self._fail(connection, RemoteProtocolError(text, code=RejectCode.DEADLINE))

    def _pause(self, why: str, until: float | None = None) -> None:
        """Stop accepting; what connects meanwhile waits in the backlog."""
        if not (self._pause_told or self._full_told):
            self._pause_told = True  # once: a receiver that lives at its limit would flood the log
            self._logger.warning("stopped accepting for now: %s", why)
        if not self._paused:
            self._poller.unregister(self._listener)
        self._paused = True
        self._resume_at = until

    def _resume(self) -> None:
        self._paused = False
        self._resume_at = None
        self._poller.register(self._listener, READ, self)

    # -- the path ---------------------------------------------------------------------------

    def _keep_address(self, now: float) -> None:
        """Listen at a new socket where the path does not lead to ours any more."""
        if self._keeper.look_at is None or now < self._keeper.look_at:
            return
        claimed = self._keeper.look(now)
        if claimed is None:
            return
        if not self._paused:
            self._read_listener()  # what has connected to the one before
        if not self._paused:
            self._poller.unregister(self._listener)
        self._claim.abandon()
        self._claim, self._listener = claimed, claimed.socket
        self._refuses = passing.refuse(self._listener)
        if not self._paused:
            self._poller.register(self._listener, READ, self)

    # -- stopping ---------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        """Note what has arrived by now; nothing that comes later is waited for."""
        self._stopping = True
        for _ in range(STOP_ROUNDS):
            before = (self._accepted, len(self._pending))
            self._read_listener()
            if (self._accepted, len(self._pending)) == before:
                break
        if not self._paused:
            self._poller.unregister(self._listener)
        self._paused = False  # it has ended
        self._place(anyhow=True)
        self._ready.clear()
        self._draining.extend((item, _unread(item)) for item in self._connections)

    def _read_any(self, connection: _Connection) -> int:
        if connection.ring is None:
            return self._read(connection)
        return self._read_ring(connection, connection.ring, heard=True)

    def _drain(self) -> None:
        while self._draining and not self._pending:
            connection, left = self._draining.popleft()
            if not connection.open:
                continue
            if left > 0:
                size = self._read_any(connection)
                if size:
                    self._draining.appendleft((connection, left - size))
            elif self._hear(connection) if connection.ring else _at_end(connection.socket):
                self._read_any(connection)
        if not self._pending:
            self.finished = True

    # -- datagrams --------------------------------------------------------------------------

    def _read_datagrams(self) -> None:
        """Read a round of datagrams; neighbours from one sender make one batch."""
        peer: Peer | None = None
        bodies: list[bytes] = []
        room = socket.CMSG_SPACE(_CREDENTIALS.size)
        if not self._refuses:
            room += passing.ROOM
        for _ in range(DATAGRAMS_PER_ROUND):
            try:
                size, ancillary, flags, _ = self._listener.recvmsg_into([self._buffer], room)
            except (BlockingIOError, ConnectionError):
                break
            if not self._refuses:
                passing.close_apart(passing.descriptors_in(ancillary))
            if flags & socket.MSG_TRUNC or size > self._max_message:
                self._rejected += 1
                what = "discarded a datagram of more than %d bytes"
                self._logger.warning(what, self._max_message)
                continue
            sender = _sender(ancillary)
            if sender != peer:
                self._enqueue_datagrams(peer, bodies)
                peer, bodies = sender, []
            bodies.append(bytes(self._buffer[:size]))
        self._enqueue_datagrams(peer, bodies)

    def _enqueue_datagrams(self, peer: Peer | None, bodies: list[bytes]) -> None:
        if peer is None or not bodies:
            return
        batch: Batch[Any] = Batch(
            partial(iter, bodies),
            len(bodies),
            sum(map(len, bodies)),
            peer,
            first_seq=self._datagrams,
            decode=self._decode,
        )
        self._datagrams += len(bodies)
        self._pending.append(batch)

    def _release(self) -> None:
        self._poller.close()
        self._wakeup.close()
        self._keeper.close()


def _feed(
    session: ReceivingSession, placed: int, data: bytes, *, ended: bool = False
) -> RemoteProtocolError | None:
    """Have a session take what was read, or the end; return what is wrong with it."""
    try:
        if placed:
            session.receive_wanted(placed)
        if data:
            session.receive_data(data)
        if ended:
            session.receive_eof()
    except RemoteProtocolError as exc:
        return exc
    return None


def _sender(ancillary: list[tuple[int, int, bytes]]) -> Peer:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, getattr(socket, "SCM_CREDENTIALS", None)):
            pid, uid, gid = _CREDENTIALS.unpack_from(data)
            return Peer(pid or None, uid, gid)
    return UNKNOWN_PEER


def _spare_descriptors() -> int:
    """Return how many connections the process's descriptor limit leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS * 1024 if soft < 0 else max(1, soft - DESCRIPTOR_RESERVE)


def _unread(connection: _Connection) -> int:
    """Return how many bytes are there to be read from a connection."""
    size = bytearray(4)
    if connection.ring is None:
        ioctl(connection.socket, FIONREAD, size)
    unread = int.from_bytes(size, sys.byteorder)
    if connection.given is not None:
        try:
            unread += connection.given.filled()
        except ValueError:
            pass  # reading tells
    return unread


def _at_end(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _logger() -> Logger:
    import logging  # noqa: PLC0415 - not light, and only receivers have something to say

    return logging.getLogger("mpsr")
