"""Claim or reach an address: its lock, its permissions, its socket."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, Literal, NamedTuple

from mpsr import arguments, lockfile, primitives, trust
from mpsr.batch import UNKNOWN_PEER, Peer
from mpsr.errors import (
    AddressDenied,
    AddressError,
    AddressInUse,
    AddressOccupied,
    ConfigurationError,
    InvalidAddress,
    NoReceiver,
    ReceiverBusy,
    WrongReceiver,
    WrongSocketType,
)
from mpsr.limits import BACKLOG
from mpsr.trust import ReceiverUid

SocketType = Literal["stream", "dgram"]
SOCKET_TYPES: Final = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}
DEFAULT_MODE: Final = 0o600  # only processes of the receiver's own user may connect

_LINUX: Final = sys.platform == "linux"
_MAX_NAME: Final = 107 if _LINUX else 103  # bytes: sun_path, less the NUL that ends or begins it
_MAX_ID: Final = 2**32 - 2  # user and group ids have 32 bits, and the last one means "none"
_MAX_DESCRIPTOR: Final = 2**31 - 1  # a C int
_OF_A_NETWORK: Final = re.compile(r"[a-zA-Z][\w+.-]*://|([\w.-]*|\[[0-9a-fA-F:]+\]):\d+$", re.ASCII)
_PROC: Final = "/proc/self/fd"
_DIRECTORY: Final = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_PROBES: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM, *[socket.SOCK_SEQPACKET] * _LINUX)
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED
_XUCRED: Final = struct.Struct("IIhI60x")  # version, uid, groups, gid, 15 more: <sys/ucred.h>
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2  # <sys/un.h> of macOS

_KINDS: Final = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}
_OTHER_FILE_SYSTEM: Final = (
    "its file system fails, or has no sockets or locks; choose a path in /run, or an abstract @name"
)
_ADVICE: Final[dict[int | None, tuple[type[AddressError], str]]] = {
    errno.ENOENT: (InvalidAddress, "make sure that its directory exists"),
    errno.ENOTDIR: (InvalidAddress, "make sure that its directory exists"),
    errno.ELOOP: (InvalidAddress, "choose a path without a loop of symbolic links"),
    errno.ENAMETOOLONG: (InvalidAddress, "choose a shorter path"),
    errno.EACCES: (AddressDenied, "change the permissions or the user"),
    errno.EPERM: (AddressDenied, "change the permissions or the user"),
    errno.EROFS: (AddressDenied, "choose a path on a file system that can be written"),
    errno.EADDRINUSE: (AddressOccupied, "something has just appeared there; try again"),
    errno.EOPNOTSUPP: (InvalidAddress, _OTHER_FILE_SYSTEM),
    errno.ENOLCK: (InvalidAddress, _OTHER_FILE_SYSTEM),
    errno.EIO: (InvalidAddress, _OTHER_FILE_SYSTEM),
    errno.EBADF: (InvalidAddress, "pass a descriptor that is open"),
    errno.ENOTSOCK: (InvalidAddress, "pass a socket"),
    errno.ENOTCONN: (InvalidAddress, "pass a connected one (a listening one is a receiver's)"),
}
_UNREACHED: Final[dict[int | None, tuple[type[AddressError], str]]] = {
    errno.ENOENT: (NoReceiver, "nothing is there; start the receiver, or check the path"),
    errno.ECONNREFUSED: (NoReceiver, "nobody listens there (any more); start the receiver"),
    errno.EAGAIN: (ReceiverBusy, "somebody listens there, but the backlog is full; try again"),
}


class Address(NamedTuple):
    """Where a receiver is: a path, an abstract name, or the number of a descriptor."""

    kind: Literal["path", "abstract", "fd"]
    value: str
    typed: str = ""  # where the value is not what was typed

    def __str__(self) -> str:
        """Return the text that people type."""
        return {"path": "", "abstract": "@", "fd": "fd:"}[self.kind] + (self.typed or self.value)


def parse_address(text: str | os.PathLike[str]) -> Address:
    """Read an address: a path, ``@name`` or ``fd:N``, each with or without ``unix:`` before it.

    A file whose name begins like one of these is written with its directory: ``./@name``.

    Raises:
        InvalidAddress: the text is none of these.

    """
    text = rest = os.fsdecode(text)
    while rest.startswith("unix:"):
        rest = rest.removeprefix("unix:")
    if rest.startswith("@"):
        address, complaint = Address("abstract", rest[1:]), _abstract_complaint(rest[1:])
    elif rest.startswith("fd:"):
        address, complaint = Address("fd", rest[3:].lstrip("0") or "0"), _fd_complaint(rest[3:])
    else:
        address, complaint = Address("path", rest), _path_complaint(rest)
    if complaint:
        raise InvalidAddress(f"{text!r} is no usable address: {complaint}", address=text)
    return address


def absolute(address: Address) -> Address:
    """Return an address that a later chdir cannot change: a path begins at the root.

    Raises:
        InvalidAddress: the path is relative, and the current directory is gone.

    """
    if address.kind != "path" or os.path.isabs(address.value):
        return address
    with _translating(address, "the current directory cannot be told", "use"):
        # Not abspath(): what ".." means behind a symbolic link only the kernel knows.
        return Address("path", os.path.join(os.getcwd(), address.value), address.value)


def _path_complaint(path: str) -> str:
    if not path:
        return "it is empty; pass a path, @name or fd:N"
    if path.startswith("systemd:"):
        return "socket activation is not available in this version; pass a path, @name or fd:N"
    if _OF_A_NETWORK.match(path):
        return (
            "it looks like an address of a network, and mpsr connects processes of one machine; "
            f"pass a path, like /run/app.sock (a file of that name is written ./{path})"
        )
    if "\0" in path:
        return "a path holds no NUL; leave it out, or write @name for an abstract name"
    if os.path.basename(path) in {"", ".", ".."}:
        return "it names a directory; add the name of a socket"
    return ""


def _abstract_complaint(name: str) -> str:
    if not _LINUX:
        return "only Linux has abstract names; pass a path"
    if not 0 < len(os.fsencode(name)) <= _MAX_NAME or "\0" in name:
        return f"an abstract name has 1 to {_MAX_NAME} bytes and no NUL; choose another"
    return ""


def _fd_complaint(number: str) -> str:
    digits = number.isascii() and number.isdecimal() and len(number) <= len(str(_MAX_DESCRIPTOR))
    if not digits or int(number) > _MAX_DESCRIPTOR:
        return "a descriptor is a small decimal number; write it like fd:3"
    return ""


def peer_of(sock: socket.socket) -> Peer:
    """Return the kernel's word for who is at the other end; UNKNOWN_PEER if it does not tell."""
    try:
        if _LINUX:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            pid, uid, gid = _UCRED.unpack(raw)
        else:
            raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
            _, uid, _, gid = _XUCRED.unpack(raw)  # pragma: no cover - macOS
            pid = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)  # pragma: no cover - macOS
    except OSError:
        return UNKNOWN_PEER
    # pid 0 is nobody, or somebody outside our pid namespace, whose uid is certain all the same.
    return Peer(pid or None, uid if uid <= _MAX_ID else None, gid if gid <= _MAX_ID else None)


