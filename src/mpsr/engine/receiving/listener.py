"""Accept connections, as many as there is a place for, and keep the address."""

from __future__ import annotations

import errno
import resource
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from mpsr.engine.receiving.keeping import Keeper
from mpsr.engine.receiving.shares import gives_way
from mpsr.limits import (
    ACCEPT_PAUSE,
    DESCRIPTOR_RESERVE,
    MAX_CONNECTIONS,
    MAX_UNPLACED,
    SILENT_START,
)
from mpsr.system import passing, primitives
from mpsr.system.poller import READ

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection
    from logging import Logger

    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.deadlines import Deadlines
    from mpsr.system.claims import Claim
    from mpsr.system.poller import AnyPoller

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """The socket of a claimed address, and the connections that wait for a place.

    Attributes:
        socket: what is listened at, or read from if it is a datagram socket.
        refuses: whether the kernel refuses descriptors for it.
        paused: whether accepting is suspended.
        unplaced: connections that were accepted, and for which there is no place yet.
        place_at: when those try again, on the clock of the deadlines; None if there are none.

    """

    def __init__(
        self, claim: Claim, poller: AnyPoller, clock: Deadlines, logger: Logger, *, most: int
    ) -> None:
        self._claim = claim
        self._poller = poller
        self._clock = clock
        self._logger = logger
        self._most = min(most, _spare_descriptors())
        self.socket: socket.socket = claim.socket
        # Those that wait on an inherited listener may have been passed something before.
        self.refuses: bool = passing.refuse(self.socket) and claim.address.kind != "fd"
        self._keeper = Keeper(claim, logger)
        self.paused: bool = False
        self._resume_at: float | None = None
        self.unplaced: deque[Connection] = deque()
        self.place_at: float | None = None
        self._pause_told = self._full_told = False

    def register(self) -> None:
        """Have the poller wait for the socket, and for the time to look at the address."""
        self._poller.register(self.socket, READ, self)
        if self._keeper.timer is not None:
            self._poller.register(self._keeper.timer, READ, None)

    def wait_times(self, now: float) -> list[float]:
        """Return the seconds after which there is something to do in any case."""
        times: list[float] = []
        if self._resume_at is not None:
            times.append(self._resume_at - now)
        if self._keeper.look_at is not None and self._keeper.timer is None:
            times.append(self._keeper.look_at - now)
        if self.place_at is not None:
            times.append(self._clock.seconds_to(self.place_at, now))
        return times

    # -- accepting --------------------------------------------------------------------------

    def accept(self) -> socket.socket | None:
        """Accept a connection; return None if there is none, or accepting has to pause."""
        try:
            sock = primitives.accept(self.socket)
        except OSError as exc:  # there is none, or it is gone by now
            if exc.errno in _NO_DESCRIPTORS:
                self._pause(str(exc), self._clock.monotonic(ACCEPT_PAUSE))
            return None
        sock.setblocking(False)
        return sock

    def place(
        self,
        connections: Collection[Connection],
        admit: Callable[[Connection], None],
        dismiss: Callable[[Connection], None],
        *,
        anyhow: bool = False,
    ) -> None:
        """Admit connections that wait, as far as there is a place for them.

        Where there is none, one of ``connections`` may be dismissed for another to be admitted.
        """
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
                dismiss(silent)
            admit(connection)
        if self.unplaced and not self._full_told:
            self._full_told = True  # once: a receiver that lives at its limit would flood the log
            count = len(connections)
            what = "connection is open" if count == 1 else "connections are open"
            self._logger.warning("stopped accepting for now: %d %s, the most allowed", count, what)
        self.place_at = self._clock.now + SILENT_START if self.unplaced else None

    def place_soon(self) -> None:
        """Let those that wait for a place try again: one has come free."""
        if self.unplaced and self.place_at is not None:
            self.place_at = self._clock.now

    def crowd(self, connections: Collection[Connection]) -> Connection | None:
        """Return whom to turn away, where too many wait for a place; else pause accepting."""
        if len(self.unplaced) <= MAX_UNPLACED:
            return None
        holding = Counter(each.uid for each in (*connections, *self.unplaced))
        if len(holding) == 1:  # nobody else is held up: the next ones wait in the backlog
            self._pause("too many wait for a place", self._clock.monotonic(SILENT_START))
            return None
        crowding = max(self.unplaced, key=lambda each: (holding[each.uid], each.order))
        self.unplaced.remove(crowding)
        return crowding

    def _pause(self, why: str, until: float | None = None) -> None:
        """Stop accepting; what connects meanwhile waits in the backlog."""
        if not (self._pause_told or self._full_told):
            self._pause_told = True  # once: a receiver that lives at its limit would flood the log
            self._logger.warning("stopped accepting for now: %s", why)
        self.pause()
        self._resume_at = until

    def pause(self) -> None:
        """Stop waiting for the socket."""
        if not self.paused:
            self._poller.unregister(self.socket)
        self.paused = True

    def resume(self) -> None:
        """Accept again, where that was paused."""
        if self.paused:
            self.paused = False
            self._resume_at = None
            self._poller.register(self.socket, READ, self)

    # -- the address ------------------------------------------------------------------------

    def keep_open(self, now: float, read: Callable[[], None]) -> None:
        """Accept again after a pause; listen anew where the path does not lead to us any more.

        ``read`` accepts first what has connected to the socket before.
        """
        if self._keeper.look_at is not None and now >= self._keeper.look_at:
            self._keep_address(now, read)
        if self._resume_at is not None and now >= self._resume_at:
            self.resume()

    def _keep_address(self, now: float, read: Callable[[], None]) -> None:
        claimed = self._keeper.look(now)
        if claimed is None:
            return
        if not self.paused:
            read()
        if not self.paused:
            self._poller.unregister(self.socket)
        self._claim.abandon()
        self._claim, self.socket = claimed, claimed.socket
        self.refuses = passing.refuse(self.socket)
        if not self.paused:
            self._poller.register(self.socket, READ, self)

    def close(self, *, inherited: bool = False) -> None:
        """Close what waits for a place, and give the address up.

        An ``inherited`` one is the parent's, and only the descriptors are closed.
        """
        while self.unplaced:
            self.unplaced.popleft().close()
        if inherited:
            self._claim.abandon()
        else:
            self._claim.close()
        self._keeper.close()

    def let_go(self) -> None:
        """Forget the descriptors, whose numbers may be somebody else's by now."""
        for connection in self.unplaced:
            connection.open = False
            connection.socket.detach()
        self.unplaced.clear()
        self._claim.let_go()

    def __str__(self) -> str:
        return str(self._claim.address)


def _spare_descriptors() -> int:
    """Return how many connections the process's descriptor limit leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS * 1024 if soft < 0 else max(1, soft - DESCRIPTOR_RESERVE)
