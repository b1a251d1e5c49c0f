"""Give rings of shared memory to producers that send much, and know which may hold more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mpsr.engine.transport import RingReader
from mpsr.limits import MAX_RINGS, MAX_RINGS_PER_UID, RING_AFTER, RING_SIZE
from mpsr.system import primitives, ring
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from mpsr.engine.receiving.connection import Connection


class Rings:
    """The rings that a receiver has given.

    Attributes:
        unread: connections whose rings may hold more; no doorbell will tell.

    """

    def __init__(self, most_per_uid: int = MAX_RINGS_PER_UID) -> None:
        self.unread: dict[Connection, None] = {}
        self._most_per_uid = most_per_uid
        self._given = 0
        self._given_to: Counter[int | None] = Counter()

    def offer(self, connection: Connection) -> None:
        """Give the connection a ring once it has sent enough: its producer can take one."""
        if ring.AVAILABLE:
            connection.until_ring = RING_AFTER

    def make(self, connection: Connection) -> int | None:
        """Return the descriptor of a new ring for a connection's peer; the caller closes it.

        A producer for which there is no ring now may have one later.
        """
        connection.until_ring = RING_AFTER
        if self._given >= MAX_RINGS or connection.session.state is not State.OPEN:
            return None
        if self._given_to[connection.uid] >= self._most_per_uid:
            return None
        try:
            descriptor, reader = ring.make()
        except OSError:
            return None  # it does not need one
        connection.ring = RingReader(reader)
        connection.until_ring = 0
        self._given += 1
        self._given_to[connection.uid] += 1
        try:
            connection.session.give_ring(RING_SIZE)
        except BaseException:
            primitives.close(descriptor)
            raise
        return descriptor

    def move(self, connection: Connection) -> None:
        """Read from the ring from now on: the producer has moved to it."""
        if connection.ring is not None:
            connection.reader, connection.in_ring = connection.ring, True
            self.unread[connection] = None  # its doorbells may have come before

    def forget(self, connection: Connection) -> None:
        """Take the ring back: the connection is closed."""
        self.unread.pop(connection, None)
        if connection.ring is not None:
            self._given -= 1
            self._given_to -= Counter([connection.uid])  # keeps what is above 0
