"""Set limits of mpsr in the modules that use them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import mpsr.limits

if TYPE_CHECKING:
    from types import ModuleType


def set_limits(**values: float) -> dict[str, float]:
    """Set limits in ``mpsr.limits`` and in all loaded modules that use them; return the old ones.

    A module that is imported later reads the new value from ``mpsr.limits``.
    """
    old = {}
    for name, value in values.items():
        old[name] = getattr(mpsr.limits, name)
        for module in holders_of(name):
            setattr(module, name, value)
    return old


def holders_of(name: str) -> list[ModuleType]:
    """Return the loaded modules of mpsr that have a limit as a global name."""
    return [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("mpsr.") and name in vars(module)
    ]
