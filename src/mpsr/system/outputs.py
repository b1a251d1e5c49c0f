"""Open a file to write, where no other user may have put another file in its place.

One rule holds for every file that mpsr writes, whatever it is for. The file must be regular. In a
directory to which another user may write, mpsr follows no symbolic link, and takes an existing
file only if it belongs to this user or root and has no other name. A new file has mode 0600 until
it is widened to the mode that was asked for.

The path is walked from the root with a descriptor for each directory, so that nothing that was
checked can be exchanged afterwards.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr.errors import ConfigurationError, Explanation
from mpsr.system import primitives
from mpsr.system.sockets import DIRECTORY, PROC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

PRIVATE: Final = 0o600  # the mode of a new file
_BASE: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_ROOT: Final = 0
_MOST_LINKS: Final = 40  # symbolic links in one path: Linux's own limit
_SHARED: Final = "other users may write to the directory"
_BE_ALONE: Final = "remove it, or choose a directory to which only this user may write"
_MOST_TRIES: Final = 100  # a file that appears and vanishes: another process is at work there
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


class _Place(NamedTuple):
    """A name in an open directory."""

    path: str  # as it is shown
    directory: int
    name: str
    protected: bool  # whether only this user and root may change names there

    def look(self) -> os.stat_result | None:
        """Return what is there; None if nothing is. Raise ConfigurationError if it is refused."""
        try:
            found = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, self.path) from None
        return self.checked(found)

    def checked(self, found: os.stat_result) -> os.stat_result:
        """Return what is there; raise ConfigurationError if it is refused."""
        _check_regular(self.path, found.st_mode)
        if not self.protected:
            if found.st_uid not in _own():
                why = f"it belongs to user {found.st_uid}, and {_SHARED}"
                raise _refused(self.path, why, _BE_ALONE)
            if found.st_nlink > 1:
                why = f"it has {found.st_nlink} names, and {_SHARED}"
                raise _refused(self.path, why, _BE_ALONE)
        return found


def check(path: str) -> None:
    """Raise ConfigurationError for a path that no file can be written at; create nothing.

    A directory that is missing or not permitted raises nothing: it may appear later.
    """
    with suppress(OSError), _place(path) as place:
        place.look()


def check_way(path: str) -> None:
    """Raise ConfigurationError if a symbolic link of another user may lead elsewhere."""
    with suppress(OSError), _end(path):
        pass


def check_directory(path: str) -> None:
    """Raise ConfigurationError for a path at which there can be no directory of files."""
    check_way(path)
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "a file")
            raise _refused(path, f"it is {kind}, not a directory")


def open_file(path: str, flags: int = os.O_RDWR, mode: int = PRIVATE) -> tuple[int, bool]:
    """Open a file to write, or create it; return its descriptor, and whether it is new.

    Args:
        path: the file. If only this user and root may write to its directory, it may be a
            symbolic link.
        flags: of open(2); those that create or follow are set here.
        mode: the permissions of a new file, whatever the umask is.

    Raises:
        ConfigurationError: the file that is there is refused.
        OSError: the system refuses.

    """
    for _ in range(_MOST_TRIES):
        with suppress(FileNotFoundError), _place(path) as place:
            if place.look() is not None:
                return _existing(place, flags), False
        with suppress(FileExistsError):
            return create(path, mode, flags), True
    raise OSError(errno.EBUSY, "another process creates and removes it", path)


def open_existing(path: str, flags: int = os.O_RDWR) -> int:
    """Open a file that is there; return its descriptor. Raises as ``open_file``."""
    with _place(path) as place:
        return _existing(place, flags)


def create(path: str, mode: int = PRIVATE, flags: int = os.O_RDWR) -> int:
    """Create a file, which must not be there yet; return its descriptor."""
    with _place(path) as place:
        return _create(place, flags, mode)


def hold(path: str, mode: int = PRIVATE) -> tuple[int, bool]:
    """Create a file unless it is there; return a descriptor that names it, and whether it is new.

    It is for a file that a library opens by its name. The descriptor can neither read nor write,
    and its close releases no POSIX lock that the library holds. Raises as ``open_file``.
    """
    with _place(path) as place:
        new = place.look() is None
        try:
            if new:  # without a descriptor, whose close would release a lock of another thread
                os.mknod(place.name, stat.S_IFREG | PRIVATE, dir_fd=place.directory)
        except FileExistsError:
            new = False
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, path) from None
        handle = _existing(place, os.O_PATH)
        if new and mode != PRIVATE:
            os.chmod(f"{PROC}/{handle}", mode)
        return handle, new


def put(path: str, data: Buffer, mode: int = PRIVATE) -> None:
    """Write a file as a whole: it appears complete and synced, in the place of an older one."""
    with _place(path) as place:
        place.look()
        unfinished = place._replace(name=f"{place.name}.unfinished")
        with suppress(FileNotFoundError):  # of a process that was killed
            os.unlink(unfinished.name, dir_fd=place.directory)
        try:
            file = _create(unfinished, os.O_RDWR, mode)
            try:
                write(file, data)
                os.fsync(file)
            finally:
                primitives.close(file)
            os.rename(
                unfinished.name,
                place.name,
                src_dir_fd=place.directory,
                dst_dir_fd=place.directory,
            )
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, path) from None


def write(file: int, data: Buffer) -> None:
    """Write all of the data."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def make_directories(path: str, mode: int = PRIVATE) -> None:
    """Create a directory and its parents, if they are missing.

    Args:
        path: the directory.
        mode: the permissions of the files in it: users that may read these may enter it.

    """
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        os.mkdir(each, 0o700)
        os.chmod(each, mode | (mode & 0o444) >> 2)


