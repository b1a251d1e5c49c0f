"""Draw the numbers of a random test, so that it can be repeated.

Where a test fails, its report names the seed; MPSR_TEST_SEED=seed draws the same numbers again.
"""

from __future__ import annotations

import os
import random
from typing import Final

SEED: Final = "MPSR_TEST_SEED"


class Chance(random.Random):
    """A random.Random that knows its seed, a number of 32 bits."""

    def __init__(self, seed: int | None = None) -> None:
        if seed is None:
            seed = int(os.environ.get(SEED) or random.SystemRandom().getrandbits(32))
        super().__init__(seed)
        self.drawn_from = seed
