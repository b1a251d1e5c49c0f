"""Keep a directory of files, each of which appears whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

from mpsr.errors import ConfigurationError, Explanation, MessageRejected
from mpsr.limits import SINK_FILE_IDLE, SINK_FILE_SIZE, SINK_FILE_TIME, SINK_ROWS_SIZE
from mpsr.sinks.mark import Mark, MarkFile
from mpsr.sinks.options import choice, mode, options, seconds, size, unnamed
from mpsr.sinks.protocol import Displaced, Grouping
from mpsr.store import files
from mpsr.system import outputs
from mpsr.system.housekeeping import attempted

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    import pyarrow as pa

    from mpsr.batch import Batch
    from mpsr.sinks.columns import Columns

_LONGEST: Final = 2**31 - 2  # bytes: Arrow counts those of an array of type binary in 32 bits
_MARK: Final = ".position"  # the file that says how far all is committed
_BEGUN: Final = ".tmp"  # the ending of a file that is not whole
_PARTITIONS: Final = {"hour": "date=%Y-%m-%d/hour=%H", "day": "date=%Y-%m-%d", "none": ""}


class Writer(Protocol):
    """Writes one file."""

    def write_table(self, table: pa.Table) -> None:
        """Write a table."""

    def close(self) -> None:
        """Write what the file ends with."""


class DatasetSink:
    """Writes batches as tables, to files that are named for the positions which they hold.

    A file is written beside its place, synced, and then renamed. The newest one says up to where
    the directory has everything; ``.position`` says it where files were moved away.

    Args:
        target: ``DIR?size=128M&every=1m&partition=hour&mode=600``, and what ``more`` takes.
        ending: of the files.
        writer: makes what writes a file, of the open file and the options.
        more: options of its own.

    Attributes:
        output: the path of the directory.

    """

    def __init__(
        self,
        target: str,
        ending: str,
        writer: Callable[[BinaryIO, dict[str, Any]], Writer],
        more: dict[str, Callable[[str], Any]],
    ) -> None:
        self._columns = _columns()
        known = {"size": size, "every": seconds, "partition": choice(*_PARTITIONS)}
        known |= {"mode": mode, **more}
        path, self._options = options(target, known)
        if not path:
            raise unnamed("directory", "parquet:events")
        every = self._options.pop("every", SINK_FILE_TIME)
        self.grouping: Grouping = Grouping(
            self._options.pop("size", SINK_FILE_SIZE), every, min(every, SINK_FILE_IDLE)
        )
        self._partition = _PARTITIONS[self._options.pop("partition", "hour")]
        self._mode = self._options.pop("mode", outputs.PRIVATE)
        self.output: str = os.path.abspath(path)
        outputs.check_directory(self.output)
        outputs.check(os.path.join(self.output, _MARK))
        self._ending = ending
        self._make_writer = writer
        self._marks: MarkFile | None = None
        self._journal = ""
        self._folder = ""  # of the file that is being written, or is to be
        self._writer: Writer | None = None
        self._file: BinaryIO | None = None  # that it writes to
        self._begun = ""  # its path
        self._first: int | None = None  # the first position in it
        self._last: int | None = None  # of all that was written
        self._committed: int | None = None

    def open(self, journal: str) -> int | None:
        """Remove files that a crash left unfinished; return the position that the newest has.

        A directory without a position lacks everything: it is new, or replaces a removed one.
        """
        self._journal = journal
        outputs.make_directories(self.output, self._mode)
        self._marks = MarkFile(os.path.join(self.output, _MARK))
        found = self._found()
        mark = self._marks.read()
        if mark is not None and journal and mark.journal.hex() == journal:
            found.append(mark.position)
        return max(found, default=0) if journal else None

    def _found(self) -> list[int]:
        """Remove what is unfinished; return the last positions of the files of this journal."""
        ours = re.compile(rf"{self._journal or '-'}-\d+-(\d+)\.{self._ending}")
        found: list[int] = []
        for folder, _, names in os.walk(self.output):
            for name in names:
                if name.startswith(".") and name.endswith(f".{self._ending}{_BEGUN}"):
                    path = os.path.join(folder, name)
                    with attempted(f"remove {path}"):
                        os.unlink(path)
                elif match := ours.fullmatch(name):
                    found.append(int(match[1]))
        return found

    def write(self, batch: Batch[Any]) -> None:
        """Take a batch; write a table once it is large, and end a file where its hour ends."""
        if batch.nbytes > _LONGEST:
            _check(batch)
        time = batch.received_at or time_ns()
        folder = datetime.fromtimestamp(time // 10**9, UTC).strftime(self._partition)
        if folder != self._folder:
            self._end_file()
            self._folder = folder
        if self._first is None and batch.position is not None:
            self._first = batch.position - (len(batch) or 1) + 1
        self._columns.add(batch, time // 1000)
        self._last = batch.position
        if self._columns.nbytes >= SINK_ROWS_SIZE:
            self._write_table()

    def commit(self) -> None:
        """Give the file its name, which says up to which position it reaches."""
        self._end_file()
        self._put_mark()
        self._committed = self._last

    def _put_mark(self) -> None:
        if self._last is not None and self._marks is not None:
            self._marks.write(Mark(bytes.fromhex(self._journal), self._last))

    def _check_in_place(self) -> None:
        """Raise Displaced if the directory was moved or removed."""
        marks = self._marks
        if marks is None or marks.in_place:
            return
        if marks.removed:
            text = "removed: a new one begins, and what the journal still has is written again"
            raise Displaced(f"{self.output} was {text}")
        outputs.make_directories(self.output, self._mode)
        marks.close()
        self._marks = MarkFile(os.path.join(self.output, _MARK))
        self._last = self._committed
        self._put_mark()
        raise Displaced(f"{self.output} was moved away: a new one begins")

    def close(self) -> None:
        """Drop what was not committed, and let others have the directory."""
        self._columns.clear()
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):  # it is of no use any more
                writer.close()
            with suppress(OSError):
                if self._file is not None:
                    self._file.close()
            with suppress(OSError):
                os.unlink(self._begun)
        if self._marks is not None:
            self._marks.close()
            self._marks = None

    def _write_table(self) -> None:
        if self._writer is None:
            folder = os.path.join(self.output, self._folder)
            outputs.make_directories(folder, self._mode)
            name = f".{self._journal or os.getpid()}-{time_ns()}.{self._ending}{_BEGUN}"
            self._begun = os.path.join(folder, name)
            self._file = os.fdopen(outputs.create(self._begun, self._mode), "wb")
            self._writer = self._make_writer(self._file, self._options)
        self._writer.write_table(self._columns.table())
        self._columns.clear()

    def _end_file(self) -> None:
        self._check_in_place()
        if len(self._columns):
            self._write_table()
        if self._writer is None or self._file is None:
            return
        self._writer.close()
        with self._file as file:
            file.flush()
            files.sync(file.fileno())
        folder = os.path.dirname(self._begun)
        os.rename(self._begun, os.path.join(folder, self._name()))
        self._writer = self._first = None
        while len(folder) >= len(self.output):  # also the folders that it was made with
            files.sync_directory(folder)
            folder = os.path.dirname(folder)

    def _name(self) -> str:
        if self._first is None:
            return f"{time_ns()}-{os.getpid()}.{self._ending}"
        return f"{self._journal}-{self._first:020}-{self._last:020}.{self._ending}"


def _check(batch: Batch[Any]) -> None:
    """Raise MessageRejected for messages that no array of the column holds."""
    why = f"a column of this file holds messages of at most {_LONGEST} bytes"
    reasons = {index: why for index, body in enumerate(batch.raw) if len(body) > _LONGEST}
    if reasons:
        raise MessageRejected(reasons)


def _columns() -> Columns:
    try:
        from mpsr.sinks.columns import Columns  # noqa: PLC0415 - an extra
    except ImportError as exc:
        what, advice = "it requires the package pyarrow", "pip install 'mpsr[arrow]'"
        raise ConfigurationError(Explanation(what, advice=advice)) from exc
    return Columns()
