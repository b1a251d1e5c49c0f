"""Have the C library keep the memory of batches that come and go.

The GNU C library gives freed memory back to the system as soon as there is much of it, and
takes blocks above 128 KiB straight from there: then every batch is written into pages that are
new, and each page costs as much as copying it. It learns from what is freed: blocks up to the
largest so far are kept, and twice as much free memory in all (mallopt(3), M_MMAP_THRESHOLD).
So one large block is taken and freed; never touched, it costs no memory.
"""

from __future__ import annotations

from functools import cache

from mpsr.limits import KEPT_MEMORY


@cache  # once a process
def keep_freed_memory() -> None:
    """Let the process keep memory that was freed, up to KEPT_MEMORY."""
    bytes(KEPT_MEMORY // 2)  # unlike a bytearray, memory that the system has cleared
