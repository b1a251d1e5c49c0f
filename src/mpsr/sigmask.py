"""Hold signals back from a thread while it changes what a signal handler may use.

A handler that Python runs in the middle of a change would find it half done. Where the mask is
not to be had, or the kernel gives the signal to another thread, the handler does run there: so a
mask makes that rare, and whoever may be called from a handler still asks whether it was.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from mpsr.wire import codec

try:
    if codec.TWIN != "C":
        raise ImportError("MPSR_SPEEDUPS=off")
    from mpsr._sigmask import SignalMask
except ImportError as exc:
    if sys.platform == "linux":
        codec.do_without("signal mask", exc)
    _mask: AbstractContextManager[None] = nullcontext()
else:
    _mask = SignalMask()

MASK: Final = _mask
