"""Change files: everything that the store does to a disk is done here, and nowhere else.

The functions raise OSError. Nothing is on the disk before ``sync`` or ``sync_directory`` returns.
"""

from __future__ import annotations

import errno
import os
from itertools import islice
from typing import TYPE_CHECKING, Final

from mpsr.limits import KIB
from mpsr.system import primitives
from mpsr.system.calls import NO_SUCH_CALL, naming

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

_BUFFERS: Final = 1024  # of one system call: IOV_MAX
_ZEROS: Final = 256 * KIB  # bytes that are written at once where room cannot be set aside
# The file system cannot do it, or a sandbox does not allow it.
_NO_FALLOCATE: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES)


def make_directory(path: str) -> None:
    """Make a directory for its owner alone."""
    os.mkdir(path, 0o700)
    sync_directory(os.path.dirname(path))


def create(path: str) -> int:
    """Make a file that is not there, for its owner alone; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def allocate(file: int, size: int) -> None:
    """Have the disk set aside room for a file of this size, and make the file so long.

    Where the file system or a sandbox refuses the call, zeros are written. glibc does that itself
    on most file systems that cannot do it; musl never does.
    """
    try:
        os.posix_fallocate(file, 0, size)
    except AttributeError:  # macOS
        _fill(file, size)
    except OSError as exc:
        if exc.errno not in _NO_FALLOCATE:
            raise
        _fill(file, size)


def _fill(file: int, size: int) -> None:
    """Write zeros from the end of the file to this size."""
    offset = before = os.fstat(file).st_size
    zeros = memoryview(bytes(_ZEROS))
    try:
        while offset < size:
            offset = write(file, [zeros[: size - offset]], offset)
    except OSError:
        truncate(file, before)
        raise


def truncate(file: int, size: int) -> None:
    """Cut a file."""
    os.ftruncate(file, size)


def write(file: int, buffers: Iterable[Buffer], offset: int) -> int:
    """Write all of the buffers, one behind the other, from an offset on; return where they end."""
    rest = iter(buffers)
    while group := list(islice(rest, _BUFFERS)):
        while group:
            try:
                done = os.pwritev(file, group, offset)
            except OSError as exc:
                if exc.errno not in NO_SUCH_CALL:
                    raise
                done = os.pwrite(file, group[0], offset)
            offset += done
            group = _behind(group, done)
    return offset


def _behind(buffers: list[Buffer], done: int) -> list[Buffer]:
    """Return what was not written: a system call may write a part."""
    for index, buffer in enumerate(buffers):
        size = memoryview(buffer).nbytes
        if done < size:
            return [memoryview(buffer).cast("B")[done:], *buffers[index + 1 :]]
        done -= size
    return []


def sync(file: int) -> None:
    """Wait until what was written is on the disk, and how long the file is."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(file)
    else:
        import fcntl  # noqa: PLC0415 - for macOS, where fsync does not reach the disk

        fcntl.fcntl(file, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined]


def rename(old: str, new: str) -> None:
    """Give a file or directory another name, in the place of what had it."""
    os.rename(old, new)


def remove(path: str) -> None:
    """Remove a file."""
    os.unlink(path)


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with naming("fsync"):
            os.fsync(directory)
    finally:
        primitives.close(directory)
