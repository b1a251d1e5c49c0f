"""Claim an address, or reach who receives there."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final

from mpsr import arguments
from mpsr.errors import (
    AddressError,
    ConfigurationError,
    Explanation,
    InvalidAddress,
    NoReceiver,
    ReceiverBusy,
    WrongReceiver,
    WrongSocketType,
)
from mpsr.limits import BACKLOG
from mpsr.system import primitives, trust
from mpsr.system.address import LINUX, SOCKET_TYPES, Address, SocketType
from mpsr.system.calls import RefusedCall, naming
from mpsr.system.claims import Claim, claim_abstract, claim_descriptor
from mpsr.system.descriptors import Socket
from mpsr.system.path_claim import DEFAULT_MODE, PathClaim
from mpsr.system.processes import peer_named
from mpsr.system.refusals import cannot, described, translated, translating
from mpsr.system.sockets import MAX_ID, PROC, peer_of, target_of, type_at, type_of, wrap
from mpsr.system.trust import Trusted

_UNREACHED: Final[dict[int | None, tuple[type[AddressError], str, str]]] = {
    errno.ENOENT: (NoReceiver, "nothing is there", "start the receiver, or check the path"),
    errno.ECONNREFUSED: (NoReceiver, "nobody listens there (any more)", "start the receiver"),
    errno.EAGAIN: (
        ReceiverBusy,
        "somebody listens there, but the backlog is full",
        "try again",
    ),
}


def claim(
    address: Address,
    *,
    type: SocketType = "stream",  # noqa: A002 - the field's word
    mode: int = DEFAULT_MODE,
    group: str | int | None = None,
    backlog: int = BACKLOG,
) -> Claim:
    """Make an address ours, or raise what says who or what is there.

    Args:
        address: what to claim; ``fd:N`` takes over a descriptor, already listening if a stream.
        type: the type of socket.
        mode: permissions of a path; to connect, a process needs write permission.
        group: name or id of the group that a path is given to.
        backlog: connections that may wait to be accepted.

    Raises:
        ConfigurationError: an argument makes no sense.
        AddressInUse: a live process holds the address.
        AddressOccupied: something stands there that is not ours to remove; it is untouched.
        AddressDenied: the permissions forbid it.
        InvalidAddress: there can be no such socket.
        WrongSocketType: the descriptor is a socket of another type.

    """
    _check_type(type)
    if address.kind == "path":
        gid = _check_permissions(mode, group)
        return _claim_path(address, type, mode, gid, backlog)
    if group is not None or mode != DEFAULT_MODE:
        what = f"{address} is no file and has no permissions"
        advice = "leave out mode= and group=, or claim a path"
        raise ConfigurationError(Explanation(what, advice=advice))
    if address.kind == "abstract":
        return claim_abstract(address, type, backlog)
    return claim_descriptor(address, type)


def reach(
    address: Address,
    *,
    type: SocketType = "stream",  # noqa: A002 - the field's word
) -> Socket:
    """Return a non-blocking socket, connected to whoever receives at an address.

    ``fd:N`` gives a duplicate of a connected descriptor, so that the caller may close its own;
    until then both are non-blocking, for they share that state.

    Raises:
        ConfigurationError: an argument makes no sense.
        NoReceiver: nothing is there, or a socket that nobody listens to.
        ReceiverBusy: the receiver's backlog is full; try again.
        AddressDenied: the permissions forbid it.
        InvalidAddress: what is there cannot be connected to.
        WrongSocketType: the socket there is of another type.

    """
    _check_type(type)
    if address.kind == "fd":
        return _reach_descriptor(address, type)
    with ExitStack() as undo:
        try:
            with naming("socket"):
                sock = undo.enter_context(Socket(socket.AF_UNIX, SOCKET_TYPES[type]))
            with naming("ioctl"):
                sock.setblocking(False)
            with target_of(address) as target:
                sock.connect(target)
        except OSError as exc:
            raise _unreached(address, type, exc) from exc
        undo.pop_all()
        return sock


def check_receiver(
    address: Address,
    sock: socket.socket,
    trusted: Trusted,
    *,
    doing: str = "send to",
) -> None:
    """Raise WrongReceiver if a socket is connected to a process whose user may not receive.

    The kernel reports the process that called ``listen()``. A datagram socket has none: the owner
    of the socket's file is checked instead, and an abstract name has no owner.

    Raises:
        WrongReceiver: the user of the process may not receive.
        NoReceiver: the path has been removed since the connection was made.

    """
    uids = trusted.uids
    if uids == "any" or (trusted.by_default and address.kind == "fd"):
        return
    peer = peer_of(sock)
    uid = peer.uid
    try:
        if uid is None and address.kind == "path" and sock.type == socket.SOCK_DGRAM:
            uid = _reach_owned(address.value, sock)
        steps: Sequence[trust.Step] = ()
        if trusted.by_default:
            me = os.geteuid()
            steps = trust.steps_to(address.value) if address.kind == "path" else ()
            uids = {*uids, *(trust.trusted_by_path(steps, me) if steps else (0, me))}
        if uid is not None and uid in uids:
            return
        why = _distrust(trusted, steps)
    except FileNotFoundError as exc:
        gone, why, advice = _UNREACHED[exc.errno]
        raise cannot(address, why, advice, gone, "reach") from exc
    except OSError as exc:
        why = f"{exc.filename or address} cannot be examined: {exc.strerror}"
    value: int | str = "any" if uid is None else uid
    who = f"uid {uid} ({peer_named(peer.pid, peer.uid)})"
    if uid is None:
        who = "an unknown user"
        if address.kind != "path":
            why = "the system does not report users at an abstract name"
        elif type_of(sock) == "stream":
            why = "the system does not report its user (SO_PEERCRED)"
    choice = f"pass receiver_uid={value!r} or set {trust.VARIABLE}={value}"
    advice = f"if that user may receive, {choice}; else choose another address"
    error = Explanation(f"cannot {doing} {address}", f"{who} receives there, and {why}", advice)
    raise WrongReceiver(error, address=str(address), pid=peer.pid, uid=uid)


def _distrust(trusted: Trusted, steps: Sequence[trust.Step]) -> str:
    """Return why the user that receives is not trusted."""
    if not trusted.by_default:
        return "receiver_uid= does not name that user"
    if not steps:
        return "any user could have taken that name first"
    found = trust.open_step(steps, os.geteuid())
    if found is not None:
        return f"other users can write to {found.path}, so any of them could have made a socket"
    return "that user owns no directory of its path"


def _reach_owned(path: str, sock: socket.socket) -> int:
    """Connect a datagram socket to the very file at a path whose owner is returned.

    Whoever may write to the directory could have put another one there since it was connected.
    """
    if not (LINUX and os.path.isdir(PROC)):
        return os.stat(path).st_uid
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        sock.connect(f"{PROC}/{handle}")
        return os.fstat(handle).st_uid
    finally:
        primitives.close(handle)


def _check_type(kind: str) -> None:
    if kind not in SOCKET_TYPES:
        raise ConfigurationError(f"type={kind!r} is none of {', '.join(SOCKET_TYPES)}")


def _check_permissions(mode: int, group: str | int | None) -> int | None:
    """Return the group's id."""
    arguments.mode(mode)
    if group is None:
        return None
    if not mode & stat.S_IWGRP:
        why = f"mode={mode:#o} forbids the group to connect"
        error = Explanation(f"group={group!r} has no use", why, "pass mode=0o660")
        raise ConfigurationError(error)
    if isinstance(group, str) and not group.isdecimal():
        import grp  # noqa: PLC0415 - few name a group

        try:
            return grp.getgrnam(group).gr_gid
        except (KeyError, ValueError) as exc:
            error = Explanation(f"group={group!r} does not exist", advice="create it first")
            raise ConfigurationError(error) from exc
    if not 0 <= int(group) <= MAX_ID:
        advice = "pass a name or a smaller number"
        raise ConfigurationError(Explanation(f"group={group!r} is no group id", advice=advice))
    return int(group)


