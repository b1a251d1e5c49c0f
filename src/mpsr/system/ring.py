"""Make a ring of shared memory, or take one that a receiver gives: a descriptor."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from mpsr._speedups import IN_C_ON_LINUX
from mpsr.limits import RING_SIZE
from mpsr.system import primitives

AVAILABLE: Final = IN_C_ON_LINUX

if TYPE_CHECKING or AVAILABLE:
    import fcntl

    from mpsr._speedups import _c

    # With these nobody can take away what is mapped: no access ever fails (SIGBUS).
    _SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    _BLOCK: Final = 512  # bytes: the unit of st_blocks
    _PAGES: Final = os.sysconf("SC_PAGESIZE")
    # The receiver's page size as it stores a number: an emulated program may have another one, or
    # another byte order.
    _LAYOUT: Final = _PAGES.to_bytes(4, sys.byteorder)
    _LAYOUT_AT: Final = 256  # bytes: behind the numbers that both ends change


def make() -> tuple[int, _c.Reader]:
    """Return the descriptor of a new ring, and the receiver's end of it.

    Raises OSError where the system gives none.
    """
    whole = _c.CONTROL + RING_SIZE
    descriptor = os.memfd_create("mpsr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, whole)  # what there is no memory for fails here
        os.pwrite(descriptor, _LAYOUT, _LAYOUT_AT)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor, _c.Reader(descriptor, RING_SIZE)
    except BaseException:
        primitives.close(descriptor)
        raise


def attach(descriptor: int, size: int) -> _c.Writer | None:
    """Return the producer's end of a ring, or None if it is not safe, or not to be had."""
    try:
        whole = _c.CONTROL + size
        # Asked first: only a file in memory has seals, and nothing of it ever has to be waited for.
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        about = os.fstat(descriptor)
        if not sealed or about.st_size < whole or about.st_blocks * _BLOCK < whole:
            return None
        if os.fstatvfs(descriptor).f_bsize != _PAGES:  # huge pages can run out
            return None
        if os.pread(descriptor, len(_LAYOUT), _LAYOUT_AT) != _LAYOUT:
            return None
        return _c.Writer(descriptor, size)
    except (OSError, ValueError):
        return None
