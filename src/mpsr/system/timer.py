"""Have a descriptor become readable at a time that any thread can set.

So a thread that waits need not be woken to learn until when. It takes C, and Linux.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from mpsr._speedups import IN_C_ON_LINUX
from mpsr.system.descriptors import Identity, close_descriptor

if TYPE_CHECKING or IN_C_ON_LINUX:
    from mpsr._speedups import _c


class Timer:
    """A descriptor that is readable once its time has come."""

    __slots__ = ("_descriptor", "_identity", "_is_set")

    def __init__(self) -> None:
        """Make one that is not set; raise OSError where the system gives none."""
        self._descriptor = _c.make_timer()
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
            _c.arm_timer(self._descriptor, when)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()`` has its time."""
        if self._is_set:
            self._is_set = False
            with suppress(OSError):
                _c.arm_timer(self._descriptor, 0)

    def close(self) -> None:
        """Close the descriptor."""
        close_descriptor(self._descriptor, self._identity)


def make_timer() -> Timer | None:
    """Return a timer, or None where there is none to be had."""
    if not IN_C_ON_LINUX:
        return None
    try:
        return Timer()
    except OSError:  # too many descriptors
        return None
