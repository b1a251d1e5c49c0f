"""Say which mpsr runs, on which codec and which Python."""

from __future__ import annotations

import sys
from typing import Final

from mpsr import __version__
from mpsr.wire.codec import TWIN

PYTHON: Final = ".".join(map(str, sys.version_info[:3]))
CODEC: Final = {"Python": "pure Python"}.get(TWIN, TWIN)
LINE: Final = f"mpsr {__version__} (codec: {CODEC}; Python {PYTHON})"