def _claim_path(
    address: Address, kind: SocketType, mode: int, gid: int | None, backlog: int
) -> Claim:
    claimed = PathClaim(address, kind)
    try:
        claimed.take_lock()
        claimed.establish(mode, gid, backlog)
    except BaseException:
        claimed.withdraw()
        raise
    return claimed


def _reach_descriptor(address: Address, kind: SocketType) -> Socket:
    sock = wrap(address, kind, "reach")
    try:
        with translating(address, "its socket cannot be used", "reach"):
            sock.getpeername()
            twin = sock.dup()
    finally:
        sock.detach()
    twin.setblocking(False)
    return twin


def _unreached(address: Address, kind: SocketType, exc: OSError) -> AddressError:
    """Say why a connection failed; what is at the path may tell more than the error does."""
    found, other, what = None, None, "it cannot be connected to"
    with suppress(OSError):
        found = os.stat(address.value) if address.kind == "path" else None
    if found is not None and not stat.S_ISSOCK(found.st_mode):
        why = f"what is there is {described(found)}, not a socket"
        return cannot(address, why, "check the path", InvalidAddress, "reach")
    if exc.errno == errno.EPROTOTYPE:
        with suppress(OSError), target_of(address) as target:
            other = type_at(target, kind)
        why = f"its socket is not of type {kind}"
        advice = f"pass type={other!r} if that is what it is"
        return cannot(address, why, advice, WrongSocketType, "reach")
    if exc.errno in _UNREACHED:
        error, why, advice = _UNREACHED[exc.errno]
        return cannot(address, why, advice, error, "reach")
    if isinstance(exc, RefusedCall):
        what = "no socket can be made"
    elif found is not None and isinstance(exc, PermissionError):
        owner = f"uid {found.st_uid}, gid {found.st_gid}"
        what = f"its socket, of {owner} and mode {stat.S_IMODE(found.st_mode):04o}, refused"
    return translated(address, what, exc, "reach")
