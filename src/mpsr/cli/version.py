"""Say which mpsr runs, which of its C parts are in use, and on which Python."""

from __future__ import annotations

import os
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
MISSING: Final = (  # where the C is not in use: why, and what to try
    ""
    if _speedups.IN_C
    else "C parts: turned off by MPSR_SPEEDUPS=off"
    if os.environ.get("MPSR_SPEEDUPS") == "off"
    else "C parts: not built\n"
    "  why: there was no C compiler, or Python's headers were missing, when mpsr was installed\n"
    "  try: pip install --force-reinstall --no-binary mpsr mpsr; without them it works, but slower"
)
LINE: Final = (
    f"mpsr {__version__} ("
    + "".join(f"{part}: {what}; " for part, what in _PARTS.items())
    + f"Python {PYTHON})"
)
