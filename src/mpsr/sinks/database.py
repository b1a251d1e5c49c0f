"""Keep the file of a database that a library opens by its name."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mpsr.sinks.protocol import Displaced
from mpsr.system import outputs, primitives

if TYPE_CHECKING:
    from collections.abc import Callable

_STALE: Final = ".stale"  # what the log of a database that is gone is renamed to
_AGAIN: Final = "a new one begins, and the messages that the journal still has are written again"


class DatabaseFile:
    """The file of a database, and those that its library creates next to it.

    Args:
        path: the file.
        besides: what the library appends to the path for each other file.
        mode: the permissions of new files.

    Attributes:
        path: the file, in full.

    Raises:
        ConfigurationError: there is something that no file can replace.

    """

    def __init__(self, path: str, besides: tuple[str, ...], mode: int) -> None:
        self.path: str = os.path.abspath(path)
        self._besides = [self.path + each for each in besides]
        self._mode = mode
        self._handle: int | None = None
        self.check()

    def check(self) -> None:
        """Raise ConfigurationError if another user may have put there what is there."""
        for each in (self.path, *self._besides):
            outputs.check(each)

    def claim(self, blank: Callable[[], bytes] | None = None) -> None:
        """Create the file, unless it is there; from now on know it again.

        Args:
            blank: makes the content of a new file; None leaves it empty.

        """
        if blank is not None and not os.path.exists(self.path):
            outputs.put(self.path, blank(), self._mode)
            new = True
        else:
            new = False
        self.release()
        self._handle, created = outputs.hold(self.path, self._mode)
        if new or created:
            for each in self._besides:  # of a database that is gone: no library may apply them
                with suppress(OSError):
                    os.rename(each, f"{each}{_STALE}")
        self.check()

    def prepare(self, beside: str) -> None:
        """Create a file next to it, before the library does so with other permissions."""
        primitives.close(outputs.hold(self.path + beside, self._mode)[0])

    def is_moved(self) -> bool:
        """Return whether the path leads elsewhere; raise Displaced if the file was removed."""
        handle = self._handle
        if handle is None or outputs.leads_to(self.path, handle):
            return False
        if not os.fstat(handle).st_nlink:
            raise Displaced(f"{self.path} was removed: {_AGAIN}")
        logging.getLogger("mpsr").warning("%s was moved away: a new one begins", self.path)
        return True

    def release(self) -> None:
        """Know the file no longer."""
        handle, self._handle = self._handle, None
        if handle is not None:
            primitives.close(handle)
