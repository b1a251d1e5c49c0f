"""Have a descriptor become readable at a time that any thread can set.

So a thread that waits need not be woken to learn until when. It takes C, and Linux.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mpsr._speedups import IN_C_ON_LINUX
from mpsr.system import primitives

if TYPE_CHECKING or IN_C_ON_LINUX:
    from mpsr._speedups import _c

_LEAST_MARK: Final = 1 << 60  # ns


class Timer:
    """A descriptor that is readable once its time has come."""

    __slots__ = ("_descriptor", "_is_set", "_mark")

    def __init__(self) -> None:
        """Make one that is not set; raise OSError where the system gives none."""
        # Its interval, at least 36 years: no other timer has it, and no second interval passes.
        self._mark = _LEAST_MARK | (int.from_bytes(os.urandom(8), "big") % _LEAST_MARK)
        self._descriptor = _c.make_timer(self._mark)
        self._is_set = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._descriptor

    @property
    def intact(self) -> bool:
        """Whether the descriptor is still the one that was made."""
        return _c.is_timer(self._descriptor, self._mark)

    def set(self, when: float) -> bool:
        """Have the descriptor readable from then on, in place of what was set before.

        Return False if the program has closed it.
        """
        self._is_set = True
        try:
            _c.arm_timer(self._descriptor, self._mark, when)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        """Make the descriptor unreadable until the next ``set()`` has its time."""
        if self._is_set:
            self._is_set = False
            with suppress(OSError):
                _c.arm_timer(self._descriptor, self._mark, 0)

    def close(self) -> None:
        """Close the descriptor, unless the program has closed it."""
        if self.intact:
            primitives.close(self._descriptor)


def make_timer() -> Timer | None:
    """Return a timer, or None where there is none to be had."""
    if not IN_C_ON_LINUX:
        return None
    try:
        return Timer()
    except OSError:  # too many descriptors
        return None
