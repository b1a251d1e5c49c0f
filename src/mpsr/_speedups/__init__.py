"""Choose between C and Python, once, for what is written in both.

The environment variable MPSR_SPEEDUPS says which: ``auto``, the default, also if it is empty, takes
C where it can be loaded, ``require`` raises MpsrError where it cannot, and ``off`` takes Python.
One extension module holds all the C. ``codec_py``, ``direct_py``, ``packets_py`` and
``sigmask_py`` are the Python twins of its parts. The ring of shared memory and the timer, which
need Linux as well, have none: all works without them.

The C relies on the interpreter lock. A free-threaded Python turns it on when it loads the C;
where it was told not to (PYTHON_GIL=0), ``auto`` leaves the C aside, and ``require`` is an error.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from mpsr.errors import ConfigurationError, Explanation, MpsrError

_CHOICES: Final = ("auto", "require", "off")
# What the build lacks, such as a compiler, is known only when it runs.
_REBUILD: Final = (
    "pip install -v --force-reinstall --no-binary mpsr mpsr builds it, and prints what the build "
    "lacks (in a checkout: pip install -v -e .)"
)


def _obstacle() -> Explanation | None:
    """Return why the C cannot be used; None if it can."""
    try:
        import mpsr._speedups._c  # noqa: F401, PLC0415 - it may be missing
    except ImportError as exc:
        missing = isinstance(exc, ModuleNotFoundError)
        what = "the C extension is not installed" if missing else "the C extension cannot be loaded"
        why = f"this installation of mpsr has none for {sys.implementation.cache_tag}"
        return Explanation(what, why if missing else str(exc), _REBUILD)
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    why = "Python runs without its interpreter lock, on which the C relies"
    return Explanation("the C extension is not used", why, "remove PYTHON_GIL=0 and -X gil=0")


def _choose() -> Explanation | None:
    """Return why Python is used; None for C. Raise where the C is required and cannot be used."""
    choice = os.environ.get("MPSR_SPEEDUPS") or "auto"
    if choice not in _CHOICES:
        raise ConfigurationError(f"MPSR_SPEEDUPS={choice}: choose one of {', '.join(_CHOICES)}")
    if choice == "off":
        return Explanation("the C extension is not used", "MPSR_SPEEDUPS=off turns it off")
    obstacle = _obstacle()
    if obstacle is not None and choice == "require":
        raise MpsrError(obstacle.caused("MPSR_SPEEDUPS=require cannot be met"))
    return obstacle


WHY_PYTHON: Final = _choose()
"""Why the C extension is not in use; None if it is."""

IN_C: Final = WHY_PYTHON is None
"""Whether the C extension is in use."""

IN_C_ON_LINUX: Final = IN_C and sys.platform == "linux"
"""Whether the parts are in use that need Linux: packets, the ring and the timer."""

# The twins have the same names and types: where types are checked, they stand for the C, too.
if TYPE_CHECKING or not IN_C:
    from mpsr._speedups import codec_py as codec
    from mpsr._speedups import direct_py as direct
    from mpsr._speedups import sigmask_py as sigmask
else:
    from mpsr._speedups import _c as codec
    from mpsr._speedups import _c as direct
    from mpsr._speedups import _c as sigmask
if TYPE_CHECKING or not IN_C_ON_LINUX:
    from mpsr._speedups import packets_py as packets
else:
    from mpsr._speedups import _c as packets

__all__ = ["IN_C", "IN_C_ON_LINUX", "WHY_PYTHON", "codec", "direct", "packets", "sigmask"]
