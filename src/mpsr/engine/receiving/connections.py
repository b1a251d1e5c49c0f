"""Read from the open connections, understand what comes, and answer it."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from mpsr.batch import Batch, ProducerIdentity
from mpsr.engine.receiving.complaints import Complaints
from mpsr.engine.receiving.files import Files
from mpsr.engine.receiving.rings import Rings
from mpsr.engine.receiving.shares import Unfinished
from mpsr.errors import RemoteProtocolError
from mpsr.limits import (
    FIRST_MESSAGE,
    FIRST_READ,
    KEPT_MEMORY,
    MAX_INTEGER,
    MAX_RINGS_PER_UID,
    READ_BEHIND,
    READ_SIZE,
)
from mpsr.system import primitives
from mpsr.system.calls import PEER_GONE
from mpsr.system.heap import give_back_freed_memory
from mpsr.system.poller import READ, WRITE
from mpsr.wire.frames import Handover, Hello, Move, Observe, RejectCode, malformed
from mpsr.wire.ledger import Ledger, ProducerState
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.datagrams import PacketEnd
    from mpsr.engine.receiving.deadlines import Deadlines
    from mpsr.engine.receiving.files import FilePacketEnd
    from mpsr.system.poller import AnyPoller


class Connections:
    """The open connections of a receiver.

    Attributes:
        open: all of them.
        ledger: where each producer stands.
        pending: batches that were read and not handed out.
        pending_acks: producers to which an acknowledgement is due.
        rings: the rings of shared memory that were given.
        users: how many connections each user has.
        shared: whether what is ready is served by turns of users: there is more than one.
        held: those that are not read for now.
        files: the files that each user has sent and that are not closed.
        lost: messages that producers reported as dropped.
        rejected: connections closed for breaking a rule.

    """

    def __init__(
        self,
        poller: AnyPoller,
        clock: Deadlines,
        logger: Logger,
        *,
        max_message: int,
        freed: Callable[[Connection], None],
        asked: Callable[[Connection, Handover | Observe], None],
        refused: Callable[[Connection, str], None],
        wake: Callable[[], None],
        max_rings_per_uid: int = MAX_RINGS_PER_UID,
    ) -> None:
        """Begin with none.

        ``freed`` is called whenever one was closed, ``asked`` when one asks for a hand-over or to
        observe, and ``refused`` when one that might have done so does something else. ``wake``
        is called from any thread when there are stalled connections to resume.
        """
        self.open: set[Connection] = set()
        self.ledger: Ledger = Ledger()
        self.pending: deque[Batch[Any]] = deque()
        self.rings: Rings = Rings(max_rings_per_uid)
        self.users: Counter[int | None] = Counter()
        self.shared: bool = False
        self.held: set[Connection] = set()
        self.lost: int = 0
        self.rejected: int = 0
        self._poller = poller
        self._clock = clock
        self._complaints = Complaints(logger)
        self._freed = freed
        self._asked = asked
        self._refused = refused
        self._by_producer: dict[ProducerState, Connection] = {}
        self.pending_acks: set[ProducerState] = set()
        self._unfinished = Unfinished(max_message)
        self.files: Files[Connection] = Files(wake)
        self._left_bytes = 0  # unfinished bytes of closed connections, until memory is given back
        self._read_size = FIRST_READ
        self._greeted_at = -inf  # when a connection was last accepted or welcomed

    def admit(self, connection: Connection) -> None:
        """Begin to read from a connection."""
        connection.heard_at = self._greeted_at = self._clock.now
        self.open.add(connection)
        self._count_user(connection, 1)
        self._poller.register(connection, READ, connection)
        self._clock.follow(connection, 0)

    def _count_user(self, connection: Connection, change: int) -> None:
        self.users[connection.uid] += change
        if not self.users[connection.uid]:
            del self.users[connection.uid]
        self.shared = self.shared or len(self.users) > 1

    def hold(self, connection: Connection) -> None:
        """Read no more from a connection for now; meanwhile it is neither late nor silent."""
        if connection in self.held:
            return
        self.held.add(connection)
        if connection.out:
            self._poller.modify(connection, WRITE)
        else:  # what awaits nothing would still be told of the end
            self._poller.unregister(connection)
        self.rings.unread.pop(connection, None)
        self._clock.excuse(connection)
        connection.heard_at = inf

    def release(self, connection: Connection) -> None:
        """Read from a connection again; whoever still holds it will hold it again then."""
        if connection not in self.held:
            return
        self.held.discard(connection)
        if connection.out:
            self._poller.modify(connection, READ | WRITE)
        else:
            self._poller.register(connection, READ, connection)
        if connection.in_ring:
            self.rings.unread[connection] = None  # no doorbell announces what it has
        self._clock.follow(connection, connection.session.pending)
        connection.heard_at = self._clock.now

    def resume(self) -> None:
        """Read again from the connections whose users have room for files again."""
        if self.files.stalled:
            for each in self.files.resume():
                self.release(each)

    def drain(self) -> None:
        """Read what has arrived from now on, whatever its user holds: the receiver ends."""
        for each in (*self.files.unbound(), *self._unfinished.unbound(self._clock.now)):
            self.release(each)

    def _resume_unfinished(self) -> None:
        for each in self._unfinished.resume(self._clock.now):
            self.release(each)

    def _waits(self, connection: Connection) -> bool:
        """Hold a connection, if unfinished bytes are scarce and another one goes on."""
        if not self._unfinished.waits(connection, self._clock.now):
            return False
        self.hold(connection)
        return True

    def reject(self, connection: Connection, why: str, code: RejectCode) -> None:
        """Send a connection the reason, and close it."""
        self._fail(connection, RemoteProtocolError(why, code=code))

    def reject_late(self) -> None:
        """Close those that have missed a deadline; where one stalls, let another go on."""
        if self._unfinished.waiting:
            self._resume_unfinished()
        if self._left_bytes >= KEPT_MEMORY:
            self._left_bytes = 0
            give_back_freed_memory()
        for connection, why, code in self._clock.missed():
            if connection.open:
                self.reject(connection, why, code)

    def read(self, connection: Connection) -> int:
        """Read once from its socket or ring; return how many bytes came."""
        if connection.in_ring:
            return self.read_ring(connection, doorbell=True)
        if self._unfinished.scarce and self._waits(connection):
            return 0
        if connection.files is not None and connection.stalls():
            self.hold(connection)
            return 0
        if connection.packets is not None:
            return self._read_packets(connection, connection.packets)
        return self.read_socket(connection)

    # -- reading ----------------------------------------------------------------------------

    def read_socket(self, connection: Connection) -> int:
        """Read once; return how many bytes came, 0 where the connection ended or had none."""
        session = connection.session
        settled, apart = session.settled, session.apart
        # Once a long message's place is known it is read there: so first only its head.
        most = FIRST_READ if self._unfinished.scarce else self._read_size
        size = READ_BEHIND if settled and apart else most
        placed, data = 0, b""
        try:
            placed, data = connection.reader.read([] if settled else session.wanted(), size)
        except (BlockingIOError, RemoteProtocolError) as exc:
            if isinstance(exc, RemoteProtocolError):
                self._fail(connection, exc)
            return 0
        except OSError as exc:
            self._tell_refused(connection, "recv", exc)
        if len(data) == self._read_size:
            self._read_size = min(2 * self._read_size, READ_SIZE)
        size = placed + len(data)
        if not size:
            self._end(connection)
            return 0
        if connection.until_ring:
            self._count_for_ring(connection, size)
        if settled and data:  # the short way for whole batches
            end = session.receive_whole(data, self.pending)
            connection.heard_at = self._clock.now
            if end == size and not self._clock.due and connection.files is None:
                return size
            data = data[end:]
        self._understand(connection, connection.feed(placed, data), size)
        begun = settled and apart and size == READ_BEHIND and not session.settled
        if begun and connection.open and not self._unfinished.scarce:
            size += self.read_socket(connection)  # a frame has begun, and now its place is known
        return size

    def _read_packets(self, connection: Connection, reader: PacketEnd | FilePacketEnd) -> int:
        """Read packets once; return how many bytes came, 0 where the connection ended or had none.

        An empty packet counts as a byte.
        """
        packets: list[bytes] = []
        ended, failure = False, None
        try:
            packets, ended, failure = reader.read()
        except BlockingIOError:
            return 0
        except OSError as exc:
            self._tell_refused(connection, "recv", exc)
            ended = True
        size = 0
        if packets:
            size = sum(map(len, packets)) or 1
            failure = connection.feed_packets(packets) or failure
        if size or failure is not None:
            self._understand(connection, failure, size)
        if ended and connection.open:
            self._end(connection)
        return size

    def _tell_refused(self, connection: Connection, call: str, error: OSError) -> None:
        """Log that the system does not let us read or write; else the peer is gone (reset)."""
        if error.errno not in PEER_GONE:
            what = "lost the connection of %s: %s: %s"
            self._complaints.tell(what, connection, call, error.strerror)

    def _understand(
        self, connection: Connection, failure: RemoteProtocolError | None, size: int
    ) -> None:
        """Deliver what a connection's session has understood of ``size`` bytes; answer it."""
        session = connection.session
        failure = self._deliver(connection) or failure
        if not connection.open:  # it is an observer's now
            return
        if failure is not None:
            self._fail(connection, failure)
        elif self._clock.due or not session.settled or connection.unfinished:
            self._clock.follow(connection, size)
            pending = session.pending
            if (pending or connection.unfinished) and connection.open:
                self._count_unfinished(connection, pending)
        if session.answers:
            self.flush(connection)

    def _count_unfinished(self, connection: Connection, size: int) -> None:
        """Note what is unfinished of a connection; close what is too much of it in all."""
        for holder in self._unfinished.count(connection, size, self._clock.now):
            text = "the receiver holds too many bytes of unfinished messages, most of this user"
            self._fail(holder, RemoteProtocolError(text, code=RejectCode.BUSY))
        if self._unfinished.waiting:
            self._resume_unfinished()

    def _end(self, connection: Connection) -> None:
        """Take the end of a connection."""
        failure = connection.feed(0, b"", ended=True)
        failure = self._deliver(connection) or failure
        if failure is not None:
            self._fail(connection, failure)
        else:
            self._close(connection)

    def _deliver(self, connection: Connection) -> RemoteProtocolError | None:
        """Take what the session has understood; return what went wrong in answering it."""
        for event in connection.session.events_received():
            if isinstance(event, Batch | Hello):
                connection.heard, connection.heard_at = True, self._clock.now
            if isinstance(event, Batch):
                if event.lost:
                    self.lost = min(self.lost + event.lost, MAX_INTEGER)  # of several producers
                    connection.lost += event.lost
                self.pending.append(event)
            elif isinstance(event, Hello | Handover | Observe):
                try:
                    self._answer(connection, event)
                except RemoteProtocolError as exc:
                    connection.session.reject(exc.code, str(exc))
                    self._deliver(connection)
                    return exc
                return self._deliver(connection)
            elif isinstance(event, Move):
                self.rings.move(connection)
            elif connection.state is not None:
                self._leave(connection, orderly=event.orderly)
        return None

    def _answer(self, connection: Connection, hello: Hello | Handover | Observe) -> None:
        if isinstance(hello, Handover | Observe):
            self._asked(connection, hello)
            return
        if connection.session.refusal is not None:
            raise connection.session.refusal
        identity = ProducerIdentity(hello.producer_id, hello.label)
        state = self.ledger.open(
            connection.uid, identity, hello.lowest_seq, self._clock.now, order=connection.order
        )
        accepts_files = hello.sends_files and connection.accept_files(self.files)
        if hello.takes_ring and not accepts_files:  # a ring carries none
            self.rings.offer(connection)
        state.fence = partial(self._fence, connection)
        self._by_producer[state] = connection
        connection.state = state
        connection.session.welcome(state)
        self._greeted_at = self._clock.now

    def newcomers_time(self, now: float) -> float:
        """Return for how many seconds a connection that is new may still send its first message.

        A producer that had messages when it connected sends them once it is welcomed.
        """
        if now >= self._greeted_at + FIRST_MESSAGE:
            return 0.0
        new = (each for each in self.open - self.held if not each.session.messages)
        since = max((each.heard_at for each in new), default=-inf)
        return max(0.0, since + FIRST_MESSAGE - now)

    def _fence(self, connection: Connection) -> None:
        connection.state = None
        text = "a newer connection speaks for this producer"
        self._fail(connection, RemoteProtocolError(text, code=RejectCode.FENCED))

    def _leave(self, connection: Connection, *, orderly: bool) -> None:
        """Note that a connection speaks for its producer no longer."""
        state, connection.state = connection.state, None
        if state is not None:
            del self._by_producer[state]
            self.pending_acks.discard(state)
            rejected = connection.session.state is State.FAILED
            self.ledger.gone(state, self._clock.now, orderly=orderly, rejected=rejected)

    def _fail(self, connection: Connection, failure: RemoteProtocolError) -> None:
        """Close a connection that broke a rule, after telling it why."""
        if connection.session.refusal is None:  # those are counted, and told of, by user
            self.rejected += 1
            self._complaints.tell("closed the connection of %s: %s", connection, failure)
        elif connection.session.may_observe:
            self._refused(connection, str(failure))
        connection.session.reject(failure.code, str(failure))
        self.flush(connection)
        if connection.open:
            self._close(connection)

    def part_with(self, connection: Connection) -> None:
        """Close a connection of which somebody else has a duplicate."""
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._leave(connection, orderly=False)
        connection.open = False
        self.open.discard(connection)
        self._count_user(connection, -1)
        self._clock.forget(connection)
        if connection.out or connection not in self.held:
            self._poller.unregister(connection)
        self.held.discard(connection)
        self.rings.forget(connection)
        self._left_bytes += connection.unfinished
        self._unfinished.forget(connection)
        if self._unfinished.waiting:
            self._resume_unfinished()
        connection.close()
        self._freed(connection)

    # -- rings ------------------------------------------------------------------------------

    def _count_for_ring(self, connection: Connection, size: int) -> None:
        connection.until_ring -= size
        if connection.until_ring > 0:
            return
        descriptor = self.rings.make(connection)
        if descriptor is not None:
            try:
                self.flush(connection, descriptor)
            finally:
                primitives.close(descriptor)

    def read_ring(self, connection: Connection, *, doorbell: bool) -> int:
        """Read once what the ring holds, and wake who waits for room in it."""
        if self._unfinished.scarce and self._waits(connection):
            return 0
        if doorbell:
            connection.clear_doorbell()
        # Asked before the ring is read: what the peer wrote before its end is in it by then.
        size, announces = 0, False
        try:
            size = self.read_socket(connection)
            if size > 0 and connection.open and connection.ring is not None:
                announces = connection.ring.wake_writer()
        except ValueError as exc:
            self._fail(connection, malformed("ring", str(exc)))
        if not connection.open:
            return size
        if size:
            self.rings.unread[connection] = None
        elif connection.ended:
            self._end(connection)
        if announces and connection.state is not None and not connection.out:
            connection.session.acknowledge(connection.state.accepted_seq)
            self.flush(connection)
        return size

    # -- answers ----------------------------------------------------------------------------

    def send_acks(self) -> None:
        """Send the acknowledgements that are due, one a producer."""
        if not self.pending_acks:
            return
        pending, self.pending_acks = self.pending_acks, set()
        for state in pending:
            connection = self._by_producer.get(state)
            if connection is None:
                continue
            if connection.out:
                self.pending_acks.add(state)  # the peer reads slowly: one will stand for many
                continue
            connection.session.acknowledge(state.accepted_seq)
            self.flush(connection)

    def flush(self, connection: Connection, descriptor: int | None = None) -> None:
        """Send what the peer will take now, and wait for room for the rest."""
        changed = connection.flush(descriptor)
        if connection.refused is not None:
            self._tell_refused(connection, "send", connection.refused)
            connection.refused = None
        if changed:
            if connection not in self.held:
                self._poller.modify(connection, READ | WRITE if connection.out else READ)
            elif connection.out:
                self._poller.register(connection, WRITE, connection)
            else:
                self._poller.unregister(connection)
        if connection.out or self._clock.due:
            self._clock.follow_reply(connection)

    def accept(self, state: ProducerState | None, seq: int) -> None:
        """Note that a producer's messages below ``seq`` are accepted."""
        if state is not None and seq > state.accepted_seq:
            state.accepted_seq = seq
            self.pending_acks.add(state)
