"""Read what has arrived by the time of a stop, and nothing that comes later."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.connections import Connections


class Draining:
    """What is left to be read from each connection.

    Attributes:
        begun: whether the stop has come.

    """

    def __init__(self, connections: Connections) -> None:
        self.begun: bool = False
        self._connections = connections
        self._left: deque[tuple[Connection, int]] = deque()

    def begin(self) -> None:
        """Note what has arrived by now."""
        self.begun = True
        self._connections.drain()
        self._left.extend((each, each.unread()) for each in self._connections.open)

    def drain(self) -> bool:
        """Read until there is a batch; return whether there was none any more."""
        pending = self._connections.pending
        while self._left and not pending:
            connection, left = self._left.popleft()
            if not connection.open:
                continue
            if left > 0:
                size = self._connections.read(connection)
                if size:
                    self._left.appendleft((connection, left - size))
            elif connection.has_ended():
                self._connections.read(connection)
        return not pending
