"""Hold signals back from a thread while it changes what a signal handler may use.

A handler that Python runs in the middle of a change would find it half done. Where the mask is
not to be had, or the kernel gives the signal to another thread, the handler does run there: so a
mask makes that rare, and whoever may be called from a handler still asks whether it was.
"""

from __future__ import annotations

from typing import Final

from mpsr._speedups import sigmask

MASK: Final = sigmask.SignalMask()
