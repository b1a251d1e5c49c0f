"""Read the monotonic clock, even while a test has frozen Python's.

freezegun replaces ``time.monotonic`` in every module, by identity. The functions of a second
instance of the built-in module ``time`` are other objects, so they stay real, even if mpsr is
imported while the clock is frozen.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

__all__ = ["is_frozen", "monotonic"]

_APART: Final = 1.0  # seconds: two readings of the same clock are microseconds apart


def _second_instance() -> Any:  # noqa: ANN401 - a module
    spec: Any = time.__spec__
    instance = spec.loader.create_module(spec)
    spec.loader.exec_module(instance)
    return instance


if TYPE_CHECKING:
    from time import monotonic
else:
    monotonic = _second_instance().monotonic


def is_frozen() -> bool:
    """Return whether ``time.monotonic``, which event loops use, shows another time."""
    return abs(time.monotonic() - monotonic()) > _APART
