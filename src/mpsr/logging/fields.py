"""Name the attributes of a log record, and the fields that stand for them in a message."""

from __future__ import annotations

import logging
from typing import Final

from mpsr.errors import ConfigurationError

STANDARD: Final = frozenset(
    {
        *logging.makeLogRecord({}).__dict__,
        "taskName",  # since 3.12
        "message",  # these two a formatter adds
        "asctime",
    }
)
"""The attributes that any record has; all others are its ``extra``."""

RECEIVED: Final = "mpsr_received"
"""The attribute that marks a record as received."""

RESERVED: Final = STANDARD | frozenset(dir(logging.LogRecord)) | {RECEIVED, "peer", "producer"}
"""The attributes that no sender may set as an ``extra``."""


def level_number(level: int | str) -> int:
    """Return the number of a level, by its name or number.

    Raises:
        ConfigurationError: there is none of this name.

    """
    known = logging.getLevelNamesMapping()
    if isinstance(level, str):
        number = int(level) if level.isdecimal() else known.get(level.upper())
    else:
        number = level
    if number is None:
        error = f"level={level!r}: choose one of {', '.join(known)}, or a number"
        raise ConfigurationError(error)
    return number