class Claim:
    """A claimed address.

    Attributes:
        socket: bound and non-blocking; it listens if it is a stream socket.
        address: what was claimed.

    """

    def __init__(self, address: Address, sock: socket.socket) -> None:
        self.address = address
        self.socket = sock
        sock.setblocking(False)
        if _LINUX and sock.type == socket.SOCK_DGRAM:  # before bind: no datagram without its sender
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def holds(self) -> bool:
        """Tell whether the address still leads to our socket."""
        return True

    def again(self) -> Claim:
        """Claim the address anew, as what was ours there is gone; the errors are ``claim``'s.

        This claim is then to be abandoned.
        """
        return self

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

    def let_go(self) -> None:
        """Forget the descriptors, whose numbers may be somebody else's by now."""
        self.socket.detach()


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
        why = "is no file and has no permissions; leave out mode= and group=, or claim a path"
        raise ConfigurationError(f"{address} {why}")
    if address.kind == "abstract":
        return _claim_abstract(address, type, backlog)
    return _claim_descriptor(address, type)


def reach(
    address: Address,
    *,
    type: SocketType = "stream",  # noqa: A002 - the field's word
) -> socket.socket:
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
            sock = undo.enter_context(primitives.socket(socket.AF_UNIX, SOCKET_TYPES[type]))
            sock.setblocking(False)
            with _target(address) as target:
                sock.connect(target)
        except OSError as exc:
            raise _unreached(address, type, exc) from exc
        undo.pop_all()
        return sock


