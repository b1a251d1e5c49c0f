"""Append messages to a file: ``file:PATH``."""

from __future__ import annotations

import logging
import os
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError, Explanation, SinkError
from mpsr.limits import MIB
from mpsr.sinks.mark import Mark, MarkFile
from mpsr.sinks.options import choice, count, mode, options, seconds, size, unnamed
from mpsr.sinks.protocol import Displaced
from mpsr.sinks.records import RECORDS
from mpsr.sinks.rotation import Rotation
from mpsr.store import files
from mpsr.system import outputs, primitives

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch

_SUFFIX: Final = ".position"  # of the file that says how far it is committed
_FLAGS: Final = os.O_RDWR | os.O_APPEND
_LINES: Final = {"json", "lines"}  # formats whose records end with a newline


def _size_or_time(text: str) -> tuple[int | None, float | None]:
    """Return bytes or seconds: ``100M`` or ``1d``."""
    try:
        return size(text), None
    except ConfigurationError:
        pass
    try:
        return None, seconds(text)
    except ConfigurationError:
        why, advice = "it is neither a size nor a time", "write it like 100M, 1d or 12h"
        raise ConfigurationError(Explanation(why, advice=advice)) from None


_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "format": choice(*RECORDS),
    "mode": mode,
    "rotate": _size_or_time,
    "keep": count,
    "compress": choice("gzip"),
}


def sink(target: str) -> FileSink:
    """Return a sink of ``PATH?format=json&rotate=100M&keep=7&compress=gzip``."""
    path, given = options(target, _OPTIONS)
    if not path:
        raise unnamed("file", "file:events.jsonl")
    if "rotate" not in given and (unused := given.keys() & {"keep", "compress"}):
        error = Explanation(f"{unused.pop()}= requires rotate=", advice="add rotate=100M")
        raise ConfigurationError(error)
    most, age = given.get("rotate", (None, None))
    permissions = given.get("mode", outputs.PRIVATE)
    rotation = Rotation(path, most, age, given.get("keep"), compress="compress" in given)
    return FileSink(path, given.get("format", "json"), rotation, permissions)


