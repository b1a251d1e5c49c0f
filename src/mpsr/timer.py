"""Have a descriptor become readable at a time that any thread can set.

So a thread that waits need not be woken to learn until when. It takes C, and Linux.
"""

from __future__ import annotations

import sys

from mpsr import primitives
from mpsr.wire import codec

try:
    if codec.TWIN != "C":
        raise ImportError("MPSR_SPEEDUPS=off")
    from mpsr import _timer
except ImportError as exc:
    if sys.platform == "linux":
        codec.do_without("timer", exc)
    AVAILABLE = False
else:
    AVAILABLE = True


class Timer:
    """A descriptor that is readable once its time has come."""

    __slots__ = ("_descriptor", "_is_set")

    def __init__(self) -> None:
        """Make one that is not set; raise OSError where the system gives none."""
        self._descriptor = _timer.make()
        self._is_set = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._descriptor

    def set(self, when: float) -> None:
        """Have the descriptor readable from then on, in place of what was set before."""
        self._is_set = True
        _timer.arm(self._descriptor, when)

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()`` has its time."""
        if self._is_set:
            _timer.arm(self._descriptor, 0)
            self._is_set = False

    def close(self) -> None:
        """Close the descriptor."""
        primitives.close(self._descriptor)


def make_timer() -> Timer | None:
    """Return a timer, or None where there is none to be had."""
    if not AVAILABLE:
        return None
    try:
        return Timer()
    except OSError:  # too many descriptors
        return None
