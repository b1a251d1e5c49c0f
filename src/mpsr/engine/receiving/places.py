"""Place accepted connections among those that are open, which are limited in number."""

from __future__ import annotations

import resource
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from mpsr.engine.receiving.shares import gives_way, silent
from mpsr.limits import (
    COUNTED_UIDS,
    DESCRIPTOR_RESERVE,
    FEWER_PLACES,
    MAX_CONNECTIONS,
    MAX_UNPLACED,
    SILENT_START,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from logging import Logger

    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.deadlines import Deadlines

_NOBODY: Final = -1  # stands for a user who has no connection


class Places:
    """The connections that wait for a place.

    Attributes:
        unplaced: connections that were accepted, and for which there is no place yet.
        try_at: when those try again, on the clock of the deadlines; None if there are none.
        beyond: how many of them wait because their user has as many as it may.
        full_told: whether the log says that there are no more places.

    """

    def __init__(
        self,
        most: int,
        clock: Deadlines,
        logger: Logger,
        *,
        most_per_uid: int | None = None,
        connections: Collection[Connection],
        users: Counter[int | None],
        admit: Callable[[Connection], None],
        dismiss: Callable[[Connection], None],
    ) -> None:
        """Let there be ``most`` places, and ``most_per_uid`` of them for each user.

        ``admit`` adds one to ``connections``, and ``dismiss`` removes one for another; ``users``
        has how many each user has.
        """
        self._most = min(most, _spare_descriptors())
        self._most_per_uid = most_per_uid
        self._clock = clock
        self._logger = logger
        self._connections = connections
        self._users = users
        self._admit = admit
        self._dismiss = dismiss
        self.unplaced: deque[Connection] = deque()
        self.try_at: float | None = None
        self._fewer: int | None = None  # places, while descriptors are few
        self._fewer_until = 0.0
        self.beyond: int = 0
        self.full_told: bool = False
        self._waiting: set[int | None] = set()  # users for whose own limit others wait already
        self._told_of: set[int | None] = set()

    @property
    def full(self) -> bool:
        """Whether connections wait because there are no more places at all."""
        return len(self.unplaced) > self.beyond

    def add(self, connection: Connection) -> None:
        """Admit a connection, or have it wait for a place.

        To find who gives way takes a look at all. So it is put off where there is no place, and one
        of its user waits already or its user has most: a flood is to cost the others little.
        """
        uid = connection.uid
        if uid in self._waiting:
            self.unplaced.append(connection)
            self.beyond += 1
            return
        waits = any(each.uid == uid for each in self.unplaced)
        has_most = len(self._users) > 1 and self._users[uid] == max(self._users.values())
        self.unplaced.append(connection)
        if len(self._connections) < self.most or not (waits or has_most):
            self.fill()
        elif self.try_at is None:
            self.try_at = self._clock.now + SILENT_START

    def fill(self, *, anyhow: bool = False) -> None:
        """Admit connections that wait, as far as there is a place; with ``anyhow``, all."""
        connections, most = self._connections, self.most
        counts = Counter(self._users)
        # Those of a user who has few come first.
        left = sorted(self.unplaced, key=lambda each: (counts[each.uid], each.order))
        self.unplaced, self.beyond = deque(), 0
        waiting = self._waiting = set()
        placeless: set[int | None] = set()  # users to whom nobody gives way
        again = SILENT_START  # seconds
        for connection in left:
            uid = connection.uid
            beyond = self._most_per_uid is not None and counts[uid] >= self._most_per_uid
            if not anyhow and (beyond or len(connections) >= most):
                among: Collection[Connection] = connections
                if beyond:
                    among = _of(uid, connections)
                found = None
                if uid not in placeless:
                    found = gives_way(among, uid, self._clock.now)
                if found is not None and found.spare():
                    found, again = None, 0.0  # it is read first
                if found is None:
                    placeless.add(uid)
                    self.unplaced.append(connection)
                    if beyond:
                        self.beyond += 1
                        waiting.add(uid)
                    continue
                self._dismiss(found)
                counts[found.uid] -= 1
            self._admit(connection)
            counts[uid] += 1
        self._tell_of(waiting, counts)
        if self.full and not self.full_told:
            self.full_told = True  # once: a receiver that lives at its limit would flood the log
            count = len(connections)
            what = "connection is open" if count == 1 else "connections are open"
            self._logger.warning("stopped accepting for now: %d %s, the most allowed", count, what)
        self.try_at = self._clock.now + again if self.unplaced else None

    def _tell_of(self, waiting: set[int | None], counts: Counter[int | None]) -> None:
        for uid in waiting - self._told_of:
            if len(self._told_of) < COUNTED_UIDS:  # once a user, as below
                self._told_of.add(uid)
                what = "uid %s has %d of the connections, the most it may have: more of it wait"
                self._logger.warning(what, uid, counts[uid])

    def fill_soon(self) -> None:
        """Let those that wait for a place try again: one has come free."""
        if self.unplaced and self.try_at is not None:
            self.try_at = self._clock.now

    def wait_times(self, now: float) -> list[float]:
        """Return the seconds until ``due``, if that will be."""
        return [] if self.try_at is None else [self._clock.seconds_to(self.try_at, now)]

    def due(self) -> bool:
        """Tell whether it is time to try again."""
        return self.try_at is not None and self._clock.now >= self.try_at

    def crowded(self) -> bool:
        """Tell whether too many wait for a place."""
        free = max(0, self.most - len(self._connections))  # for those of other users
        return len(self.unplaced) > MAX_UNPLACED + free

    def crowding(self) -> Connection | None:
        """Return whom to turn away, where too many wait; None if all are of one user.

        Then nobody else is held up, and the next ones can wait in the backlog; but not where
        the user has as many as it may, while there is room for others behind them.
        """
        if self.unplaced[-1].uid in self._waiting:
            self.beyond -= 1
            return self.unplaced.pop()
        holding = self._holding()
        if len(holding) == 1 and self._most_per_uid is None:
            return None
        found = max(self.unplaced, key=lambda each: (holding[each.uid], each.order))
        self.unplaced.remove(found)
        return found

    def turns_away(self, uid: int | None) -> bool:
        """Tell whether a newcomer of that user would be the one to turn away."""
        free = max(0, self.most - len(self._connections))
        if len(self.unplaced) < MAX_UNPLACED + free:
            return False
        if uid in self._waiting:
            return True
        holding = self._holding()
        holding[uid] += 1
        if len(holding) == 1 and self._most_per_uid is None:
            return False
        return holding[uid] == max(holding.values())

    def make_way(self) -> bool:
        """Dismiss connections, where no descriptor is left; tell whether there were any.

        They are such as have been silent since they came, or the longest silent ones of users who
        have more than others. For a while there are then no more places than are taken: so there
        are descriptors for those who wait, and it is known whose they are.
        """
        now = self._clock.now
        among = {each for each in self._connections if silent(each, now)}
        if len(self._users) == 1:
            among = {each for each in among if not each.heard}
        dismissed = 0
        while dismissed <= MAX_UNPLACED and (found := gives_way(among, _NOBODY, now)) is not None:
            among.discard(found)
            if not found.spare():
                self._dismiss(found)
                dismissed += 1
        if dismissed:
            self._fewer, self._fewer_until = max(1, len(self._connections)), now + FEWER_PLACES
        return dismissed > 0

    @property
    def most(self) -> int:
        """How many places there are now."""
        if self._fewer is not None and self._clock.now >= self._fewer_until:
            self._fewer = None
        return self._most if self._fewer is None else self._fewer

    def _holding(self) -> Counter[int | None]:
        """Return how many connections each user has, with those that wait."""
        holding = Counter(self._users)
        holding.update(each.uid for each in self.unplaced)
        return holding

    def close(self) -> None:
        """Close the connections that wait."""
        while self.unplaced:
            self.unplaced.popleft().close()


def _of(uid: int | None, connections: Iterable[Connection]) -> list[Connection]:
    return [each for each in connections if each.uid == uid]


def _spare_descriptors() -> int:
    """Return how many connections the process's descriptor limit leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS * 1024 if soft < 0 else max(1, soft - DESCRIPTOR_RESERVE)
