"""Hold connections that were accepted while the engine stood still, until it takes them.

The engine accepts in its caller's thread, and another thread does where that one is busy for too
long. What they share stands here, under one lock, which gives every connection its number in the
order in which it was accepted: of two that speak for one producer, the later one counts.
"""

from __future__ import annotations

import resource
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.limits import DESCRIPTOR_RESERVE, MAX_HELD
from mpsr.system import passing, primitives

if TYPE_CHECKING:
    import socket
    from _thread import LockType
    from collections.abc import Callable


_RESERVE: Final = 2 * DESCRIPTOR_RESERVE  # descriptors: what is held takes none that are needed


class HeldConnection(NamedTuple):
    """A connection that waits for the engine."""

    listener: Any
    sock: socket.socket
    order: int


class Held:
    """Connections that wait for the engine.

    Attributes:
        lock: to be held by whoever accepts, or exchanges the socket of a listener.
        waiting: the connections, in the order in which they were accepted.
        rounds: how often the engine has looked at what is ready.
        closed: whether the engine has accepted its last connection.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Hold none; ``wake`` makes the engine come."""
        self.lock: LockType = primitives.Lock()
        self.waiting: deque[HeldConnection] = deque()
        self.rounds: int = 0
        self.closed: bool = False
        self.wake: Callable[[], None] = wake
        self._order = 0

    def accept(self, listening: socket.socket) -> tuple[socket.socket, int]:
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
            if moved or self.closed or len(self.waiting) >= MAX_HELD:
                return None
            try:
                sock, order = self._accept(listener.socket)
            except OSError:
                return None
            held = HeldConnection(listener, sock, order)
            self.waiting.append(held)
        return held

    def has_room(self) -> bool:
        """Tell whether one more may be held: descriptors are left to the rest of the program."""
        if not self.waiting:
            return True
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return soft < 0 or self.waiting[-1].sock.fileno() + _RESERVE < soft

    def remove(self, held: HeldConnection) -> bool:
        """Take a connection away from the engine; tell whether it was still there."""
        with self.lock:
            try:
                self.waiting.remove(held)
            except ValueError:
                return False
            return True

    def has_some(self) -> bool:
        """Tell whether a connection waits."""
        return bool(self.waiting)

    def take(self) -> HeldConnection | None:
        """Return the first that waits; None if there is none."""
        with self.lock:
            return self.waiting.popleft() if self.waiting else None

    def end(self) -> None:
        """Hold no more from now on."""
        with self.lock:
            self.closed = True

    def close(self, *, inherited: bool = False) -> None:
        """Close what waits; in a forked child, without the lock, which another thread may have."""
        self.closed = True
        while self.waiting:
            sock = self.waiting.popleft().sock
            if inherited:
                sock.close()
            else:
                passing.close_socket(sock)

    def let_go(self) -> None:
        """Forget the descriptors, whose numbers may be somebody else's by now."""
        self.closed = True
        while self.waiting:
            self.waiting.popleft().sock.detach()

    def _accept(self, listening: socket.socket) -> tuple[socket.socket, int]:
        sock = primitives.accept(listening)
        sock.setblocking(False)
        self._order += 1
        return sock, self._order
