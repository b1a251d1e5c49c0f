"""Make a ring of shared memory, or attach to one that a receiver gave."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mpsr.errors import MpsrError
from mpsr.limits import RING_SIZE
from mpsr.wire import codec

if TYPE_CHECKING:
    from mpsr._ring import Reader, Writer

try:
    if codec.TWIN != "C":
        raise ImportError("MPSR_SPEEDUPS=off")
    from mpsr import _ring
except ImportError as exc:
    if codec.REQUIRED:
        raise MpsrError(codec.missing("ring")) from exc
    AVAILABLE = False
else:
    import fcntl

    AVAILABLE = True
    # With these nobody can take away what is mapped: no access ever fails (SIGBUS).
    _SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    _BLOCK: Final = 512  # bytes: the unit of st_blocks
    _PAGES: Final = os.sysconf("SC_PAGESIZE")


def make() -> tuple[int, Reader]:
    """Return the descriptor of a new ring, and the receiver's end of it.

    Raises OSError where the system gives none.
    """
    whole = _ring.CONTROL + RING_SIZE
    descriptor = os.memfd_create("mpsr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, whole)  # what there is no memory for fails here
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor, _ring.Reader(descriptor, RING_SIZE)
    except BaseException:
        os.close(descriptor)
        raise


def attach(descriptor: int, size: int) -> Writer | None:
    """Return the producer's end of a ring, or None if it is not safe, or not to be had."""
    try:
        whole = _ring.CONTROL + size
        about = os.fstat(descriptor)
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or about.st_size < whole or about.st_blocks * _BLOCK < whole:
            return None
        if os.fstatvfs(descriptor).f_bsize != _PAGES:  # huge pages can run out
            return None
        return _ring.Writer(descriptor, size)
    except (OSError, ValueError):
        return None
