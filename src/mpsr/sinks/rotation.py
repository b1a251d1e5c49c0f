"""Move a file away when it is large or old, compress it, and remove the oldest."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mpsr.limits import MIB
from mpsr.system import outputs, primitives
from mpsr.system.housekeeping import attempted

if TYPE_CHECKING:
    from mpsr.sinks.mark import Mark

_STAMP: Final = re.compile(r"\.[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")


class Rotation:
    """When a file is moved away, and what becomes of those that were.

    Args:
        path: the file; one that was moved away is called ``PATH.20260301T120000.000000Z``, by when.
        nbytes: how large it becomes, at most by one commit more; None: without limit.
        seconds: how old it becomes, from its first record on; None: without limit.
        keep: how many that were moved away are kept; None: all.
        compress: whether these are compressed with gzip.

    """

    def __init__(
        self,
        path: str,
        nbytes: int | None,
        seconds: float | None,
        keep: int | None,
        *,
        compress: bool,
    ) -> None:
        self._path = os.path.abspath(path)
        self._nbytes = nbytes
        self._seconds = seconds
        self._keep = keep
        self._compress = compress

    def is_large(self, nbytes: int) -> bool:
        """Tell whether a file of this size is to be moved away."""
        return self._nbytes is not None and nbytes >= self._nbytes

    def is_old(self, seconds: float) -> bool:
        """Tell whether a file of this age is to be moved away."""
        return self._seconds is not None and seconds >= self._seconds

    def move(self) -> str | None:
        """Move the file away; return where it is now, or None if the system refuses it."""
        while True:
            now = datetime.now(UTC)  # to the microsecond, so that names sort as they were made
            to = f"{self._path}.{now:%Y%m%dT%H%M%S.%f}Z"
            if not any(os.path.lexists(to + end) for end in ("", *_COMPRESSED)):
                break
        with attempted(f"move {self._path} away"):
            os.rename(self._path, to)
            return to
        return None

    def tidy(self) -> None:
        """Compress and remove files that were moved away, as configured."""
        if self._nbytes is None and self._seconds is None:
            return
        moved = self._moved()
        while self._keep is not None and len(moved) > self._keep:
            path = moved.pop(0)
            with attempted(f"remove {path}"), suppress(FileNotFoundError):
                os.unlink(path)
        if self._compress:
            for path in moved:
                if not path.endswith(_COMPRESSED):
                    with attempted(f"compress {path}"):
                        _compress(path)

    def cut(self, mark: Mark) -> bool:
        """Cut what was not committed of the marked file, where it was moved to; if it was."""
        directory, name = os.path.split(self._path)
        with os.scandir(directory) as entries:
            found = [
                entry.path
                for entry in entries
                if entry.name.startswith(name)
                and entry.inode() == mark.inode
                and not entry.name.endswith(_COMPRESSED)
            ]
        for path in found:
            descriptor = outputs.open_existing(path)
            try:
                if mark.fits(descriptor):
                    os.ftruncate(descriptor, mark.size)
                    return True
            finally:
                primitives.close(descriptor)
        return False

    def _moved(self) -> list[str]:
        """Return what was moved away, the oldest first."""
        directory, name = os.path.split(self._path)
        moved = []
        for each in os.listdir(directory):
            rest = each.removeprefix(name)
            if rest != each and _STAMP.fullmatch(rest.removesuffix(".gz")):
                moved.append(os.path.join(directory, each))
        return sorted(moved, key=lambda path: path.removesuffix(".gz"))


def _compress(path: str) -> None:
    """Put a compressed file in the place of one; complete, or not at all."""
    unfinished = f"{path}.unfinished"
    with suppress(FileNotFoundError):  # of a process that was killed
        os.unlink(unfinished)
    with os.fdopen(outputs.open_existing(path, os.O_RDONLY), "rb") as source:
        mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
        with os.fdopen(outputs.create(unfinished, mode), "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=6) as target:
                shutil.copyfileobj(source, target, MIB)
            raw.flush()
            os.fsync(raw.fileno())
    os.rename(unfinished, f"{path}.gz")
    os.unlink(path)