def leads_to(path: str, file: int) -> bool:
    """Return whether a path leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _own() -> tuple[int, int]:
    return _ROOT, os.geteuid()


def _existing(place: _Place, flags: int) -> int:
    try:
        file = os.open(place.name, flags | _BASE, dir_fd=place.directory)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, place.path) from None
    try:
        place.checked(os.fstat(file))
        if not flags & os.O_PATH:
            os.set_blocking(file, True)
    except BaseException:
        primitives.close(file)
        raise
    return file


def _create(place: _Place, flags: int, mode: int) -> int:
    new = flags | _BASE | os.O_CREAT | os.O_EXCL
    try:
        file = os.open(place.name, new, PRIVATE, dir_fd=place.directory)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, place.path) from None
    try:
        os.set_blocking(file, True)
        if stat.S_IMODE(os.fstat(file).st_mode) != mode:
            with suppress(PermissionError):  # a file system without modes, such as FAT
                os.fchmod(file, mode)
    except BaseException:
        primitives.close(file)
        raise
    return file


@contextmanager
def _place(path: str) -> Iterator[_Place]:
    """Give the place of a file, once it is known that only a file can be there."""
    _check_kind(path)
    with _end(path) as place:
        yield place


@contextmanager
def _end(path: str) -> Iterator[_Place]:
    """Walk to a path's last directory, following links where no other user can have put one."""
    left = deque(os.path.join(os.getcwd(), path).split("/"))
    links = 0
    walk = _Walk(path)
    try:
        while True:
            name = left.popleft()
            last = not any(each not in {"", "."} for each in left)
            if name in {"", "."} and not last:
                continue
            target = walk.target_of(name)
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                left.extendleft(reversed(target.split("/")))
                if target.startswith("/"):
                    walk.begin()
            elif last:
                yield _Place(path, walk.directory, name, walk.protected)
                return
            else:
                walk.enter(name)
    finally:
        primitives.close(walk.directory)


class _Walk:
    """A directory on the way to a path.

    Attributes:
        directory: its descriptor, which the caller closes.
        protected: whether only this user and root may change names there.

    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.directory: int = os.open("/", DIRECTORY)
        self._see("/", entered=True)

    def begin(self) -> None:
        """Go to the root."""
        primitives.close(self.directory)
        self.directory = os.open("/", DIRECTORY)
        self._see("/", entered=True)

    def enter(self, name: str) -> None:
        """Go to a directory in this one."""
        shown = os.path.join(self._shown, name)
        try:
            inner = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=self.directory)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, shown) from None
        primitives.close(self.directory)
        self.directory = inner
        self._see(shown, entered=self.protected or (self._safe and self._sticky))

    def target_of(self, name: str) -> str | None:
        """Return where a symbolic link leads; None if there is none of that name."""
        try:
            target = os.readlink(name, dir_fd=self.directory)
        except OSError as exc:
            if exc.errno in {errno.EINVAL, errno.ENOENT}:
                return None
            raise OSError(exc.errno, exc.strerror, self._path) from None
        if not self.protected:
            shown = os.path.join(self._shown, name)
            why = f"{shown} is a symbolic link, and {_SHARED}"
            raise _refused(self._path, why, _BE_ALONE)
        return target

    def _see(self, shown: str, *, entered: bool) -> None:
        """Check which users may change the directory; ``entered``: no other could exchange it."""
        found = os.fstat(self.directory)
        self._shown = shown
        self._safe = entered and found.st_uid in _own()
        self._sticky = bool(found.st_mode & stat.S_ISVTX)
        self.protected: bool = self._safe and not found.st_mode & _OTHERS


def _check_kind(path: str) -> None:
    """Raise ConfigurationError, in these words, where something else than a file is."""
    if "\0" in path:
        raise _refused(path, "a path holds no NUL")
    if os.path.basename(path) in {"", ".", ".."}:
        raise _refused(path, "it is a directory")
    with suppress(OSError):
        _check_regular(path, os.stat(path).st_mode)


def _check_regular(path: str, mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG:
        raise _refused(path, f"it is {_KINDS.get(kind, 'of an unknown kind')}, not a regular file")


def _refused(path: str, why: str, advice: str = "choose another path") -> ConfigurationError:
    return ConfigurationError(Explanation(f"cannot write to {path}", why, advice))
