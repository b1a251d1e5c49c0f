"""Receive from listeners and their connections, never waiting.

The inbox owns one poller, whose descriptor (``fileno``) is readable when there is something to
do, and gives out batches one at a time (``next_batch``). It reads only when it has none left, one
bounded read at a time, so that the kernel's socket buffers are the queue.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mpsr.batch import Batch, state_of
from mpsr.engine.receiving.acceptor import Acceptor
from mpsr.engine.receiving.allowances import UserLimits
from mpsr.engine.receiving.complaints import logger
from mpsr.engine.receiving.connections import Connections
from mpsr.engine.receiving.deadlines import Deadlines
from mpsr.engine.receiving.draining import Draining
from mpsr.engine.receiving.handover import Giver, Handovers
from mpsr.engine.receiving.held import Held
from mpsr.engine.receiving.inherited import NOTHING, Inherited
from mpsr.engine.receiving.listener import Listener
from mpsr.engine.receiving.observers import Observers
from mpsr.engine.receiving.overview import Overview
from mpsr.engine.receiving.senders import Senders
from mpsr.engine.receiving.sharing import RING, Sharing
from mpsr.engine.receiving.waking import Waking
from mpsr.errors import Explanation, MpsrError
from mpsr.limits import ACK_DELAY, MAX_CONNECTIONS, MAX_MESSAGE
from mpsr.stats import ReceiverStats
from mpsr.system import closing
from mpsr.system.clock import monotonic
from mpsr.system.heap import keep_freed_memory
from mpsr.system.poller import READ, WRITE, Poller
from mpsr.wire.frames import Handover, Observe
from mpsr.wire.ledger import Ledger
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mpsr.engine.receiving.connection import Connection
    from mpsr.system.claims import Claim
    from mpsr.wire.framing import Framing


class Inbox:
    """The receiving engine.

    Attributes:
        finished: whether all that came before ``stop`` is handed out.
        closed: whether it is closed, or being closed.
        released: whether it has closed its descriptors and given up the address.

    """

    def __init__(
        self,
        claims: Sequence[tuple[Claim, Framing]],
        *,
        senders: Senders | None = None,
        inherited: Inherited = NOTHING,
        max_message: int = MAX_MESSAGE,
        max_connections: int = MAX_CONNECTIONS,
        per_uid: UserLimits | None = None,
        decode: Callable[[bytes], Any] | None = None,
        accept_files: bool = False,
        observers: frozenset[int] = frozenset(),
    ) -> None:
        """Listen at claimed addresses, with a framing at each, to some senders or to all."""
        keep_freed_memory()
        self._logger = logger()  # loaded while there are descriptors to load it with
        self._clock = Deadlines()
        self._ready: deque[tuple[Any, int]] = deque()  # what the poller found to do
        self._senders = senders or Senders()
        per_uid = per_uid or UserLimits()
        with ExitStack() as undo:
            self._poller = Poller()
            undo.callback(self._poller.close)
            self._waking = Waking()
            self._wakeup = self._waking.wakeup
            undo.callback(self._wakeup.close)
            self._poller.register(self._wakeup, READ, self._wakeup)
            self._held = Held(self._wakeup.set)
            self.observers: Observers = Observers(self._held, observers)
            undo.callback(self.observers.close)
            self._connections = Connections(
                self._poller,
                self._clock,
                self._logger,
                max_message=max_message,
                freed=self._freed,
                asked=self._asked,
                refused=lambda each, why: self._senders.count(each.peer, why, self._logger),
                wake=self._wakeup.set,
                max_rings_per_uid=per_uid.rings,
            )
            self._waking.left = self._left
            self._sharing = Sharing(
                per_uid, self._poller, self._connections, self._ready, self._serve
            )
            undo.callback(self._sharing.close)
            self._acceptor = Acceptor(
                claims,
                self._poller,
                self._clock,
                self._logger,
                connections=self._connections,
                held=self._held,
                ready=self._ready,
                senders=self._senders,
                max_connections=max_connections,
                max_connections_per_uid=per_uid.connections,
                max_message=max_message,
                decode=decode,
                accept_files=accept_files,
                may_observe=self.observers.permits,
            )
            undo.pop_all()
        overview = Overview(self, self._acceptor, self._connections)
        self.observers.look_at(self._acceptor.listeners, overview)
        self._acceptor.exchanged = self.observers.renew
        self.handover: Handovers = Handovers(
            self._poller, self._acceptor, self._connections, self._senders, self._logger
        )
        self._pending = self._connections.pending
        self._handed: Batch[Any] | None = None  # handed out and not acknowledged
        self._told_at = 0.0
        self._draining = Draining(self._connections)
        self.changed_at: float = monotonic()  # when a batch was handed out, or none was left
        self.finished: bool = False
        self.closed: bool = False
        self.released: bool = False
        self._batches = self._messages = self._nbytes = 0
        self._discarded = 0
        self._acceptor.adopt(inherited.connections)
        self.ledger.restore(inherited.producers, monotonic())

    @property
    def ledger(self) -> Ledger:
        """Where each producer stands."""
        return self._connections.ledger

    # -- for the fronts ---------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``next_batch`` has something to do."""
        return self._poller.fileno()

    def watch(self) -> None:
        """Keep ``fileno`` readable also while batches that were read wait to be handed out."""
        self._waking.watch()

    def signal(self, more: bool) -> None:  # noqa: FBT001 - a flag by nature
        """Tell a watcher whether the caller has something to come back for."""
        if self._waking.watched:
            rings, turns = self._connections.rings, self._sharing.turns
            self._waking.signal(more or bool(self._pending or rings.unread or turns.waiting))

    def next_batch(self, now: float) -> Batch[Any] | None:
        """Acknowledge the batch handed out before; return the next, or None for now."""
        self._clock.set_clock(now, waits=self._acceptor.places.try_at is not None)
        handed = self._handed
        if handed is not None:
            self._connections.accept(state_of(handed), handed.end_seq)
            if handed.files:
                self._close_files(handed)
        if self._connections.pending_acks and now - self._told_at >= ACK_DELAY:
            self._told_at = now
            self._connections.send_acks()
        batch = self._next(now)
        if batch is not None or handed is not None:
            self.changed_at = now  # first, for whoever looks from another thread
        self._handed = batch
        if batch is None:
            self._connections.send_acks()
            self.handover.commit(now)
        else:
            self._clock.handed_at = now
            if self._connections.shared:  # while it is in hand, nothing else is read
                self._sharing.accepted((batch,))
        return batch

    def take(self, now: float) -> Batch[Any] | None:
        """Return the next batch, or None for now; the caller accepts it later."""
        self._clock.set_clock(now, waits=self._acceptor.places.try_at is not None)
        return self._next(now)

    def put_back(self, batches: Sequence[Batch[Any]]) -> None:
        """Count what was taken, and cannot be accepted, as not handed out."""
        self._pending.extendleft(reversed(batches))

    def send_acks(self) -> None:
        """Send the acknowledgements that are due."""
        self._connections.send_acks()

    def accept(self, batches: Collection[Batch[Any]]) -> None:
        """Acknowledge what was taken."""
        for batch in batches:
            self._connections.accept(state_of(batch), batch.end_seq)
        if self._connections.shared:
            self._sharing.accepted(batches)
        self._connections.send_acks()

    def _next(self, now: float) -> Batch[Any] | None:
        if not self._pending:
            self._read_round(now)
            if not self._pending:
                return None
        batch = self._pending.popleft()
        self._batches += 1
        self._messages += len(batch)
        self._nbytes += batch.nbytes
        for sampler in self.observers.samplers:
            sampler.offer(batch, now)
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
        if batch is not None:
            seq = batch.end_seq if count is None else batch.first_seq + count
            self._connections.accept(state_of(batch), seq)
        if not more:
            self.disown()

    def disown(self) -> None:
        """Leave the batch handed out last unacknowledged: its handler did not finish."""
        batch, self._handed = self._handed, None
        if batch is not None:
            self._close_files(batch)

    def _close_files(self, batch: Batch[Any]) -> None:
        """Close what came with a batch, and nobody took, unless the program has closed all."""
        if batch.files and self._poller.intact:
            closing.close_apart(batch.take_files(), batch.peer.uid)

    def wait(self, seconds: float | None) -> None:
        """Wait until ``next_batch`` has something to do; for a front that waits for this alone."""
        more = self._connections.rings.unread or self._sharing.turns.waiting
        self._ready.extend(self._poller.poll(0 if more else seconds))

    def wait_time(self, now: float) -> float | None:
        """Return the seconds after which ``next_batch`` has something to do in any case."""
        times = self._acceptor.wait_times(now)
        if self._connections.shared:
            times += self._sharing.wait_times(now)
        if self._clock.due:
            times.append(self._clock.wait_time(now))
        if self._connections.rings.unread:
            times.append(0.0)
        times += self.handover.wait_times(now)
        return max(0.0, min(times)) if times else None

    def newcomers_time(self) -> float:
        """Return for how many seconds a producer that has just come may send its first message."""
        return self._connections.newcomers_time(monotonic())

    def stop(self) -> None:
        """Ask for an orderly end: take what has arrived by now, then finish.

        Safe in a signal handler and in any thread.
        """
        self._waking.stop()

    def stats(self) -> ReceiverStats:
        """Return what was seen so far."""
        acceptor = self._acceptor
        refused = dict(self._senders.refused)  # at once: the caller may be another thread
        return ReceiverStats(
            connections=len(self._connections.open),
            accepted=acceptor.accepted,
            batches=self._batches,
            messages=self._messages,
            nbytes=self._nbytes,
            lost=self._connections.lost,
            rejected=self._connections.rejected + acceptor.turned_away + acceptor.discarded,
            refused=sum(refused.values()),
            refused_by_uid=refused,
            discarded=self._discarded,
            paused=acceptor.paused,
            limited=bool(
                self._sharing.holding or acceptor.places.beyond or self._connections.files.stalled
            ),
            in_hand=0.0 if self._handed is None else monotonic() - self.changed_at,
        )

    @property
    def stopping(self) -> bool:
        """Whether an end was asked for, or somebody else is to be the receiver."""
        return self._waking.stop_asked or self.handover.alone

    # -- a round ----------------------------------------------------------------------------

    def _read_round(self, now: float) -> None:
        """Read from one ready connection after the other, until there is a batch."""
        self._check_descriptors()
        self.observers.engine_moves()
        if self.handover.alone:
            self._ready.clear()
            self.handover.listen(now)
            self.finished = self.handover.taken
            return
        if self._waking.stop_asked:
            if not self._draining.begun:
                self._begin_stop()
            self.finished = self._draining.drain()
            return
        self._acceptor.keep_open(now)
        if self._connections.shared:
            if self._sharing.take_turns(now):
                self._end_round()
            return
        ready, pending, unread = self._ready, self._pending, self._connections.rings.unread
        if not ready:
            ready.extend(self._poller.poll(0))
            if unread:
                ready.extend((each, RING) for each in unread)
                unread.clear()
        while ready and not pending:
            self._serve(*ready.popleft())
        if not ready and (self._clock.due or self._acceptor.places.try_at is not None):
            self._end_round()

    def _end_round(self) -> None:
        """Once all that was ready is read: see who has missed a deadline, or waits for a place."""
        self._connections.reject_late()
        if self._acceptor.places.due():
            self._acceptor.places.fill()

    def _serve(self, source: Any, events: int) -> int:  # noqa: ANN401 - what the poller holds
        """Do what a source is ready for; return how many bytes came from a connection."""
        if isinstance(source, Listener):
            self._acceptor.read(source)
        elif isinstance(source, Giver):
            self.handover.hear()
        elif source is self._wakeup:
            self._waking.calm()
            self._connections.resume()
        elif source is not None and source.open:
            if events & WRITE:
                self._connections.flush(source)
            if source.in_ring:
                return self._connections.read_ring(source, doorbell=events != RING)
            if events & READ:
                return self._connections.read(source)
        return 0

    def _left(self) -> bool:
        """Return whether something that another thread has brought about is still to be done."""
        return self._held.has_some() or self._connections.files.may_resume()

    def _freed(self, connection: Connection) -> None:
        """Use the place and the descriptor of a connection that was closed."""
        self._sharing.closed(connection)
        if not self._draining.begun:
            self._acceptor.resume()
        self._acceptor.places.fill_soon()

    # -- the hand-over ----------------------------------------------------------------------

    def _asked(self, connection: Connection, request: Handover | Observe) -> None:
        if isinstance(request, Handover):
            self.handover.ask(connection, ending=self._waking.stop_asked)
        elif connection.packets is None and connection.has_ended():
            self._acceptor.part_with(connection)
        elif self.observers.permits(connection.uid) and not self.observers.has_place(
            connection.uid
        ):
            self._clock.reject_late(connection)
        else:
            observer = self.observers.take(connection.fileno(), connection.uid, request)
            self._acceptor.part_with(connection)
            self.observers.begin(observer)

    @property
    def handed_over(self) -> bool:
        """Whether another one is the receiver now."""
        return self.handover.taken

    def end_handover(self) -> None:
        """Close what a hand-over was spoken through, once all that was handed over is released."""
        self.handover.end()

    # -- the end ----------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        """Note what has arrived by now; nothing that comes later is waited for."""
        self._acceptor.stop()
        self._ready.clear()
        self._sharing.stop()
        self._draining.begin()

    def close(self) -> None:
        """Send the acknowledgements, close all descriptors and release the address.

        If an exception such as KeyboardInterrupt ended a call, the next one does the remainder.
        """
        if self.released:
            return
        if not self._poller.intact:
            self.observers.close()
            self._let_go()
            return
        if not self.closed:
            self.handover.release()
            self._discarded = self._not_handed_out()
            self.closed = self.finished = True
        self.observers.close()
        self._connections.send_acks()
        for connection in self._connections.open:
            connection.close()
        self._connections.open.clear()
        self.disown()
        for batch in self._pending:
            self._close_files(batch)
        self._release(inherited=self.handed_over)
        if self._discarded:
            what = "closed with %d bytes of foreign messages not handed out"
            self._logger.warning(what, self._discarded)

    def _not_handed_out(self) -> int:
        """Return how many bytes of foreign messages were not handed out, and are lost."""
        count = sum(each.nbytes for each in self._pending if state_of(each) is None)
        for connection in self._connections.open:
            given = self.handover.gives(connection)
            if connection.session.state is State.FOREIGN and not given:
                count += connection.session.pending + connection.unread()
        return count

    def abandon(self) -> None:
        """Close the descriptors that a forked child inherited; the parent's stay as they are."""
        self.observers.abandon()
        self._let_go()

    def _let_go(self) -> None:
        """Close those of the descriptors that are open, and touch no file."""
        self.closed = self.finished = True
        self.handover.leave()
        for connection in self._connections.open:
            connection.open = False
            connection.close(inherited=True)
        for batch in self._pending:  # what was handed out may be what the child is for
            self._close_files(batch)
        self._connections.open.clear()
        self._release(inherited=True)

    def _release(self, *, inherited: bool = False) -> None:
        self._acceptor.close(inherited=inherited)
        self._poller.close()
        self._sharing.close()
        self._wakeup.close()
        self.released = True

    def _check_descriptors(self) -> None:
        """Raise MpsrError if the program has closed our descriptors, as one does for a daemon."""
        if not self._poller.intact:
            self.observers.close()
            self._let_go()
            what = f"the receiver at {self._acceptor} has lost its descriptors"
            raise MpsrError(
                Explanation(what, "the program has closed them", "make a receiver after that")
            )
