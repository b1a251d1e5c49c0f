"""Hold an address: an abstract name or an inherited descriptor."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from typing import Any

from mpsr.errors import InvalidAddress
from mpsr.system import primitives
from mpsr.system.activation import passed
from mpsr.system.address import LINUX, SOCKET_TYPES, Address, SocketType
from mpsr.system.calls import naming
from mpsr.system.descriptors import Socket
from mpsr.system.refusals import cannot, in_use, translating
from mpsr.system.sockets import peer_of, target_of, who_holds, wrap


class Claim:
    """A claimed address.

    Attributes:
        socket: bound and non-blocking; it listens unless it is a datagram socket.
        address: what was claimed.

    """

    def __init__(self, address: Address, sock: Socket) -> None:
        self.address = address
        self.socket = sock
        with naming("ioctl"):
            sock.setblocking(False)
        # Before bind: no datagram without its sender. Connections inherit it: there it tells an
        # empty packet from the end.
        if LINUX and sock.type != socket.SOCK_STREAM:
            with naming("setsockopt"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def holds(self) -> bool:
        """Tell whether the address still leads to our socket."""
        return True

    def again(self) -> Claim:
        """Claim the address anew, as what was ours there is gone; the errors are ``claim``'s.

        This claim is then to be abandoned.
        """
        return self

    def offer(self) -> tuple[dict[str, Any], list[int]]:
        """Return what a new receiver has to know of the claim, and its descriptors."""
        # A path need not be UTF-8, and JSON has to be: each byte becomes a character.
        address = os.fsencode(str(self.address)).decode("latin-1")
        told = {"address": address, "type": int(self.socket.type), "locked": False}
        return told, [self.socket.fileno()]

    def own(self, backlog: int) -> None:
        """Have the kernel name this process as the receiver: another one has handed it over.

        The kernel names the process that called listen() last. Connections that wait stay in the
        backlog. Producers trust the user that listened, so another user than ours stays named.
        """
        with suppress(OSError):  # only the name is at stake
            listens = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and peer_of(self.socket).uid == os.geteuid():
                self.socket.listen(backlog)

    def touch(self) -> None:
        """Refresh the time stamps of our files, for what removes files by their age."""

    def close(self) -> None:
        """Give the address up: remove our socket from its path, close it, release the lock.

        A second call does nothing. What stands at the path by now is left alone, unless it is
        the very socket we bound.
        """
        self.socket.close()

    def abandon(self) -> None:
        """Close our copies of the descriptors and touch nothing else: for a forked child."""
        self.socket.close()


def claim_abstract(address: Address, kind: SocketType, backlog: int) -> Claim:
    """Bind an abstract name, and listen there."""
    with ExitStack() as undo, translating(address, "its socket cannot be bound"):
        number = SOCKET_TYPES[kind]
        claimed = Claim(address, undo.enter_context(Socket(socket.AF_UNIX, number)))
        with target_of(address) as target:
            try:
                claimed.socket.bind(target)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                peer = who_holds(target, (number,))  # each type has abstract names of its own
                outside = peer is not None and peer.pid is None and peer.uid is not None
                raise in_use(address, peer and peer.pid, outside=outside) from exc
        if kind != "dgram":
            claimed.socket.listen(backlog)
        undo.pop_all()
        return claimed


def claim_passed(address: Address, kind: SocketType | None) -> list[Claim]:
    """Take copies of the sockets that systemd has passed, of one type or of any."""
    with ExitStack() as undo:
        claimed: list[Claim] = []
        for descriptor, name in passed(address):
            with translating(address, "its socket cannot be used"):
                copy = os.dup(descriptor)  # the original stays, for another receiver after this
            undo.callback(primitives.close, copy)
            claimed.append(claim_descriptor(Address("systemd", name), kind, copy))
        undo.pop_all()
        return claimed


def claim_descriptor(
    address: Address, kind: SocketType | None, descriptor: int | None = None
) -> Claim:
    """Take an inherited socket; the descriptor is the address's own if none is given."""
    sock = wrap(address, kind, "claim", descriptor)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.type != socket.SOCK_DGRAM and not listens:
        sock.detach()
        advice = (
            "pass a listening one (a connected one is a producer's, or of a .socket unit with "
            "Accept=yes)"
        )
        raise cannot(address, "its socket does not listen", advice, InvalidAddress)
    sock.set_inheritable(False)
    return Claim(address, sock)
