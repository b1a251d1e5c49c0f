"""Serve what is ready by turns of users, within what each may have.

It takes the place of the plain order, that of the poller, where there is more than one user, or a
limit of bytes or messages for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mpsr.engine.receiving.allowances import Allowances
from mpsr.engine.receiving.connection import Connection
from mpsr.engine.receiving.turns import Turns
from mpsr.limits import FIRST_READ, READ_SIZE, TURN_COST
from mpsr.system.poller import READ, WRITE
from mpsr.system.timer import Timer, make_timer

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Hashable, Iterable

    from mpsr.batch import Batch
    from mpsr.engine.receiving.allowances import UserLimits
    from mpsr.engine.receiving.connections import Connections
    from mpsr.system.poller import AnyPoller

RING: Final = 1 << 16  # no event of a poller: read the ring, though no doorbell has rung


class Sharing:
    """Shares the receiver's time among users.

    Attributes:
        turns: what is ready and was not served.

    """

    def __init__(
        self,
        limits: UserLimits,
        poller: AnyPoller,
        connections: Connections,
        ready: deque[tuple[Any, int]],
        serve: Callable[[Any, int], int],
    ) -> None:
        """Serve what comes to be ``ready`` with a function, which returns how much was read."""
        self._poller = poller
        self._connections = connections
        self._ready = ready
        self._serve = serve
        self._allowances: Allowances[Connection] = Allowances(limits)
        self._limited = connections.shared = self._allowances.limited
        self.turns: Turns[Any] = Turns()
        self._unlooked = 0  # bytes read since the poller was asked
        self._timer: Timer | None = make_timer() if self._limited else None
        if self._timer is not None:
            poller.register(self._timer, READ, None)

    @property
    def holding(self) -> bool:
        """Whether a user is at a limit, so that something is not read."""
        return self._allowances.holding

    def wait_times(self, now: float) -> list[float]:
        """Return the seconds after which there is something to do in any case."""
        if self.turns.waiting:
            return [0.0]
        wait = self._allowances.wait_time(now) if self._allowances.holding else None
        return [] if wait is None else [wait]

    # -- a round ----------------------------------------------------------------------------

    def take_turns(self, now: float) -> bool:
        """Serve until there is a batch, or a round is over; tell whether the poller was asked."""
        looked = self._unlooked >= READ_SIZE
        if looked:
            self._look(now)
        self._serve_ready(now)
        if not (looked or self._connections.pending):
            looked = True
            self._look(now)
            self._serve_ready(now)
        self._set_timer(now)
        if not (self._limited or self.turns.waiting):
            self._connections.shared = len(self._connections.users) > 1
        return looked

    def _look(self, now: float) -> None:
        """Find what is ready, and what may be read again."""
        self._unlooked = 0
        if self._allowances.holding:
            for each in self._allowances.release(now):
                self._connections.release(each)
                self._ready.append((each, READ))
        self._ready.extend(self._poller.poll(0))
        unread = self._connections.rings.unread
        self._ready.extend((each, RING) for each in unread)
        unread.clear()

    def _serve_ready(self, now: float) -> None:
        turns, ready, pending = self.turns, self._ready, self._connections.pending
        while ready:
            source, events = ready.popleft()
            if source is not None:
                turns.add(_user_of(source), source, events)
        while turns.waiting and not pending and self._unlooked < READ_SIZE:
            user, source, events = turns.take()
            size = 0
            try:
                size = self._serve_turn(user, source, events, now)
            finally:
                turns.charge(user, size)
            self._unlooked += max(size, TURN_COST)

    def _serve_turn(self, user: Hashable, source: Any, events: int, now: float) -> int:  # noqa: ANN401 - what the poller holds
        connection = source if isinstance(source, Connection) else None
        if connection is not None and not connection.open:
            return 0
        if not self._limited:
            size = self._serve(source, events)
        elif connection is not None and not self._allowances.may_read(user, connection, now):
            if events & WRITE:
                self._connections.flush(connection)
            if connection.open:
                self._allowances.hold(user, connection, now)
                self._connections.hold(connection)
            return 0
        else:
            size = self._serve(source, events)
            for batch in self._connections.pending:  # there was none before
                self._allowances.read(batch.peer.uid, batch.nbytes, len(batch), now)
            if connection is not None and connection.open:
                self._allowances.left(user, connection, connection.session.pending, now)
        if connection is None:
            return sum(batch.nbytes for batch in self._connections.pending) or FIRST_READ
        if size >= FIRST_READ and connection.open:  # there may be more, before the next look
            self.turns.add(user, connection, RING if connection.in_ring else READ)
        return size

    def _set_timer(self, now: float) -> None:
        """Have the poller's descriptor tell whoever waits for it alone."""
        if self._timer is None:
            return
        wait = self._allowances.wait_time(now) if self._allowances.holding else None
        if wait is None:
            self._timer.clear()
        else:
            self._timer.set(now + wait)

    # -- what happens elsewhere -------------------------------------------------------------

    def accepted(self, batches: Iterable[Batch[Any]]) -> None:
        """Note that batches are out of our hands."""
        for batch in batches:
            self._allowances.accepted(batch.peer.uid, batch.nbytes, len(batch))

    def closed(self, connection: Connection) -> None:
        """Note that a connection was closed."""
        self._allowances.forget(connection.uid, connection)
        if connection.uid not in self._connections.users:
            self.turns.forget(connection.uid)

    def stop(self) -> None:
        """Take no more turns: what has arrived by now is read in any order."""
        self.turns = Turns()
        if self._timer is not None:
            self._timer.clear()

    def close(self) -> None:
        """Close the timer."""
        if self._timer is not None:
            self._timer.close()


def _user_of(source: Any) -> Hashable:  # noqa: ANN401 - what the poller holds
    """Return whose turn it is; a listener counts as a user of its own."""
    return source.uid if isinstance(source, Connection) else source