class FileSink:
    """Appends records to a file, and keeps next to it how far that is committed.

    At ``open``, the sink cuts the file after the last commit, and gets from the journal what was
    there. So no record is torn, and with a journal each message is in the file exactly once.

    At every commit it checks that the path leads to the file. A file that was moved keeps its
    messages, and a new one begins after them. A file that was removed has lost them: the new one
    begins at the position where the removed one began.

    Attributes:
        output: the path of the file.

    """

    def __init__(self, path: str, form: str, rotation: Rotation, mode: int) -> None:
        self.output: str = os.path.abspath(path)
        for each in (self.output, self.output + _SUFFIX):
            outputs.check(each)
        self._records = RECORDS[form]
        self._in_lines = form in _LINES
        self._rotation = rotation
        self._mode = mode
        self._journal = bytes(16)
        self._marks: MarkFile | None = None
        self._descriptor: int | None = None
        self._mark = Mark()
        self._pending: list[bytes] = []  # to be written in one go
        self._pending_size = 0
        self._written = 0  # bytes of the file, committed or not
        self._position = 0

    def open(self, journal: str) -> int | None:
        """Cut what was not committed; return the position up to which the file has everything."""
        self._journal = bytes.fromhex(journal) or bytes(16)
        new = self._open_file()
        self._marks = MarkFile(self.output + _SUFFIX)
        mark = self._marks.read()
        self._begin(mark)
        self._rotation.tidy()
        if not journal:
            return None
        if mark is None and new:
            return 0
        if mark is None or mark.journal != self._journal:
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
        self._check_removed()
        self._put_mark()
        if self._is_moved():
            _warn(f"{self.output} was moved away: a new file begins")
            self._begin_after_move()
        if self._rotation.is_large(self._written):
            self._rotate()

    def reopen(self) -> None:
        """Begin a new file at the path, if the old one was moved away."""
        self._check_removed()
        if self._is_moved():
            self._begin_after_move()

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

    def _open_file(self) -> bool:
        """Open the file, or create it; return whether it is new."""
        self._close_file()
        self._descriptor, new = outputs.open_file(self.output, _FLAGS, self._mode)
        if new:
            files.sync_directory(os.path.dirname(self.output))
        return new

    def _begin(self, mark: Mark | None) -> None:
        """Go on in the file; cut what is not committed, wherever the marked file was moved to."""
        self._open_file()
        size = os.fstat(self._file).st_size
        if mark is not None and mark.fits(self._file):
            if size > mark.size:
                os.ftruncate(self._file, mark.size)
            self._mark, self._written = mark, mark.size
            return
        if mark is not None and mark.size and not self._rotation.cut(mark):
            self._warn_of_another(mark, size)
        self._begin_another(mark)

    def _begin_after_move(self) -> None:
        self._open_file()
        self._begin_another(self._mark)

    def _begin_another(self, mark: Mark | None) -> None:
        """Go on at the end of a file that is not the marked one."""
        if os.fstat(self._file).st_size and not self._ends_with_a_record(marked=mark is not None):
            moved_to = self._rotation.move()
            if moved_to is None:
                error = "it ends in the middle of a record, and cannot be moved away"
                raise SinkError(f"{self.output}: {error}: move it, or make it writable")
            _warn(f"{self.output} ended in the middle of a record: it was moved to {moved_to}")
            self._open_file()
        self._written = os.fstat(self._file).st_size
        known = mark or Mark()
        same = known.journal == self._journal
        since = known.position if same else 0
        self._mark = Mark(known.journal, known.position, since=since)
        if same:
            self._position = known.position
        self._mark_as(self._mark)

    def _ends_with_a_record(self, *, marked: bool) -> bool:
        """Return whether a file that is not empty can be continued.

        Without newlines, only a file that was never marked is: the user has chosen it.
        """
        if not self._in_lines:
            return not marked
        return os.pread(self._file, 1, os.fstat(self._file).st_size - 1) == b"\n"

    def _warn_of_another(self, mark: Mark, size: int) -> None:
        what = "it was removed or moved away" if not size else "it is another file now"
        if os.fstat(self._file).st_ino == mark.inode and size < mark.size:
            what = f"it was cut from {mark.size} bytes to {size}"
        lacking = "the messages"
        if any(mark.journal):
            lacking = f"the messages from position {mark.since + 1} to {mark.position}"
        _warn(f"{self.output} lacks {lacking} that were written to it: {what}")

    def _check_removed(self) -> None:
        """Raise Displaced if the file has no name any more, or was cut by another process."""
        found = os.fstat(self._file)
        if found.st_size < self._written:
            raise Displaced
        self._written = found.st_size  # with what another process has appended
        if found.st_nlink or outputs.leads_to(self.output, self._file):
            return
        try:
            replaced = bool(os.stat(self.output).st_size)
        except FileNotFoundError:
            replaced = False
        if replaced:  # then open() reports what the other file lacks
            raise Displaced
        position = self._mark.since
        if self._marks is not None:
            self._marks.write(Mark(self._mark.journal, position, since=position))
        if any(self._journal):
            lost = "the messages in it that the journal still has are written again"
        else:
            lost = "the messages in it are lost"
        raise Displaced(f"{self.output} was removed: a new file begins, and {lost}")

    def _is_moved(self) -> bool:
        return not outputs.leads_to(self.output, self._file)

    def _put_mark(self) -> None:
        """Mark as committed what was written."""
        since = self._mark.since if self._mark.journal == self._journal else 0
        self._mark_as(Mark(self._journal, self._position, since=since, begun=self._mark.begun))

    def _mark_as(self, mark: Mark) -> None:
        begun = mark.begun or (time_ns() if self._written else 0)
        self._mark = mark._replace(begun=begun).of(self._file, self._written)
        if self._marks is not None:
            self._marks.write(self._mark)

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_size = [], 0
        if os.fstat(self._file).st_size < self._written:
            raise Displaced
        outputs.write(self._file, data)
        self._written += len(data)
        if os.fstat(self._file).st_size == len(data) < self._written:
            os.ftruncate(self._file, 0)  # it was emptied meanwhile: these are written again
            raise Displaced

    def _rotate(self) -> None:
        """Move the file away, with all that is committed, and begin a new one."""
        if self._rotation.move() is not None:
            self._begin_after_move()
            self._rotation.tidy()

    def _close_file(self) -> None:
        if self._descriptor is not None:
            primitives.close(self._descriptor)
            self._descriptor = None


def _warn(text: str) -> None:
    logging.getLogger("mpsr").warning("%s", text)
