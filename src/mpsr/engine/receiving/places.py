"""Place accepted connections among those that are open, which are limited in number."""

from __future__ import annotations

import resource
from collections import Counter, deque
from typing import TYPE_CHECKING

from mpsr.engine.receiving.shares import gives_way
from mpsr.limits import DESCRIPTOR_RESERVE, MAX_CONNECTIONS, MAX_UNPLACED, SILENT_START

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from logging import Logger

    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.deadlines import Deadlines


class Places:
    """The connections that wait for a place.

    Attributes:
        unplaced: connections that were accepted, and for which there is no place yet.
        try_at: when those try again, on the clock of the deadlines; None if there are none.
        full_told: whether the log says that there are no more places.

    """

    def __init__(
        self,
        most: int,
        clock: Deadlines,
        logger: Logger,
        *,
        connections: Collection[Connection],
        admit: Callable[[Connection], None],
        dismiss: Callable[[Connection], None],
    ) -> None:
        """Let there be ``most`` places.

        ``admit`` adds one to ``connections``, and ``dismiss`` removes one for another.
        """
        self._most = min(most, _spare_descriptors())
        self._clock = clock
        self._logger = logger
        self._connections = connections
        self._admit = admit
        self._dismiss = dismiss
        self.unplaced: deque[Connection] = deque()
        self.try_at: float | None = None
        self.full_told: bool = False

    def fill(self, *, anyhow: bool = False) -> None:
        """Admit connections that wait, as far as there is a place; with ``anyhow``, all."""
        connections = self._connections
        counts = Counter(each.uid for each in connections)
        # Those of a user who has few come first.
        left = sorted(self.unplaced, key=lambda each: (counts[each.uid], each.order))
        self.unplaced = deque()
        for connection in left:
            if not anyhow and len(connections) >= self._most:
                silent = gives_way(connections, connection.uid, self._clock.now)
                if silent is None:
                    self.unplaced.append(connection)
                    continue
                self._dismiss(silent)
            self._admit(connection)
        if self.unplaced and not self.full_told:
            self.full_told = True  # once: a receiver that lives at its limit would flood the log
            count = len(connections)
            what = "connection is open" if count == 1 else "connections are open"
            self._logger.warning("stopped accepting for now: %d %s, the most allowed", count, what)
        self.try_at = self._clock.now + SILENT_START if self.unplaced else None

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
        return len(self.unplaced) > MAX_UNPLACED

    def crowding(self) -> Connection | None:
        """Return whom to turn away, where too many wait; None if all are of one user.

        Then nobody else is held up, and the next ones can wait in the backlog.
        """
        holding = Counter(each.uid for each in (*self._connections, *self.unplaced))
        if len(holding) == 1:
            return None
        found = max(self.unplaced, key=lambda each: (holding[each.uid], each.order))
        self.unplaced.remove(found)
        return found

    def close(self) -> None:
        """Close the connections that wait."""
        while self.unplaced:
            self.unplaced.popleft().close()

    def let_go(self) -> None:
        """Forget the descriptors, whose numbers may be somebody else's by now."""
        for connection in self.unplaced:
            connection.open = False
            connection.socket.detach()
        self.unplaced.clear()


def _spare_descriptors() -> int:
    """Return how many connections the process's descriptor limit leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS * 1024 if soft < 0 else max(1, soft - DESCRIPTOR_RESERVE)
