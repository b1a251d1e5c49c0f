"""Keep a descriptor of a file that is to be passed to another process."""

from __future__ import annotations

import os
from typing import Protocol

from mpsr.system import primitives
from mpsr.system.closing import close_apart
from mpsr.system.descriptors import Foreign


class HasFileno(Protocol):
    """An open file, or anything else with a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


File = int | str | bytes | os.PathLike[str] | os.PathLike[bytes] | HasFileno
"""An open descriptor, what has one, or the path of a file that is then opened."""


class KeptFile:
    """A descriptor of our own, which is closed when nobody needs it any more.

    So whoever writes it, in whatever thread, has it open.
    """

    __slots__ = ("_identity", "_pid", "descriptor")

    def __init__(self, descriptor: int) -> None:
        """Take an open descriptor, which is ours from now on."""
        self.descriptor: int = descriptor
        self._identity = Foreign(descriptor)
        self._pid = os.getpid()

    def holds(self) -> bool:
        """Tell whether the descriptor is still the file: the program may have closed it."""
        return self.descriptor >= 0 and self._identity.holds()

    def close(self) -> None:
        """Close the descriptor, in a thread that may sleep."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0 or not self._identity.holds():
            return
        self._identity.forget()
        if self._pid == os.getpid():
            close_apart([descriptor])
        else:  # a forked child's copy, of a file that the parent has open
            primitives.close(descriptor)

    def __del__(self) -> None:
        self.close()


def keep(file: File) -> KeptFile:
    """Open a path for reading, or duplicate a descriptor; it is not inherited by programs.

    Raises OSError as the system does.
    """
    if isinstance(file, str | bytes | os.PathLike):
        return KeptFile(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY))
    return KeptFile(os.dup(file if isinstance(file, int) else file.fileno()))
