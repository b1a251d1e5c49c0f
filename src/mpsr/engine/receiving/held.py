"""Hold connections that were accepted while the engine stood still, until it takes them.

The engine accepts in its caller's thread, and another thread does where that one is busy for too
long. What they share stands here, under one lock, which gives every connection its number in the
order in which it was accepted: of two that speak for one producer, the later one counts.
"""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.limits import DESCRIPTOR_RESERVE, MAX_HELD
from mpsr.system import passing, primitives
from mpsr.system.descriptors import accept

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


class Held:
    """Connections that wait for the engine.

    Attributes:
        lock: to be held by whoever accepts, or exchanges the socket of a listener.
        waiting: the connections by their number, in the order in which they were accepted.
        rounds: how often the engine has looked at what is ready.
        closed: whether the engine has accepted its last connection.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Hold none; ``wake`` makes the engine come."""
        self.lock: RLock = primitives.RLock()  # a signal handler may close within
        self.waiting: dict[int, HeldConnection] = {}
        self.rounds: int = 0
        self.closed: bool = False
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

    def accept_apart(self, listener: Any, rounds: int | None) -> HeldConnection | None:  # noqa: ANN401 - the engine's own
        """Accept a connection in another thread, and hold it; None if there is none.

        Nor is any accepted if the engine has moved since ``rounds``, unless that is None.
        """
        with self.lock:
            moved = rounds is not None and rounds != self.rounds
            if moved or self.closed or not self._has_room():
                return None
            try:
                sock, order = self._accept(listener.socket)
            except OSError:
                return None
            held = HeldConnection(listener, sock, order)
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
        """Close the connections; in a forked child, another thread may have had the lock."""
        if inherited:
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
