"""Hold an observer's connection to a receiver; explain a missing answer."""

from __future__ import annotations

import os
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from mpsr import arguments
from mpsr.errors import (
    AddressDenied,
    AddressError,
    AddressOccupied,
    Closed,
    ConfigurationError,
    Explanation,
    MpsrError,
    NoReceiver,
    ReceiverBusy,
    RemoteProtocolError,
    TimedOut,
    WrongSocketType,
)
from mpsr.limits import BUSY_PAUSE, LONGEST_WAIT, OBSERVE_AGAIN, READ_SIZE
from mpsr.system.address import Address, SocketType, parse_address
from mpsr.system.clock import monotonic
from mpsr.system.endpoint import check_receiver, reach
from mpsr.system.poller import READ, Poller
from mpsr.system.sockets import peer_of
from mpsr.system.trust import trusted
from mpsr.wire.frames import Reject, RejectCode

if TYPE_CHECKING:
    import socket

    from mpsr.system.trust import ReceiverUid
    from mpsr.wire.observing import ObservingSession, Seen


class Observation:
    """An observer's connection."""

    def __init__(
        self,
        address: str | os.PathLike[str],
        session: ObservingSession,
        timeout: float | None,
        *,
        patience: float = 0.0,
        receiver_uid: ReceiverUid = None,
    ) -> None:
        """Connect to a receiver whose user is trusted, and send it the session's opening."""
        self._address = parse_address(address)
        self._session = session
        self.timeout: float | None = arguments.timeout(timeout)
        self._receivers = trusted(arguments.receiver_uid(receiver_uid))
        self._patience = patience
        self._answered = False
        self._sockets: list[socket.socket] = []  # one, or two until one of them is answered
        self._poller = Poller()
        try:
            self._connect_first()
        except BaseException:
            self._poller.close()
            raise

    def _connect_first(self) -> None:
        """Connect; wait while the receiver's backlog is full."""
        until = inf if self.timeout is None else monotonic() + self.timeout
        while not self._sockets:
            try:
                self._connect()
            except ReceiverBusy:
                if monotonic() >= until:
                    raise
                self._poller.poll(BUSY_PAUSE)

    def _connect(self) -> None:
        """Connect, and send the opening."""
        sock = _reach(self._address)
        try:
            check_receiver(self._address, sock, self._receivers, doing="observe")
            sock.send(self._session.opening)
        except AddressError:
            sock.close()
            raise
        except OSError as exc:
            sock.close()
            error = f"the receiver at {self._address} has closed the connection; is it ending?"
            raise NoReceiver(error, address=str(self._address)) from exc
        self._sockets.append(sock)
        self._poller.register(sock, READ, None)

    def read(self) -> list[Seen]:
        """Return what comes next."""
        begun = monotonic()
        until = inf if self.timeout is None else begun + self.timeout + self._patience
        again = inf if self._answered else begun + OBSERVE_AGAIN
        while True:
            data = self._receive(until, again)
            again = inf
            if not data:
                raise self._ended()
            try:
                self._session.receive_data(data)
            except RemoteProtocolError as exc:
                raise self._broken(exc) from exc
            seen = self._session.events_received()
            for each in seen:
                if isinstance(each, Reject):
                    raise self._rejected(each)
            if seen:
                self._answered = True
                return seen

    def _receive(self, until: float, again: float) -> bytes:
        """Wait for bytes, at most ``until`` a time; return b"" at the end of the connection."""
        while True:
            for sock in list(self._sockets):
                try:
                    data = sock.recv(READ_SIZE)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                for other in list(self._sockets):  # of two, the one that has ended, or is slower
                    if (other is sock) != bool(data):
                        self._drop(other)
                if data or not self._sockets:
                    return data
            now = monotonic()
            if now >= until:
                raise TimedOut(self._silent())
            if now >= again:
                again = inf
                # The receiver may have accepted the first connection just before its caller was
                # stuck, and has not read it: its observers' thread accepts a second one. Or the
                # first still waits in the backlog, and is accepted before the second.
                with suppress(MpsrError):
                    self._connect()
                continue
            due = min(until, again)
            self._poller.poll(None if due == inf else min(due - now, LONGEST_WAIT))

    def _drop(self, sock: socket.socket) -> None:
        self._sockets.remove(sock)
        self._poller.unregister(sock)
        sock.close()

    def close(self) -> None:
        """Close the connection."""
        for sock in list(self._sockets):
            self._drop(sock)
        self._poller.close()

    def _broken(self, exc: RemoteProtocolError) -> Exception:
        where = str(self._address)
        if self._session.framed:
            error = f"the receiver at {where} sent a {exc}"
            return RemoteProtocolError(error, code=exc.code)
        error = f"the process that listens at {where} does not speak mpsr's protocol ({exc})"
        return AddressOccupied(error, address=where)

    def _ended(self) -> Exception:
        where = str(self._address)
        if self._answered:
            return Closed(f"the receiver at {where} has ended, or handed over to another")
        error = (
            f"the process that listens at {where} has closed the connection without an answer: it "
            "is no receiver of mpsr's, or is ending"
        )
        return AddressOccupied(error, address=where)

    def _rejected(self, reject: Reject) -> Exception:
        where = str(self._address)
        if reject.code == RejectCode.DENIED:
            why = f"uid {os.geteuid()} is not the receiver's user, root or one of its observers="
            advice = "run as one of these, or start the receiver with observers= for this user"
            error = Explanation(f"cannot observe {where}", why, advice)
            return AddressDenied(error, address=where)
        if reject.code in (RejectCode.BUSY, RejectCode.DEADLINE):
            return ReceiverBusy(f"the receiver at {where}: {reject.text}", address=where)
        if reject.code in (RejectCode.MALFORMED, RejectCode.UNEXPECTED, RejectCode.VERSION):
            why = f"its receiver runs another version of mpsr ({reject.text})"
            advice = "start the receiver with this version"
            return ConfigurationError(Explanation(f"cannot observe {where}", why, advice))
        return ConfigurationError(f"the receiver at {where} refuses: {reject.text}")

    def _silent(self) -> Explanation:
        """Return what to say of a missing answer, as far as the system knows the cause."""
        timeout = self.timeout or 0.0
        what = f"the receiver at {self._address} did not answer within {timeout:g} s"
        pid = peer_of(self._sockets[0]).pid
        if pid is None:
            return Explanation(what)
        who = f"its process {pid}"
        state = _state_of(pid)
        if state is None:
            return Explanation(what, f"{who} cannot be seen from here, or has ended")
        if state in "Tt":
            why = f"{who} is stopped (SIGSTOP, Ctrl-Z or a debugger)"
            return Explanation(what, why, f"kill -CONT {pid}")
        if state == "D":
            return Explanation(what, f"{who} waits for a disk or another device")
        why = (
            f"{who} has not called receive() yet, holds Python's interpreter lock, has other "
            "connections to accept first, or is no receiver of mpsr's"
        )
        return Explanation(what, why)


def _reach(address: Address) -> socket.socket:
    """Connect, whatever kind of connections the receiver takes."""
    kinds: tuple[SocketType, ...] = ("stream", "seqpacket")
    for kind in kinds:
        try:
            return reach(address, type=kind)
        except WrongSocketType:
            if kind == kinds[-1]:
                break
    why = "its receiver takes only datagrams, which have no way back"
    advice = "give the receiver a second address, of type stream, and observe that"
    error = Explanation(f"cannot observe {address}", why, advice)
    raise WrongSocketType(error, address=str(address))


def _state_of(pid: int) -> str | None:
    """Return the letter by which proc(5) calls the state of a process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
