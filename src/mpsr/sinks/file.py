"""Append messages to a file: ``file:PATH``."""

from __future__ import annotations

import os
import stat
from time import time_ns
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from mpsr.errors import ConfigurationError
from mpsr.limits import MIB
from mpsr.sinks.mark import HEAD, Mark, MarkFile
from mpsr.sinks.options import choice, count, options, seconds, size
from mpsr.sinks.records import RECORDS
from mpsr.sinks.rotation import Rotation
from mpsr.store import files
from mpsr.system import primitives

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch

_SUFFIX: Final = ".position"  # of the file that says how far it is committed


def _size_or_time(text: str) -> tuple[int | None, float | None]:
    """Return bytes or seconds: ``100M`` or ``1d``."""
    try:
        return size(text), None
    except ConfigurationError:
        pass
    try:
        return None, seconds(text)
    except ConfigurationError:
        raise ConfigurationError("write a size (100M) or a time (1d, 12h)") from None


_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "format": choice(*RECORDS),
    "rotate": _size_or_time,
    "keep": count,
    "compress": choice("gzip"),
}


def sink(target: str) -> FileSink:
    """Return a sink of ``PATH?format=json&rotate=100M&keep=7&compress=gzip``."""
    path, given = options(target, _OPTIONS)
    if not path:
        raise ConfigurationError("say which file, as in file:events.jsonl")
    if "rotate" not in given and (unused := given.keys() & {"keep", "compress"}):
        raise ConfigurationError(f"{unused.pop()}= has no use without rotate=")
    most, age = given.get("rotate", (None, None))
    rotation = Rotation(path, most, age, given.get("keep"), compress="compress" in given)
    return FileSink(path, given.get("format", "json"), rotation)


class FileSink:
    """Appends records to a file, and keeps beside it how far that is committed.

    What a crash left behind the last commit is cut at ``open``, and comes again from the journal:
    so no record is torn, and with a journal each message is there exactly once.

    Attributes:
        output: the path of the file.

    """

    def __init__(self, path: str, form: str, rotation: Rotation) -> None:
        self._path = self.output = os.path.abspath(path)
        self._records = RECORDS[form]
        self._rotation = rotation
        self._journal = bytes(16)
        self._marks: MarkFile | None = None
        self._descriptor: int | None = None
        self._mark = Mark()
        self._pending: list[bytes] = []  # to be written in one go
        self._pending_size = 0
        self._written = 0  # bytes of the file, with what is not committed
        self._position = 0

    def open(self, journal: str) -> int | None:
        """Cut what was not committed; return the position up to which the file has everything."""
        self._journal = bytes.fromhex(journal) or bytes(16)
        self._marks = MarkFile(self._path + _SUFFIX)
        mark = self._marks.read()
        self._begin(mark)
        self._rotation.tidy()
        if mark is None or mark.journal != self._journal or not journal:
            return None
        self._position = mark.position
        return mark.position

    def write(self, batch: Batch[Any]) -> None:
        """Take a batch; write when that is worth a call."""
        if not self._pending and self._written == self._mark.size and self._mark.begun:
            age_ns = time_ns() - self._mark.begun
            if self._written and self._rotation.is_old(age_ns * 1e-9):
                self._rotate()
        self.append(self._records(batch), batch.position)

    def append(self, data: bytes, position: int | None) -> None:
        """Take records that reach up to a position; write when that is worth a call."""
        self._pending.append(data)
        self._pending_size += len(data)
        self._position = position or 0
        if self._pending_size >= MIB:
            self._flush()

    def commit(self) -> None:
        """Put what was written on the disk, and then how far it goes."""
        self._flush()
        files.sync(self._file)
        self._put_mark()
        if self._rotation.is_large(self._written):
            self._rotate()

    def reopen(self) -> None:
        """Begin a new file at the path, if the old one was moved away."""
        try:
            moved = not os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            moved = True
        if moved:
            self._close_file()
            self._begin(self._mark)

    def close(self) -> None:
        """Close the files."""
        self._close_file()
        if self._marks is not None:
            self._marks.close()
            self._marks = None

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _file(self) -> int:
        if self._descriptor is None:
            raise ConfigurationError("the sink is not open")
        return self._descriptor

    def _begin(self, mark: Mark | None) -> None:
        """Open the file, or make it; cut what is behind the mark, wherever it was moved to."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            error = f"{self._path} is no regular file: use exec: for a program, - for stdout"
            raise ConfigurationError(error)
        if mark is not None and mark.known_as(self._descriptor):
            if found.st_size > mark.size:
                os.ftruncate(self._descriptor, mark.size)
            self._mark = mark
        else:
            if mark is not None:
                self._rotation.cut(mark)
            self._mark = Mark(position=mark.position if mark is not None else 0)
        self._written = os.fstat(self._descriptor).st_size
        if mark is None or self._mark is not mark or found.st_size < mark.size:
            if mark is not None and mark.journal == self._journal:
                self._position = mark.position
            files.sync_directory(os.path.dirname(self._path))
            self._put_mark(mark.journal if mark is not None else None)

    def _put_mark(self, journal: bytes | None = None) -> None:
        found = os.fstat(self._file)
        known, crc = self._mark.head, self._mark.head_crc
        if known < HEAD:
            head = os.pread(self._file, HEAD, 0)
            known, crc = len(head), crc32(head)
        self._mark = Mark(
            self._journal if journal is None else journal,
            self._position if journal in (None, self._journal) else self._mark.position,
            self._written,
            found.st_dev,
            found.st_ino,
            self._mark.begun or (time_ns() if self._written else 0),
            known,
            crc,
        )
        if self._marks is not None:
            self._marks.write(self._mark)

    def _flush(self) -> None:
        data = memoryview(b"".join(self._pending))
        self._pending, self._pending_size = [], 0
        while data:
            done = os.write(self._file, data)
            self._written += done
            data = data[done:]

    def _rotate(self) -> None:
        """Move the file away, with all that is committed, and begin a new one."""
        if self._rotation.move():
            self._close_file()
            self._begin(self._mark)
            self._rotation.tidy()

    def _close_file(self) -> None:
        if self._descriptor is not None:
            primitives.close(self._descriptor)
            self._descriptor = None
