"""Write sizes and durations for people, the same way everywhere."""

from __future__ import annotations

from typing import Final

_KILO: Final = 1000
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_LONG: Final = 2 * _DAY  # seconds from which days are easier to grasp than hours


def size(nbytes: float) -> str:
    """Return bytes in decimal units: ``900 B``, ``1.1 GB``; at most 8 characters below 1,000 TB."""
    if round(nbytes) < _KILO:
        return f"{nbytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= _KILO
        if round(nbytes, 1) < _KILO:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / _KILO:.1f} TB"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: ``12.3 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if round(seconds, 1) < _MINUTE:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _LONG:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
