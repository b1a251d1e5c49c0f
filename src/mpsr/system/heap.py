"""Have the C library keep the memory of batches that come and go.

The GNU C library gives freed memory back to the system as soon as there is much of it, and
takes blocks above 128 KiB straight from there: then every batch is written into pages that are
new, and each page costs as much as copying it. It learns from what is freed: blocks up to the
largest so far are kept, and twice as much free memory in all (mallopt(3), M_MMAP_THRESHOLD).
So one large block is taken and freed; never touched, it costs no memory.

The kept memory includes gaps between blocks that are in use, which no limit bounds. After much was
freed out of turn, it is given back (malloc_trim(3)).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache

from mpsr.limits import KEPT_MEMORY


@cache  # once a process
def keep_freed_memory() -> None:
    """Let the process keep memory that was freed, up to KEPT_MEMORY."""
    with suppress(MemoryError):  # as under a small ulimit -v: then batches are only slower
        bytes(KEPT_MEMORY // 2)  # unlike a bytearray, memory that the system has cleared


def give_back_freed_memory() -> None:
    """Return free memory to the system, also from gaps between blocks; takes milliseconds."""
    with suppress(ImportError, OSError):  # no descriptor to load it with, or no such library
        trim = _malloc_trim()
        if trim is not None:
            trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    import ctypes  # noqa: PLC0415 - imported lazily: slow to import, and seldom needed

    return getattr(ctypes.CDLL(None), "malloc_trim", None)
