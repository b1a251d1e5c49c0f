"""Read where metrics are to be served, and listen there."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from mpsr.cli.endpoints import endpoint
from mpsr.cli.extras import need
from mpsr.errors import AddressDenied, AddressError, AddressInUse, Explanation, InvalidAddress
from mpsr.limits import MAX_SCRAPES
from mpsr.system import primitives
from mpsr.system.address import Address, parse_address
from mpsr.system.endpoint import claim
from mpsr.system.path_claim import DEFAULT_MODE
from mpsr.system.refusals import cannot

if TYPE_CHECKING:
    from collections.abc import Callable

_MODE: Final = 0o660  # of a path: whoever may read metrics is in its group
_BACKLOG: Final = 2 * MAX_SCRAPES  # connections that wait to be accepted
_DOING: Final = "serve metrics at"
_MOST_PORT: Final = 65_535
_HOST_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.%\w]+\]|[^:\[\]/@]*):(\d{1,5})", re.ASCII)
_ADVICE: Final[dict[int | None, tuple[type[AddressError], str]]] = {
    errno.EADDRINUSE: (AddressInUse, "stop what listens there, or choose another"),
    errno.EACCES: (AddressDenied, "choose a port above 1023"),
    errno.EADDRNOTAVAIL: (InvalidAddress, "this machine has no such address; choose another"),
}


class Listening(NamedTuple):
    """Sockets that listen for scrapes."""

    sockets: tuple[socket.socket, ...]
    shown: str
    """Where it is, for people."""
    close: Callable[[], None]
    """Give the place up."""


class NetworkPlace(NamedTuple):
    """A host's port."""

    host: str
    port: int

    def listen(self) -> Listening:
        """Listen at all addresses of the host; the errors are those of ``UnixPlace.listen``."""
        where = f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            why = f"there is no such host ({getattr(exc, 'strerror', None) or exc})"
            raise cannot(where, why, "write one like 127.0.0.1", InvalidAddress, _DOING) from exc
        with ExitStack() as undo:
            sockets: list[socket.socket] = []
            port, failure = self.port, None
            for family, _, _, _, target in dict.fromkeys(found):
                try:
                    sock = _bound(family, str(target[0]), port)
                except OSError as exc:  # of localhost, say, which has no IPv6 here
                    if exc.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                        raise _refused(where, exc) from exc
                    failure = exc
                    continue
                sockets.append(undo.enter_context(sock))
                port = int(sock.getsockname()[1])
            if not sockets and failure is not None:
                raise _refused(where, failure) from failure
            close = undo.pop_all().close
        host = where.rpartition(":")[0]
        return Listening(tuple(sockets), f"http://{host}:{port}/metrics", close)


class UnixPlace(NamedTuple):
    """A Unix socket."""

    address: Address
    mode: int | None
    group: str | int | None

    def listen(self) -> Listening:
        """Claim the path, as a receiver claims its own, or the abstract name.

        Raises:
            AddressError: it cannot be had; its subclasses say why.
            ConfigurationError: its mode or group cannot work.

        """
        address, mode = self.address, self.mode
        if mode is None:
            mode = _MODE if address.kind == "path" else DEFAULT_MODE
        claimed = claim(address, mode=mode, group=self.group, backlog=_BACKLOG)
        return Listening((claimed.socket,), f"unix:{address}", claimed.close)


Place = NetworkPlace | UnixPlace


def place(text: str) -> Place:
    """Return where to serve metrics: ``127.0.0.1:9464``, ``[::1]:9464`` or ``unix:PATH``."""
    need("prometheus_client", extra="metrics", by="--metrics")
    if text.startswith("unix:"):
        found = endpoint(text)
        try:
            address = parse_address(found.address)
        except InvalidAddress as exc:
            why = Explanation.of(exc)
            raise _bad(f"{text!r}: {why.why}", "write it like unix:/run/app-metrics.sock") from None
        if found.type is not None or found.framing is not None:
            raise _bad(f"{text!r}: only mode= and group= have a use here", "leave out the others")
        if address.kind not in {"path", "abstract"}:
            raise _bad(f"{text!r} is neither a path nor an abstract name", "write unix:PATH")
        return UnixPlace(address, found.mode, found.group)
    match = _HOST_PORT.fullmatch(text)
    host = "" if match is None else match[1].strip("[]")
    if match is None or not host:
        bare = text.removeprefix(":")
        if bare.isdecimal():
            hint = f"write 127.0.0.1:{bare}, or 0.0.0.0:{bare} to be read from other machines"
            raise _bad(f"{text!r} does not say at which host", hint)
        hint = "write it like 127.0.0.1:9464, [::1]:9464 or unix:/run/app-metrics.sock"
        raise _bad(f"{text!r} is no place for metrics", hint)
    if int(match[2]) > _MOST_PORT:
        raise _bad(f"{match[2]} is no port", f"choose one of 0 to {_MOST_PORT}")
    return NetworkPlace(host, int(match[2]))


def _bound(family: int, host: str, port: int) -> socket.socket:
    with ExitStack() as undo:
        sock = undo.enter_context(primitives.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a restart, at once
        if family == socket.AF_INET6:  # [::] is not 0.0.0.0 too
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        undo.pop_all()
        return sock


def _refused(where: str, exc: OSError) -> AddressError:
    error, advice = _ADVICE.get(exc.errno, (AddressError, "choose another"))
    return cannot(where, exc.strerror or str(exc), advice, error, _DOING)


def _bad(why: str, advice: str) -> click.BadParameter:
    return click.BadParameter(Explanation(why, advice=advice))
