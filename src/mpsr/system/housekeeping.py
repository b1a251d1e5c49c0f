"""Report clean-up work that fails, and continue: nothing depends on it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mpsr.errors import MpsrError
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMINDER: Final = 3600.0  # seconds until the same failure is reported again
_MOST: Final = 1024  # failures that are remembered

_reported: dict[tuple[str, str], float] = {}


@contextmanager
def attempted(what: str) -> Iterator[None]:
    """Log an error of the block as a warning, once an hour, and continue after the block.

    An error is an OSError, or an MpsrError if a name does not lead to a file of this process.

    Args:
        what: the work, as in ``remove old.log``.

    """
    try:
        yield
    except (OSError, MpsrError) as exc:
        why = getattr(exc, "strerror", None) or str(exc)
        now = monotonic()
        at = _reported.get((what, why))
        if at is not None and now < at + _REMINDER:
            return
        while len(_reported) >= _MOST:
            _reported.pop(next(iter(_reported)), None)
        _reported[what, why] = now
        import logging  # noqa: PLC0415 - slow to import, and hardly ever needed

        logging.getLogger("mpsr").warning("cannot %s: %s; it is tried again later", what, why)
