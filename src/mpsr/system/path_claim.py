"""Hold a path: its lock, its socket, its permissions."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack, suppress
from typing import Any, Final

from mpsr.errors import AddressError
from mpsr.limits import BACKLOG
from mpsr.system import lockfile, primitives
from mpsr.system.address import LINUX, SOCKET_TYPES, Address, SocketType, absolute
from mpsr.system.calls import naming
from mpsr.system.claims import Claim
from mpsr.system.descriptors import Socket, identity_of
from mpsr.system.refusals import described, in_use, occupied, translating
from mpsr.system.sockets import DIRECTORY, PROC, path_target, who_holds

DEFAULT_MODE: Final = 0o600  # only processes of the receiver's own user may connect


class PathClaim(Claim):
    """A path being claimed, then claimed: its open directory, its lock, its socket.

    Names are looked up in the open directory, so that no chdir or rename leads astray.
    """

    def __init__(self, address: Address, kind: SocketType, sock: Socket | None = None) -> None:
        """Begin to claim a path, with a new socket if none is given."""
        directory, self._name = os.path.split(address.value)
        self._lock: lockfile.Lock | None = None
        self._made_lock = False
        self._bound: os.stat_result | None = None
        self._closed = False
        self._kind = kind
        self._place = absolute(address)
        self._settings: tuple[int, int | None, int] = (DEFAULT_MODE, None, BACKLOG)
        with ExitStack() as undo, translating(address, "its directory cannot be opened"):
            self._directory = os.open(directory or ".", DIRECTORY)
            undo.callback(primitives.close, self._directory)
            self._directory_is = identity_of(self._directory)
            self._target = path_target(self._place, self._directory)
            with naming("socket"):
                sock = sock or Socket(socket.AF_UNIX, SOCKET_TYPES[kind])
            super().__init__(address, sock)
            undo.pop_all()

    def take_lock(self) -> None:
        """Lock PATH.lock, which decides who owns the path, and write our process id into it."""
        name, shown = f"{self._name}.lock", f"its lock {self.address}.lock"
        found = self._lstat(name)
        self._refuse_foreign(found, stat.S_IFREG, shown)
        self._made_lock = found is None
        with translating(self.address, f"{shown} cannot be taken"):
            try:
                self._lock = lockfile.take(name, dir_fd=self._directory, uid=os.geteuid())
            except lockfile.Held as exc:
                self._made_lock = False
                raise in_use(self.address, exc.pid, outside=exc.outside) from exc
            except lockfile.NotALock as exc:
                self._made_lock = False
                error = f"{shown} is no lock file of a receiver"
                raise occupied(self.address, error) from exc

    def establish(self, mode: int, gid: int | None, backlog: int) -> None:
        """Put our socket at the path, which the lock has made ours."""
        self._settings = (mode, gid, backlog)
        self.make_way()
        self.bind(mode, gid)
        if self._kind != "dgram":
            with translating(self.address, "its socket cannot listen"):
                self.socket.listen(backlog)

    def holds(self) -> bool:
        """Tell whether the path still leads to the socket."""
        return self._leads_to(self._place.value, self._bound) and self._holds_lock()

    def _holds_lock(self) -> bool:
        if self._lock is None or not self._lock.holds():
            return False
        return self._leads_to(f"{self._place.value}.lock", os.fstat(self._lock.fileno()))

    @staticmethod
    def _leads_to(path: str, known: os.stat_result | None) -> bool:
        try:
            return known is not None and os.path.samestat(os.lstat(path), known)
        except OSError:
            return False

    def again(self) -> Claim:
        """Claim the path again: it does not lead to the socket any more, or not to the lock.

        If only the lock is gone, the new claim keeps the socket. Another receiver that has the
        lock meanwhile finds this socket in use, and gives the lock back.
        """
        kept = self._leads_to(self._place.value, self._bound)
        successor = PathClaim(self._place, self._kind, self.socket.dup() if kept else None)
        successor.address = self.address
        try:
            if self._lock is not None and self._holds_lock():
                successor._lock = self._lock.twin()  # the same lock, which outlives ours
            else:
                successor.take_lock()
            if kept:
                successor._keep(self)
            else:
                successor.establish(*self._settings)
        except BaseException:
            successor.withdraw()
            raise
        return successor

    def _keep(self, former: PathClaim) -> None:
        """Hold the path with a former claim's socket, if that is still there."""
        if not self._leads_to(self._place.value, former._bound):
            raise occupied(self.address, "what is there has just changed")
        self._settings, self._bound = former._settings, former._bound

    def offer(self) -> tuple[dict[str, Any], list[int]]:
        """Return what a new receiver has to know of the claim, its socket and its lock."""
        told, descriptors = super().offer()
        told["address"] = os.fsencode(self._place.value).decode("latin-1")
        if self._lock is not None and self._lock.holds():
            told["locked"] = True
            descriptors.append(self._lock.fileno())
        return told, descriptors

    def adopt(self, lock: int | None, mode: int, gid: int | None, backlog: int) -> None:
        """Hold the path, with a socket and a lock that its receiver has handed over."""
        self._settings = (mode, gid, backlog)
        self._lock = None if lock is None else lockfile.Lock(lock)
        self._bound = self._lstat(self._name)

    def own(self, backlog: int) -> None:
        """Have the kernel name this process, and write its id into the lock."""
        super().own(backlog)
        if self._lock is not None:
            self._lock.sign()

    def touch(self) -> None:
        """Renew the times of the files, for whoever removes old ones."""
        with suppress(OSError):
            if self._lock is not None:
                os.utime(self._lock.fileno())
            os.utime(self._name, dir_fd=self._directory, follow_symlinks=False)

    def make_way(self) -> None:
        """Remove a socket of ours that nobody holds; refuse everything else."""
        found = self._lstat(self._name)
        if found is None:
            return
        self._refuse_foreign(found, stat.S_IFSOCK, "what is there")
        with translating(self.address, "nobody can tell whether its socket is in use"):
            peer = who_holds(self._target)
        if peer is not None:
            outside = peer.pid is None and peer.uid is not None
            raise in_use(self.address, peer.pid, outside=outside)
        with translating(self.address, "its stale socket cannot be removed"):
            self._unlink(found)

    def bind(self, mode: int, gid: int | None) -> None:
        """Bind the socket to the path, at no moment open to more than it is to be."""
        with translating(self.address, "its socket cannot be bound"):
            if LINUX:  # the file is born with the socket's own mode, less the umask
                os.fchmod(self.socket.fileno(), mode if gid is None else mode & stat.S_IRWXU)
            self.socket.bind(self._target)
        found = self._lstat(self._name)
        if found is None:
            raise occupied(self.address, "something has taken our socket away")
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
        with ExitStack() as undo, translating(self.address, f"{shown} cannot be set"):
            name = self._name
            if LINUX:  # a name for this very file, whatever others may put in its place
                flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                handle = os.open(name, flags, dir_fd=self._directory)
                undo.callback(primitives.close, handle)
                if not os.path.samestat(os.fstat(handle), bound):
                    raise occupied(self.address, "something has taken our socket's place")
                name = f"{PROC}/{handle}"
            if gid is not None:
                os.chown(name, -1, gid, dir_fd=self._directory, follow_symlinks=LINUX)
            os.chmod(name, mode, dir_fd=self._directory, follow_symlinks=LINUX)

    def close(self) -> None:
        """Close the socket, and remove it if the path leads to it."""
        if self._closed:
            return
        with suppress(AddressError, OSError):  # what stays is stale, and the next claim removes it
            if self._bound is not None:
                self._unlink(self._bound)
        self._close_directory()
        self.socket.close()  # only now: while it is open, its inode number is not used again
        if self._lock is not None:
            self._lock.give_back()
        self._closed = True

    def abandon(self) -> None:
        """Close only the descriptors; the files stay."""
        if self._closed:
            return
        self._close_directory()
        self.socket.close()
        if self._lock is not None:
            self._lock.close()
        self._closed = True

    def _close_directory(self) -> None:
        """Close the directory, unless the program has closed it.

        Nothing tells it from the same directory that the program has opened in the same way. But a
        program that has closed it has closed the socket, too.
        """
        if self.socket.holds() and identity_of(self._directory) == self._directory_is:
            primitives.close(self._directory)
            self._directory = -1

    def _lstat(self, name: str) -> os.stat_result | None:
        with translating(self.address, "its directory cannot be searched"):
            try:
                return os.lstat(name, dir_fd=self._directory)
            except FileNotFoundError:
                return None

    def _unlink(self, known: os.stat_result) -> None:
        """Remove what is at the path, unless it is no longer what we know."""
        found = self._lstat(self._name)
        if found is not None and not os.path.samestat(found, known):
            raise occupied(self.address, "what is there has just changed")
        if found is not None:
            os.unlink(self._name, dir_fd=self._directory)

    def _refuse_foreign(self, found: os.stat_result | None, kind: int, shown: str) -> None:
        if found is None:
            return
        if stat.S_IFMT(found.st_mode) != kind:
            raise occupied(self.address, f"{shown} is {described(found)}")
        if found.st_uid != os.geteuid():
            raise occupied(self.address, f"{shown} belongs to uid {found.st_uid}")
