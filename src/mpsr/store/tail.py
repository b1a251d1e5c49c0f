"""Write the newest segment of a log: make it, go on with it, append to it, end it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from mpsr.errors import Explanation, JournalError
from mpsr.limits import CURSOR_ROOM
from mpsr.store import files
from mpsr.store.records import (
    HEAD_SIZE,
    HEADER_SIZE,
    MAX_HEAD,
    Kind,
    Place,
    pack_header,
    pack_record,
)
from mpsr.store.recovery import SPARE, UNFINISHED
from mpsr.store.segments import name_of
from mpsr.system.descriptors import OpenFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from mpsr.store.records import Header
    from mpsr.store.recovery import Recovery

_BLOCK: Final = 4096  # bytes: a disk sets aside no less
_BLANK: Final = bytes(HEAD_SIZE)  # where the next record will be: a file may hold others still


class Tail:
    """The newest segment, open for appending.

    Attributes:
        first: the position of its first message.
        end: the offset behind its last record.
        size: bytes of the file: the disk has set them aside.
        records: how many it has; after it was opened again, at least.
        settled: whether what was written last holds no message.

    The methods raise OSError, and JournalError where a sync fails.

    """

    def __init__(self, directory: str, header: Header, file: int) -> None:
        self.first: int = header.first
        self.end: int = HEADER_SIZE
        self.records: int = 0
        self.settled = True
        self._directory = directory
        self.header = header
        self._path = os.path.join(directory, name_of(header.first))
        self._file = OpenFile(file)
        self._found = os.fstat(file)
        self.size: int = self._found.st_size

    @classmethod
    def create(
        cls, directory: str, header: Header, snapshot: bytes, size: int, *, spare: bool = False
    ) -> Self:
        """Make a segment; it is on the disk, whole, before it has its name.

        Its file may be one that was a segment before: to overwrite it costs the disk less.
        """
        path = os.path.join(directory, name_of(header.first))
        unfinished = os.path.join(directory, SPARE) if spare else path + UNFINISHED
        if spare:
            file = os.open(unfinished, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        else:
            file = files.create(unfinished)
        tail = cls(directory, header, file)
        try:
            tail.extend(max(size, least_size(snapshot)))
            files.write(tail._file.fileno(), [pack_header(header)], 0)
            tail.append([tail.record(Kind.SNAPSHOT, header.first, snapshot)])
            files.rename(unfinished, path)
            files.sync_directory(directory)
        except BaseException:
            tail.close()
            with suppress(OSError):
                files.remove(unfinished)
            raise
        return tail

    @classmethod
    def resume(cls, directory: str, recovery: Recovery) -> Self:
        """Open the newest segment, and have on the disk what was read of it.

        What is left of a torn write is made unreadable. What was written last is written again:
        after a sync that failed, the system may have it and the disk not.
        """
        path = os.path.join(directory, name_of(recovery.header.first))
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        tail = cls(directory, recovery.header, file)
        try:
            tail.end = recovery.end
            tail.records = recovery.records
            tail.settled = recovery.last_kind != Kind.BATCH
            group = os.pread(file, recovery.end - recovery.group, recovery.group)
            files.write(file, [group], recovery.group)
            for offset in recovery.torn:
                files.write(file, [_BLANK], offset)
            tail._sync()
        except BaseException:
            tail.close()
            raise
        return tail

    @property
    def in_place(self) -> bool:
        """Whether it is still what is at its path."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), self._found)
        return False

    def place(self, offset: int, position: int) -> Place:
        """Return the place of a record of the next write."""
        return Place(*self.header, offset, self.end, position)

    def record(self, kind: Kind, position: int, payload: bytes = b"") -> bytes:
        """Return a record that holds no message, to be written by itself."""
        return pack_record(kind, self.place(self.end, position), payload)

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write records behind the last, and sync them."""
        end = files.write(self._file.fileno(), [*buffers, _BLANK], self.end)
        self._sync()
        self.end = end - len(_BLANK)
        self.records += 1

    def extend(self, size: int) -> None:
        """Have the disk set aside room for the file to be of this size."""
        size = in_blocks(size)
        if size > self.size:
            files.allocate(self._file.fileno(), size)
            self._sync()  # or it would seem cut short, if the power went
            self.size = size

    def seal(self, position: int) -> None:
        """Say that another segment follows, and give back the room that was not used."""
        self.append([self.record(Kind.SEAL, position)])
        self.cut(0)

    def cut(self, room: int = CURSOR_ROOM) -> None:
        """Give back the room that was set aside, but for some of it."""
        size = self.end + room
        if size < self.size:
            files.truncate(self._file.fileno(), size)
            self.size = size

    def close(self) -> None:
        """Part with the file."""
        self._file.close()

    def _sync(self) -> None:
        """Sync; if it fails, the system may believe to be on the disk what is not."""
        try:
            files.sync(self._file.fileno())
        except OSError as exc:
            why = f"{exc.strerror or exc}; nothing more is written"
            advice = "check the disk and its file system, then open the journal again"
            error = Explanation(f"cannot sync {self._directory}", why, advice)
            raise JournalError(error, path=self._directory) from exc


def least_size(snapshot: bytes) -> int:
    """Return the bytes that a segment takes at least, with room for cursors to be kept."""
    return HEADER_SIZE + MAX_HEAD + len(snapshot) + CURSOR_ROOM


def in_blocks(size: int) -> int:
    """Return the bytes that a file of this size takes on a disk."""
    return -(-size // _BLOCK) * _BLOCK
