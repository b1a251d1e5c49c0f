"""Hold connections that were accepted while the engine stood still, until it takes them.

The engine accepts in its caller's thread, and another thread does where that one is busy for too
long. What they share stands here, under one lock, which gives every connection its number in the
order in which it was accepted: of two that speak for one producer, the later one counts.

The room is shared by user. If there is none left, the user with the most connections loses those
that have been silent longest, so that no user keeps the others in the backlog.
"""

from __future__ import annotations

import os
import resource
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.limits import (
    DESCRIPTOR_RESERVE,
    HELD_EVICTIONS,
    LOOK_AGAIN,
    MAX_HELD,
    MAX_HELD_PER_UID,
)
from mpsr.system import passing, primitives
from mpsr.system.descriptors import accept
from mpsr.system.sockets import peer_of
from mpsr.system.threads import are_stopped
from mpsr.wire.frames import PREFACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.system.descriptors import Socket
    from mpsr.system.primitives import RLock

_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT
_RESERVE: Final = 2 * DESCRIPTOR_RESERVE  # descriptors: what is held takes none that are needed


class HeldConnection(NamedTuple):
    """A connection that waits for the engine."""

    listener: Any
    sock: Socket
    order: int
    uid: int | None
    since: float


class Held:
    """Connections that wait for the engine.

    Attributes:
        lock: to be held by whoever accepts, or exchanges the socket of a listener.
        waiting: the connections by their number, in the order in which they were accepted.
        rounds: how often the engine has looked at what is ready.
        closed: whether the engine has accepted its last connection.
        full: whether a connection may wait in the backlog because there was no room.
        evicted: connections that were closed to make room.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Hold none; ``wake`` makes the engine come."""
        self.lock: RLock = primitives.RLock()  # a signal handler may close within
        self.waiting: dict[int, HeldConnection] = {}
        self.rounds: int = 0
        self.closed: bool = False
        self.full: bool = False
        self.evicted: int = 0
        self.wake: Callable[[], None] = wake
        self._order = 0

    def accept(self, listening: socket.socket) -> tuple[Socket, int]:
        """Accept a connection in the engine; return it with its number.

        Raises OSError where there is none.
        """
        with self.lock:
            return self._accept(listening)

    def adopt(self) -> int:
        """Return the number of a connection that was accepted elsewhere."""
        with self.lock:
            self._order += 1
            return self._order

    def accept_apart(
        self,
        listener: Any,  # noqa: ANN401 - the engine's own
        rounds: int | None,
        now: float,
    ) -> HeldConnection | None:
        """Accept a connection in another thread, and hold it; None if there is none.

        Nor is any accepted if the engine has moved since ``rounds``, unless that is None, or if
        there is no room.
        """
        with self.lock:
            self.full = False
            moved = rounds is not None and rounds != self.rounds
            if moved or self.closed:
                return None
            if not (self._has_room() or self._make_room(now)):
                self.full = True
                return None
            try:
                sock, order = self._accept(listener.socket)
            except OSError:
                return None
            held = HeldConnection(listener, sock, order, peer_of(sock).uid, now)
            self.waiting[order] = held
        return held

    def _has_room(self) -> bool:
        """Return whether another one may be held: the program needs descriptors, too."""
        if not self.waiting:
            return True
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        newest = next(reversed(self.waiting.values()))
        enough = soft < 0 or newest.sock.fileno() + _RESERVE < soft
        return enough and len(self.waiting) < MAX_HELD

    def _make_room(self, now: float) -> bool:
        """Evict connections of the user who has most; return whether there were any to evict.

        The first to go are those that have sent nothing, the oldest first. Of a user that holds
        more than its part, those that have sent data go next, the newest first: a producer
        connects again and resends. Foreign data cannot be sent again, so that of the receiver's
        own user and of root stays: they have other ways to stop a receiver.
        """
        users = Counter(each.uid for each in self.waiting.values())
        ((uid, count),) = users.most_common(1)
        settled = [
            (each, _first_byte(each.sock))
            for each in self.waiting.values()
            if each.uid == uid and each.since <= now - LOOK_AGAIN
        ]
        evicted = [each for each, first in settled if not first][:HELD_EVICTIONS]
        if not evicted and count > MAX_HELD_PER_UID:
            ours = uid in (0, os.geteuid())
            spoken = [each for each, first in settled if not ours or first == PREFACE[:1]]
            evicted = spoken[-HELD_EVICTIONS:]
        for each in evicted:
            del self.waiting[each.order]
            passing.close_socket(each.sock)
        self.evicted += len(evicted)
        return bool(evicted) and self._has_room()

    def peek(self, held: HeldConnection, size: int) -> bytes | None:
        """Return the first bytes of a connection; None if the engine has taken it, or it failed."""
        with self.lock:  # the engine takes it, and may close it, only after that
            if held.order not in self.waiting:
                return None
            try:
                return held.sock.recv(size, _PEEK)
            except BlockingIOError:
                return b""
            except OSError:
                return None

    def remove(self, held: HeldConnection) -> bool:
        """Take a connection away from the engine; return whether it was still there."""
        with self.lock:
            return self.waiting.pop(held.order, None) is not None

    def has_some(self) -> bool:
        """Tell whether a connection waits."""
        return bool(self.waiting)

    def take(self) -> HeldConnection | None:
        """Return the first that waits; None if there is none."""
        with self.lock:
            return self._first()

    def end(self) -> None:
        """Hold no more from now on."""
        with self.lock:
            self.closed = True

    def close(self, *, inherited: bool = False) -> None:
        """Close the connections, also if a thread that no longer runs holds the lock."""
        if inherited or are_stopped():
            self.lock = primitives.RLock()
        self.end()
        while (held := self.take()) is not None:
            if inherited:
                held.sock.close()
            else:
                passing.close_socket(held.sock)

    def _first(self) -> HeldConnection | None:
        return self.waiting.pop(next(iter(self.waiting))) if self.waiting else None

    def _accept(self, listening: socket.socket) -> tuple[Socket, int]:
        sock = accept(listening)
        sock.setblocking(False)
        self._order += 1
        return sock, self._order


def _first_byte(sock: socket.socket) -> bytes:
    """Return the first byte that has arrived; b"" if there is none."""
    try:
        return sock.recv(1, _PEEK)
    except OSError:
        return b""
