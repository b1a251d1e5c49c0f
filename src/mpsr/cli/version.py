"""Say which mpsr runs, which of its C parts are in use, and on which Python."""

from __future__ import annotations

import sys
from typing import Final

from mpsr import __version__, _speedups

PYTHON: Final = ".".join(map(str, sys.version_info[:3]))
CODEC: Final = "C" if _speedups.IN_C else "pure Python"
_PARTS: Final = {
    "codec": CODEC,
    "direct writes": "C" if _speedups.IN_C else "not in use",
    "signal mask": "C" if _speedups.IN_C else "not in use",
    "packets": "C" if _speedups.IN_C_ON_LINUX else "pure Python",
    "ring": "C" if _speedups.IN_C_ON_LINUX else "not in use",
    "timer": "C" if _speedups.IN_C_ON_LINUX else "not in use",
}
_WHY: Final = _speedups.WHY_PYTHON
MISSING: Final = (  # where the C is not in use: why, and what to try
    ""
    if _WHY is None
    else f"{_WHY.what}\n  why: {_WHY.why}" + (f"\n  try: {_WHY.advice}" if _WHY.advice else "")
)
LINE: Final = (
    f"mpsr {__version__} ("
    + "".join(f"{part}: {what}; " for part, what in _PARTS.items())
    + f"Python {PYTHON})"
)