def check_receiver(address: Address, sock: socket.socket, receiver_uid: ReceiverUid) -> None:
    """Raise WrongReceiver if a socket is connected to a process whose user may not receive.

    The kernel tells whose process called ``listen()``. Of datagrams it does not: there the owner
    of the socket's file stands for it, and at an abstract name nobody does.
    """
    if receiver_uid == "any" or (receiver_uid is None and address.kind == "fd"):
        return
    peer = peer_of(sock)
    uid, why = peer.uid, ""
    try:
        if uid is None and address.kind == "path":
            uid = os.stat(address.value).st_uid
        if receiver_uid is None:
            me = os.geteuid()
            steps = trust.steps_to(address.value) if address.kind == "path" else ()
            allowed: Collection[int] = trust.trusted_by_path(steps, me) if steps else {0, me}
            why = "other users could have taken that name first"
        else:
            allowed = {receiver_uid} if isinstance(receiver_uid, int) else receiver_uid
            why = "receiver_uid= does not name that user"
    except OSError as exc:
        why, allowed = f"{exc.filename}: {exc.strerror}, so nobody can tell who that may be", ()
    if uid is not None and uid in allowed:
        return
    who = "an unknown user" if uid is None else f"uid {uid}"
    who += "" if peer.pid is None else f" (process {peer.pid})"
    if uid is None:
        why = "the system does not tell whose socket is at an abstract name"
    advice = "pass receiver_uid= if it is right, or else take another address"
    error = f"cannot send to {address}: {who} receives there, and {why}; {advice}"
    raise WrongReceiver(error, address=str(address), pid=peer.pid, uid=uid)


# -- arguments --------------------------------------------------------------------------------


def _check_type(kind: str) -> None:
    if kind not in SOCKET_TYPES:
        raise ConfigurationError(f"type={kind!r} is none of {', '.join(SOCKET_TYPES)}")


def _check_permissions(mode: int, group: str | int | None) -> int | None:
    """Return the group's id."""
    arguments.mode(mode)
    if group is None:
        return None
    if not mode & stat.S_IWGRP:
        why = f"has no use: mode={mode:#o} forbids the group to connect; pass one like 0o660"
        raise ConfigurationError(f"group={group!r} {why}")
    if isinstance(group, str) and not group.isdecimal():
        import grp  # noqa: PLC0415 - few name a group

        try:
            return grp.getgrnam(group).gr_gid
        except (KeyError, ValueError) as exc:
            raise ConfigurationError(f"group={group!r} does not exist; create it first") from exc
    if not 0 <= int(group) <= _MAX_ID:
        raise ConfigurationError(f"group={group!r} is no group id; pass a name or a smaller number")
    return int(group)


# -- paths ------------------------------------------------------------------------------------


def _claim_path(
    address: Address, kind: SocketType, mode: int, gid: int | None, backlog: int
) -> Claim:
    claimed = _PathClaim(address, kind)
    try:
        claimed.take_lock()
        claimed.establish(mode, gid, backlog)
    except BaseException:
        claimed.withdraw()
        raise
    return claimed


