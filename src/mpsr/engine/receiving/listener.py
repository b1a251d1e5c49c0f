"""Listen at one address: accept connections, or read datagrams, and keep the address."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from mpsr.engine.receiving.keeping import Keeper
from mpsr.limits import ACCEPT_PAUSE
from mpsr.system import passing
from mpsr.system.poller import READ
from mpsr.system.sockets import unread_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

    from mpsr.engine.receiving.deadlines import Deadlines
    from mpsr.engine.receiving.held import Held
    from mpsr.system.claims import Claim
    from mpsr.system.descriptors import Socket
    from mpsr.system.poller import AnyPoller
    from mpsr.wire.framing import Framing

_NONE_WAITS: Final = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EBADF})
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """The socket of a claimed address.

    Attributes:
        address: what was claimed, as text.
        framing: how the bytes that come there become messages.
        socket: what is listened at, or read from if it is a datagram socket.
        type: of the socket: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
        refuses: whether the kernel refuses descriptors for it.
        paused: whether accepting is suspended.
        starved: whether the last try to accept found no descriptor left.

    """

    def __init__(
        self,
        claim: Claim,
        framing: Framing,
        poller: AnyPoller,
        clock: Deadlines,
        logger: Logger,
        *,
        held: Held,
    ) -> None:
        self.address: str = str(claim.address)
        self.framing: Framing = framing
        self.type: int = claim.socket.type
        self._claim = claim
        self._poller = poller
        self._clock = clock
        self._logger = logger
        self._held = held
        self.socket: Socket = claim.socket
        # Those that wait on an inherited listener may have been passed something before.
        self.refuses: bool = passing.refuse(self.socket) and claim.address.kind not in (
            "fd",
            "systemd",
        )
        self._keeper = Keeper(claim, logger)
        self.paused: bool = False
        self.starved: bool = False
        self._resume_at: float | None = None
        self._told: set[str] = set()  # why it has paused

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
        return times

    def has_datagram(self) -> bool:
        """Return whether a datagram waits to be read."""
        return self.type == socket.SOCK_DGRAM and unread_in(self.socket) > 0

    # -- accepting --------------------------------------------------------------------------

    def accept(self) -> tuple[Socket, int] | None:
        """Accept a connection; return it with its number in the order of all.

        None says that there is none, or that accepting has to pause.
        """
        self.starved = False
        try:
            return self._held.accept(self.socket)
        except OSError as exc:
            if exc.errno not in _NONE_WAITS:  # there is one, and it stays in the backlog
                self.starved = exc.errno in _NO_DESCRIPTORS
                self.fail("accept", exc)
            return None

    def fail(self, call: str, error: OSError) -> None:
        """Pause because a system call was refused: to call again at once would be a busy loop."""
        self.pause_for(ACCEPT_PAUSE, f"{call}: {error.strerror}")

    def pause_for(self, seconds: float, why: str = "") -> None:
        """Stop accepting for so long; what connects meanwhile waits in the backlog."""
        if why and why not in self._told:
            self._told.add(why)  # once: a receiver that lives at its limit would flood the log
            self._logger.warning("stopped accepting for now: %s", why)
        self.pause()
        self._resume_at = self._clock.monotonic(seconds)

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

    def keep_open(self, now: float, read: Callable[[Listener], None]) -> bool:
        """Accept again after a pause; listen anew where the path does not lead to us any more.

        ``read`` accepts first what has connected to the socket before. Return whether the socket
        is another one now.
        """
        before = self.socket
        if self._keeper.look_at is not None and now >= self._keeper.look_at:
            self._keep_address(now, read)
        if self._resume_at is not None and now >= self._resume_at:
            self.resume()
        return self.socket is not before

    def _keep_address(self, now: float, read: Callable[[Listener], None]) -> None:
        claimed = self._keeper.look(now)
        if claimed is None:
            return
        if not self.paused:
            read(self)
        if not self.paused:
            self._poller.unregister(self.socket)
        with self._held.lock:
            self._claim.abandon()
            self._claim, self.socket = claimed, claimed.socket
        self.refuses = passing.refuse(self.socket)
        if not self.paused:
            self._poller.register(self.socket, READ, self)

    def close(self, *, inherited: bool = False) -> None:
        """Give the address up; of one that is ``inherited``, close the descriptors alone."""
        if inherited:
            self._claim.abandon()
        else:
            self._claim.close()
        self._keeper.close()

    @property
    def may_go_on(self) -> bool:
        """Whether the address can be another receiver's: it is no inherited descriptor."""
        return self._claim.address.kind in ("path", "abstract")

    def offer(self) -> tuple[dict[str, Any], list[int]]:
        """Return what a new receiver has to know of the address, and its descriptors."""
        return self._claim.offer()

    def keep_no_longer(self) -> None:
        """Close the timer alone: the claim is still the caller's."""
        self._keeper.close()
