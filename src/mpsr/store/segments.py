"""Read one segment: its header, and its records, also where some of them are damaged."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from zlib import crc32

from mpsr.limits import MIB
from mpsr.store.records import (
    HEAD_SIZE,
    HEADER_SIZE,
    MARKER,
    MAX_HEAD,
    VERSION,
    unpack_head,
    unpack_header,
)
from mpsr.system.descriptors import OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.store.records import Head, Header

_NAME: Final = re.compile(r"(\d{20})\.mpsr", re.ASCII)
_CHUNK: Final = 2 * MIB  # bytes read at once: several batches


class Found(NamedTuple):
    """A record that was read."""

    head: Head
    payload: memoryview | None
    """None if it is not what was written."""


def name_of(first: int) -> str:
    """Return the file name of the segment whose first message has this position."""
    return f"{first:020}.mpsr"


def list_segments(directory: str) -> list[int]:
    """Return the first positions of the segments that are there, in order."""
    names = map(_NAME.fullmatch, os.listdir(directory))
    return sorted(int(match[1]) for match in names if match)


class Segment:
    """A segment, open for reading; another process may append to it meanwhile.

    Attributes:
        named: the position of its first message, as its file name has it.
        first: the same, as its header has it.
        header: None if it is damaged.
        version: of its format.

    Raises OSError.

    """

    def __init__(self, directory: str, named: int) -> None:
        self.path: str = os.path.join(directory, name_of(named))
        self.named: int = named
        self.first: int = named
        self.header: Header | None = None
        self.version: int = VERSION
        self._file = OpenFile(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        self._base = 0  # the offset of what was read
        self._data = b""
        self._fresh = False  # whether it was read just now
        self._ended: int | None = None  # an offset behind which nothing counted
        try:
            found = unpack_header(os.pread(self._file.fileno(), HEADER_SIZE, 0))
        except BaseException:
            self.close()
            raise
        if found is not None:
            self.header, self.version = found
            self.first = self.header.first

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def replaced(self) -> bool:
        """Whether another file is at its path now, or none, or the program has closed this one."""
        if not self._file.holds():
            return True
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(found, os.fstat(self._file.fileno()))

    def walk(self, offset: int = HEADER_SIZE, *, newest: bool = False) -> Iterator[Found]:
        """Give the records from an offset on; where there is none, it goes on at the next.

        At the end of the newest segment, a torn write may have left some of its records: they do
        not count. What is damaged before a record of a later write is no torn write.
        """
        while True:
            found = self.at(offset)
            whole = found is not None and found.payload is not None
            if newest and not whole:
                if not self._has_later(offset):
                    return
                found = self.at(offset)  # it may have been written meanwhile
            found = found or self._search(offset + 1)
            if found is None:
                return
            yield found
            offset = found.head.end

    def heads(self, offset: int) -> Iterator[Head]:
        """Give the heads of the records from an offset on, wherever they are."""
        found = self._search(offset)
        while found is not None:
            yield found.head
            found = self._search(found.head.end)

    def at(self, offset: int) -> Found | None:
        """Return the record at an offset; None if there is no whole head."""
        self._fresh = False
        found = self._found(offset)
        if (found is None or found.payload is None) and not self._fresh:  # written since
            self._read(offset, _CHUNK)
            found = self._found(offset)
        return found

    def _found(self, offset: int) -> Found | None:
        self._hold(offset, offset + MAX_HEAD)
        head = unpack_head(self._data, offset - self._base)
        if head is None or head.place.offset != offset:
            return None
        header = self.header
        if head.place.segment != self.first or (header and head.place[:2] != header[:2]):
            return None  # of another segment, which had the file before
        begin = offset + head.size
        self._hold(begin, head.end)
        payload = memoryview(self._data)[begin - self._base : head.end - self._base]
        whole = payload.nbytes == head.length and crc32(payload) == head.checksum
        return Found(head, payload if whole else None)

    def _has_later(self, offset: int) -> bool:
        """Tell whether a record of a write that began behind the offset is there.

        Where there was none, its owner has written all before whatever is found later: zeros are
        then still the end.
        """
        if self._ended is not None and offset >= self._ended and self.is_blank(offset):
            return False
        later = any(head.place.group > offset for head in self.heads(offset))
        self._ended = None if later else offset
        return later

    def is_blank(self, offset: int) -> bool:
        """Tell whether there are zeros, which stand behind the last record."""
        self._hold(offset, offset + HEAD_SIZE)
        return not any(self._data[offset - self._base :][:HEAD_SIZE])

    def _search(self, offset: int) -> Found | None:
        """Return the next record that begins at an offset or behind it."""
        while True:
            self._hold(offset, offset + MAX_HEAD)
            at = self._data.find(MARKER, offset - self._base)
            if at >= 0:
                offset = self._base + at
                found = self.at(offset)
                if found is not None:
                    return found
                offset += 1
                continue
            offset = max(offset + 1, self._base + len(self._data) - len(MARKER) + 1)
            if offset >= self.size:
                return None

    def _hold(self, begin: int, end: int) -> None:
        """Have what the file holds between two offsets in memory, or as much as there is."""
        if not self._base <= begin <= end <= self._base + len(self._data):
            self._read(begin, max(_CHUNK, end - begin))

    def _read(self, begin: int, size: int) -> None:
        self._base = begin
        self._data = os.pread(self._file.fileno(), size, begin)
        self._fresh = True

    def close(self) -> None:
        """Part with the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
