"""Keep many latencies in little memory."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Final

_BITS: Final = 11  # of every value that are kept: it is known to a thousandth


class Histogram:
    """Counts values, in nanoseconds; its memory grows with their range, not with their number."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.largest: int = 0

    def add(self, value: int) -> None:
        """Count a value."""
        shift = max(0, value.bit_length() - _BITS)
        self._counts[value >> shift << shift] += 1
        self.largest = max(self.largest, value)

    def __len__(self) -> int:
        return self._counts.total()

    def quantile(self, fraction: float) -> int:
        """Return the value that so many are not above; the nearest rank, nothing interpolated."""
        rank = ceil(fraction * len(self))
        for value in sorted(self._counts):
            rank -= self._counts[value]
            if rank <= 0:
                return value
        return self.largest
