"""Own a file by a lock beside it, which names its owner."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import ExitStack, suppress
from typing import Final

from mpsr.limits import DYING_OWNER
from mpsr.system import primitives
from mpsr.system.calls import refused
from mpsr.system.clock import monotonic
from mpsr.system.descriptors import OpenFile
from mpsr.system.processes import named, pid_namespace

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_PAUSE: Final = 0.01  # seconds between two tries for a dead owner's lock
_MAX_TEXT: Final = 32  # bytes: more than two numbers of 32 bits and their line ends take


class Held(Exception):
    """Another descriptor holds the lock.

    Attributes:
        pid: the owner's process id; None if it is not known.
        outside: whether the owner is in another pid namespace, and so has no id here.

    """

    def __init__(self, pid: int | None, *, outside: bool = False) -> None:
        super().__init__(named(pid, outside=outside))
        self.pid = pid
        self.outside = outside


class NotALock(Exception):
    """The file at the path was not written as a lock file."""


class Lock(OpenFile):
    """A lock file that this process has locked. Nothing unlocks it but its methods."""

    __slots__ = ()

    def sign(self) -> None:
        """Write our process id and the number of our pid namespace into the file."""
        numbers = [os.getpid(), pid_namespace()]
        text = "".join(f"{each}\n" for each in numbers if each is not None)
        with suppress(OSError):  # a full disk: the lock decides, its text only explains
            os.ftruncate(self.fileno(), 0)
            os.pwrite(self.fileno(), text.encode(), 0)

    def twin(self) -> Lock:
        """Return another descriptor of the same lock, which holds until both have unlocked it."""
        return Lock(os.dup(self.fileno()))

    def give_back(self) -> None:
        """Unlock the file, though a forked child may still hold it open."""
        if not self.holds():
            return  # the kernel unlocked it when the program closed the descriptor
        with suppress(OSError):
            os.ftruncate(self.fileno(), 0)
        fcntl.flock(self.fileno(), fcntl.LOCK_UN)
        self.close()


def take(path: str, *, dir_fd: int | None = None, uid: int | None = None) -> Lock:
    """Lock the file, which is made if it is missing.

    Args:
        path: the lock file.
        dir_fd: the open directory that a relative path is looked up in.
        uid: the user who must own the file; None for any user.

    Raises Held, NotALock, or OSError.
    """
    with ExitStack() as undo:
        while not _is_at(path, lock := os.open(path, _FLAGS, 0o600, dir_fd=dir_fd), dir_fd):
            primitives.close(lock)
        undo.callback(primitives.close, lock)
        found, text = os.fstat(lock), os.pread(lock, _MAX_TEXT, 0)
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and uid in {None, found.st_uid}
        if not ours or len(text) >= _MAX_TEXT or text.strip(b"0123456789\n"):
            raise NotALock(f"{path} is no lock file")
        held = Lock(lock)
        held.sign()
        undo.pop_all()
        return held


def _is_at(path: str, lock: int, dir_fd: int | None) -> bool:
    """Lock, then tell whether the file is still the one at the path: its owner may remove it."""
    with ExitStack() as undo:
        undo.callback(primitives.close, lock)
        _flock(lock)
        try:
            found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        undo.pop_all()
    return found is not None and os.path.samestat(found, os.fstat(lock))


def _flock(lock: int) -> None:
    """Lock; wait for a lock whose owner is dead: the kernel is about to release it."""
    give_up_at = monotonic() + DYING_OWNER
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(lock, _MAX_TEXT, 0)
            if _is_outside(text):
                raise Held(None, outside=True) from None
            owner = _living(text)
            if owner is not None or not text or monotonic() >= give_up_at:
                raise Held(owner) from None
        except OSError as exc:
            raise refused("flock", exc) from exc
        primitives.sleep(_PAUSE)


def _is_outside(text: bytes) -> bool:
    """Return whether a lock file names a process in another pid namespace."""
    namespaces = text.split()[1:]
    return bool(namespaces) and namespaces[0] != b"%d" % (pid_namespace() or 0)


def _living(text: bytes) -> int | None:
    """Return the process id in a lock file if that process runs.

    Its lock may outlive it, in a child that inherited the descriptor.
    """
    first = text.split(maxsplit=1)[:1]
    pid = int(first[0]) if first and first[0].isdigit() else 0
    try:
        if pid:
            os.kill(pid, 0)
    except PermissionError:
        return pid
    except (ProcessLookupError, OverflowError):
        return None
    return pid or None
