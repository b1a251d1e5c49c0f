"""Have a descriptor become readable at a time that any thread can set.

So a thread that waits need not be woken to learn until when. It takes C, and Linux.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from mpsr.descriptors import Identity, close_descriptor
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

    __slots__ = ("_descriptor", "_identity", "_is_set")

    def __init__(self) -> None:
        """Make one that is not set; raise OSError where the system gives none."""
        self._descriptor = _timer.make()
        self._identity = Identity(self._descriptor)
        self._is_set = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._descriptor

    @property
    def intact(self) -> bool:
        """Whether the descriptor is still the one that was made."""
        return self._identity.holds()

    def set(self, when: float) -> bool:
        """Have the descriptor readable from then on, in place of what was set before.

        Return False if the program has closed it.
        """
        self._is_set = True
        try:
            _timer.arm(self._descriptor, when)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()`` has its time."""
        if self._is_set:
            self._is_set = False
            with suppress(OSError):
                _timer.arm(self._descriptor, 0)

    def close(self) -> None:
        """Close the descriptor."""
        close_descriptor(self._descriptor, self._identity)


def make_timer() -> Timer | None:
    """Return a timer, or None where there is none to be had."""
    if not AVAILABLE:
        return None
    try:
        return Timer()
    except OSError:  # too many descriptors
        return None