class _PathClaim(Claim):
    """A path being claimed, then claimed: its open directory, its lock, its socket.

    Names are looked up in the open directory, so that no chdir or rename leads astray.
    """

    def __init__(self, address: Address, kind: SocketType) -> None:
        directory, self._name = os.path.split(address.value)
        self._lock: int | None = None
        self._made_lock = False
        self._bound: os.stat_result | None = None
        self._closed = False
        self._kind = kind
        self._place = absolute(address)
        self._settings: tuple[int, int | None, int] = (DEFAULT_MODE, None, BACKLOG)
        with ExitStack() as undo, _translating(address, "its directory cannot be opened"):
            self._directory = os.open(directory or ".", _DIRECTORY)
            undo.callback(primitives.close, self._directory)
            self._target = _path_target(self._place, self._directory)
            super().__init__(address, primitives.socket(socket.AF_UNIX, SOCKET_TYPES[kind]))
            undo.pop_all()

    def take_lock(self) -> None:
        """Lock PATH.lock, which decides who owns the path, and write our process id into it."""
        name, shown = f"{self._name}.lock", f"its lock {self.address}.lock"
        found = self._lstat(name)
        self._refuse_foreign(found, stat.S_IFREG, shown)
        self._made_lock = found is None
        with _translating(self.address, f"{shown} cannot be taken"):
            try:
                self._lock = lockfile.take(name, dir_fd=self._directory, uid=os.geteuid())
            except lockfile.Held as exc:
                self._made_lock = False
                raise _in_use(self.address, exc.pid) from exc
            except lockfile.NotALock as exc:
                self._made_lock = False
                error = f"{shown} is no lock file of a receiver"
                raise _occupied(self.address, error) from exc

    def establish(self, mode: int, gid: int | None, backlog: int) -> None:
        """Put our socket at the path, which the lock has made ours."""
        self._settings = (mode, gid, backlog)
        self.make_way()
        self.bind(mode, gid)
        if self._kind == "stream":
            with _translating(self.address, "its socket cannot listen"):
                self.socket.listen(backlog)

    def holds(self) -> bool:
        return self._leads_to(self._place.value, self._bound) and self._holds_lock()

    def _holds_lock(self) -> bool:
        if self._lock is None:
            return False
        return self._leads_to(f"{self._place.value}.lock", os.fstat(self._lock))

    @staticmethod
    def _leads_to(path: str, known: os.stat_result | None) -> bool:
        try:
            return known is not None and os.path.samestat(os.lstat(path), known)
        except OSError:
            return False

    def again(self) -> Claim:
        successor = _PathClaim(self._place, self._kind)
        successor.address = self.address
        try:
            if self._lock is not None and self._holds_lock():
                successor._lock = os.dup(self._lock)  # the same lock, which outlives ours
            else:
                successor.take_lock()
            successor.establish(*self._settings)
        except BaseException:
            successor.withdraw()
            raise
        return successor

    def touch(self) -> None:
        with suppress(OSError):
            if self._lock is not None:
                os.utime(self._lock)
            os.utime(self._name, dir_fd=self._directory, follow_symlinks=False)

    def make_way(self) -> None:
        """Remove a socket of ours that nobody holds; refuse everything else."""
        found = self._lstat(self._name)
        if found is None:
            return
        self._refuse_foreign(found, stat.S_IFSOCK, "what is there")
        with _translating(self.address, "nobody can tell whether its socket is in use"):
            peer = _who_holds(self._target)
        if peer is not None:
            raise _in_use(self.address, peer.pid)
        with _translating(self.address, "its stale socket cannot be removed"):
            self._unlink(found)

    def bind(self, mode: int, gid: int | None) -> None:
        """Bind the socket to the path, at no moment open to more than it is to be."""
        with _translating(self.address, "its socket cannot be bound"):
            if _LINUX:  # the file is born with the socket's own mode, less the umask
                os.fchmod(self.socket.fileno(), mode if gid is None else mode & stat.S_IRWXU)
            self.socket.bind(self._target)
        found = self._lstat(self._name)
        if found is None:
            raise _occupied(self.address, "something has taken our socket away")
        self._refuse_foreign(found, stat.S_IFSOCK, "what has taken our socket's place")
        self._bound = found
        if gid is not None or stat.S_IMODE(found.st_mode) != mode:
            self._set_permissions(found, mode, gid)

    def withdraw(self) -> None:
        """Give up a claim that failed, and leave no lock that it made."""
        if self._made_lock:
            with suppress(OSError):  # while we hold it, so that nobody else has locked it in vain
                os.unlink(f"{self._name}.lock", dir_fd=self._directory)
        self.close()

    def _set_permissions(self, bound: os.stat_result, mode: int, gid: int | None) -> None:
        shown = f"its permissions (mode {mode:04o}, group {'as it is' if gid is None else gid})"
        with ExitStack() as undo, _translating(self.address, f"{shown} cannot be set"):
            name = self._name
            if _LINUX:  # a name for this very file, whatever others may put in its place
                flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                handle = os.open(name, flags, dir_fd=self._directory)
                undo.callback(primitives.close, handle)
                if not os.path.samestat(os.fstat(handle), bound):
                    raise _occupied(self.address, "something has taken our socket's place")
                name = f"{_PROC}/{handle}"
            if gid is not None:
                os.chown(name, -1, gid, dir_fd=self._directory, follow_symlinks=_LINUX)
            os.chmod(name, mode, dir_fd=self._directory, follow_symlinks=_LINUX)

    def close(self) -> None:
        if self._closed:
            return
        with suppress(AddressError, OSError):  # what stays is stale, and the next claim removes it
            if self._bound is not None:
                self._unlink(self._bound)
        self.socket.close()  # only now: while it is open, its inode number is not used again
        if self._lock is not None:
            lockfile.give_back(self._lock)
            self._lock = None
        self.abandon()

    def let_go(self) -> None:
        self._closed = True
        self.socket.detach()

    def abandon(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.socket.close()
        primitives.close(self._directory)
        if self._lock is not None:
            primitives.close(self._lock)

    def _lstat(self, name: str) -> os.stat_result | None:
        with _translating(self.address, "its directory cannot be searched"):
            try:
                return os.lstat(name, dir_fd=self._directory)
            except FileNotFoundError:
                return None

    def _unlink(self, known: os.stat_result) -> None:
        """Remove what is at the path, unless it is no longer what we know."""
        found = self._lstat(self._name)
        if found is not None and not os.path.samestat(found, known):
            raise _occupied(self.address, "what is there has just changed")
        if found is not None:
            os.unlink(self._name, dir_fd=self._directory)

    def _refuse_foreign(self, found: os.stat_result | None, kind: int, shown: str) -> None:
        if found is None:
            return
        if stat.S_IFMT(found.st_mode) != kind:
            raise _occupied(self.address, f"{shown} is {_described(found)}")
        if found.st_uid != os.geteuid():
            raise _occupied(self.address, f"{shown} belongs to uid {found.st_uid}")


def _path_target(address: Address, directory: int, doing: str = "claim") -> str:
    """Return a name of the path that is short enough for a socket."""
    size, prefix = len(os.fsencode(address.value)), f"{_PROC}/{directory}/"
    if size <= _MAX_NAME:
        return address.value
    through = prefix + os.path.basename(address.value)
    if len(os.fsencode(through)) <= _MAX_NAME and os.path.isdir(_PROC):
        return through
    why = (
        f"its path has {size} bytes; a socket's may have {_MAX_NAME}, or its last part "
        f"{_MAX_NAME - len(prefix)} where there is a {_PROC}; choose a shorter one"
    )
    raise _cannot(address, why, InvalidAddress, doing)


def _who_holds(target: str | bytes, numbers: tuple[int, ...] = _PROBES) -> Peer | None:
    """Learn who holds a name by connecting to it; None means nobody."""
    held = False
    for number in numbers:
        with primitives.socket(socket.AF_UNIX, number) as sock:
            sock.setblocking(False)
            try:
                sock.connect(target)
            except BlockingIOError:
                return UNKNOWN_PEER  # the backlog is full
            except (ConnectionRefusedError, FileNotFoundError):
                continue  # nobody; or not listening yet, as the probe of another type will tell
            except OSError as exc:
                if exc.errno not in {errno.EPROTOTYPE, errno.EPERM}:
                    raise
                held = True  # of another type; EPERM: by a datagram socket with a peer of its own
            else:
                return peer_of(sock)
    return UNKNOWN_PEER if held else None


def _described(found: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a device")


# -- abstract names and inherited descriptors ---------------------------------------------------


def _claim_abstract(address: Address, kind: SocketType, backlog: int) -> Claim:
    with ExitStack() as undo, _translating(address, "its socket cannot be bound"):
        number = SOCKET_TYPES[kind]
        claimed = Claim(address, undo.enter_context(primitives.socket(socket.AF_UNIX, number)))
        with _target(address) as target:
            try:
                claimed.socket.bind(target)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                peer = _who_holds(target, (number,))  # each type has abstract names of its own
                raise _in_use(address, peer and peer.pid) from exc
        if kind == "stream":
            claimed.socket.listen(backlog)
        undo.pop_all()
        return claimed


def _claim_descriptor(address: Address, kind: SocketType) -> Claim:
    sock = _wrap(address, kind, "claim")
    if kind == "stream" and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        why = "its socket does not listen; pass a listening one (a connected one is a producer's)"
        raise _cannot(address, why, InvalidAddress)
    sock.set_inheritable(False)
    return Claim(address, sock)


def _reach_descriptor(address: Address, kind: SocketType) -> socket.socket:
    sock = _wrap(address, kind, "reach")
    try:
        with _translating(address, "its socket cannot be used", "reach"):
            sock.getpeername()
            twin = sock.dup()
    finally:
        sock.detach()
    twin.setblocking(False)
    return twin


def _wrap(address: Address, kind: SocketType, doing: str) -> socket.socket:
    """Make a socket object of a descriptor, which stays open if it is refused."""
    with _translating(address, "it is no socket", doing):
        sock = primitives.socket(fileno=int(address.value))
    if sock.family == socket.AF_UNIX and sock.type == SOCKET_TYPES[kind]:
        return sock
    family, number = (getattr(item, "name", item) for item in (sock.family, sock.type))
    error = WrongSocketType if sock.family == socket.AF_UNIX else InvalidAddress
    sock.detach()
    why = f"it is an {family} socket of type {number}; pass an AF_UNIX one of type {kind}"
    raise _cannot(address, why, error, doing)


# -- targets and errors -------------------------------------------------------------------------


@contextmanager
def _target(address: Address) -> Iterator[str | bytes]:
    """Give what connect() takes for an address."""
    if address.kind == "abstract":
        yield b"\0" + os.fsencode(address.value)
    elif len(os.fsencode(address.value)) <= _MAX_NAME:
        yield address.value
    else:
        directory = os.open(os.path.dirname(address.value) or ".", _DIRECTORY)
        try:
            yield _path_target(address, directory, "reach")
        finally:
            primitives.close(directory)


@contextmanager
def _translating(address: Address, what: str, doing: str = "claim") -> Iterator[None]:
    """Translate an OSError; ``what`` says what it thwarts."""
    try:
        yield
    except OSError as exc:
        raise _translated(address, what, exc, doing) from exc


def _translated(address: Address, what: str, exc: OSError, doing: str) -> AddressError:
    error, advice = _ADVICE.get(exc.errno, (AddressError, "try again once that is remedied"))
    return _cannot(address, f"{what}: {exc.strerror or exc}; {advice}", error, doing)


def _unreached(address: Address, kind: SocketType, exc: OSError) -> AddressError:
    """Say why a connection failed; what is at the path may tell more than the error does."""
    found, what = None, "it cannot be connected to"
    with suppress(OSError):
        found = os.stat(address.value) if address.kind == "path" else None
    if found is not None and not stat.S_ISSOCK(found.st_mode):
        why = f"what is there is {_described(found)}, not a socket; check the path"
        return _cannot(address, why, InvalidAddress, "reach")
    if exc.errno == errno.EPROTOTYPE:
        other = next(name for name in SOCKET_TYPES if name != kind)
        why = f"its socket is not of type {kind}; pass type={other!r} if that is what it is"
        return _cannot(address, why, WrongSocketType, "reach")
    if exc.errno in _UNREACHED:
        error, why = _UNREACHED[exc.errno]
        return _cannot(address, why, error, "reach")
    if found is not None and isinstance(exc, PermissionError):
        owner = f"uid {found.st_uid}, gid {found.st_gid}"
        what = f"its socket, of {owner} and mode {stat.S_IMODE(found.st_mode):04o}, refused"
    return _translated(address, what, exc, "reach")


def _in_use(address: Address, pid: int | None) -> AddressError:
    who = {None: "another process", os.getpid(): "this very process"}.get(pid, f"process {pid}")
    why = f"{who} is receiving there; stop it or choose another address"
    return _cannot(address, why, AddressInUse, pid=pid)


def _occupied(address: Address, why: str) -> AddressError:
    advice = "choose another path, or remove it if nobody needs it"
    return _cannot(address, f"{why}; {advice}", AddressOccupied)


def _cannot(
    address: Address,
    why: str,
    error: type[AddressError],
    doing: str = "claim",
    pid: int | None = None,
) -> AddressError:
    return error(f"cannot {doing} {address}: {why}", address=str(address), pid=pid)
