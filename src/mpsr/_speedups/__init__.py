"""Choose between C and Python, once, for what is written in both.

The environment variable MPSR_SPEEDUPS says which: ``auto``, the default, takes C where it was
built, ``require`` raises MpsrError where it was not, and ``off`` takes Python. One extension
module holds all the C. ``codec_py``, ``direct_py``, ``packets_py`` and ``sigmask_py`` are the
Python twins of its parts. The ring of shared memory and the timer, which need Linux as well, have
none: all works without them.

The C relies on the interpreter lock. A free-threaded Python turns it on when it loads the C;
where it was told not to (PYTHON_GIL=0), ``auto`` leaves the C aside, and ``require`` is an error.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from mpsr.errors import ConfigurationError, MpsrError

_CHOICES: Final = ("auto", "require", "off")


def _is_built() -> bool:
    """Tell whether to use C; raise where it is required and was not built."""
    choice = os.environ.get("MPSR_SPEEDUPS", "auto")
    if choice not in _CHOICES:
        raise ConfigurationError(f"MPSR_SPEEDUPS={choice}: choose one of {', '.join(_CHOICES)}")
    if choice == "off":
        return False
    try:
        from mpsr._speedups import _c  # noqa: F401, PLC0415 - it may be missing
    except ImportError as exc:
        if choice == "auto":
            return False
        error = (
            "MPSR_SPEEDUPS=require, but the C extension was not built: install mpsr anew where "
            "there are a C compiler and Python's headers (pip install --no-binary mpsr "
            "--force-reinstall mpsr; in a checkout, pip install -e .)"
        )
        raise MpsrError(error) from exc
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return True
    if choice == "auto":
        return False
    raise MpsrError(
        "MPSR_SPEEDUPS=require, but Python runs without its interpreter lock, on which the C "
        "relies: leave PYTHON_GIL=0 and -X gil=0 away"
    )


IN_C: Final = _is_built()
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

__all__ = ["IN_C", "IN_C_ON_LINUX", "codec", "direct", "packets", "sigmask"]
