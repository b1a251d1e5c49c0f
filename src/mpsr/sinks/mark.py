"""Keep next to a file how far it is committed, so that a crash leaves no doubt.

``PATH.position`` holds two slots of 512 bytes, written in turns: the newer one that is intact
counts.

====== ===== ==============================================================
offset type  field (little-endian)
====== ===== ==============================================================
0      u32   CRC-32 of the fields that follow
4      u32   ``MPSQ``
8      u64   serial number: the higher one is newer
16     16 B  the journal's name; zeros without a journal
32     u64   position of the journal up to which the file has everything
40     u64   size of the file, in bytes
48     u64   position of the journal before the file's first record
56     u64   when its first record was written, in nanoseconds since 1970
64     u64   its inode, by which a file is found again after it was renamed
72     u32   how many bytes at its beginning are known, at most 256
76     u32   CRC-32 of these
80     u32   how many bytes before its committed end are known, at most 4,096
84     u32   CRC-32 of these
====== ===== ==============================================================

The older layout, ``MPSP``, is read too. It has the device at 48, the inode at 56 and the time at
64, and ends at 80: its position before the first record, and its end, are unknown.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final, NamedTuple
from zlib import crc32

from mpsr.errors import SinkError
from mpsr.store import files
from mpsr.system import outputs, primitives

_SLOT: Final = 512  # bytes: a disk writes them as a whole
_CRC: Final = struct.Struct("<I")
_FIELDS: Final = struct.Struct("<4sQ16sQQQQQIIII")
_OLD_FIELDS: Final = struct.Struct("<4sQ16sQQQQQII")
_MAGIC: Final = b"MPSQ"
_OLD_MAGIC: Final = b"MPSP"
_HEAD: Final = 256  # bytes at the beginning by which a file is recognised
_TAIL: Final = 4096  # bytes before the committed end by which it is recognised


class Mark(NamedTuple):
    """How far a file is committed."""

    journal: bytes = bytes(16)
    position: int = 0
    size: int = 0
    since: int = 0
    begun: int = 0
    inode: int = 0
    head: int = 0
    head_crc: int = 0
    tail: int = 0
    tail_crc: int = 0

    def of(self, file: int, size: int) -> Mark:
        """Return the mark with the content of a file that is committed up to ``size``."""
        head, tail = os.pread(file, min(_HEAD, size), 0), min(_TAIL, size)
        end = os.pread(file, tail, size - tail)
        return self._replace(
            size=size,
            inode=os.fstat(file).st_ino,
            head=len(head),
            head_crc=crc32(head),
            tail=tail,
            tail_crc=crc32(end),
        )

    def fits(self, file: int) -> bool:
        """Return whether a file is the one that was marked, by its content.

        Its device and inode do not tell: they change where a file system is mounted again, or
        copied, and inodes are reused. Only a file without content has nothing but these.
        """
        found = os.fstat(file)
        if not self.size:
            return found.st_ino == self.inode
        return (
            found.st_size >= self.size
            and crc32(os.pread(file, self.head, 0)) == self.head_crc
            and crc32(os.pread(file, self.tail, self.size - self.tail)) == self.tail_crc
        )


class MarkFile:
    """The file that holds the mark; locked, so that only one process writes what it marks.

    Raises:
        SinkError: another process has it.
        ConfigurationError: another user may have put there what is there.
        OSError: it cannot be opened.

    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._serial = 0
        while True:
            self._descriptor, _ = outputs.open_file(path)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                primitives.close(self._descriptor)
                error = f"another process has {path} open: end it, or use another"
                raise SinkError(error) from None
            if self.in_place:
                break
            primitives.close(self._descriptor)  # it was removed before it was locked

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to it."""
        return outputs.leads_to(self._path, self._descriptor)

    @property
    def removed(self) -> bool:
        """Whether no path leads to it."""
        return not os.fstat(self._descriptor).st_nlink

    def read(self) -> Mark | None:
        """Return the mark; None if there is none yet."""
        newest: Mark | None = None
        for slot in range(2):
            data = os.pread(self._descriptor, _CRC.size + _FIELDS.size, slot * _SLOT)
            serial, mark = _unpacked(data)
            if mark is not None and serial > self._serial:
                self._serial, newest = serial, mark
        return newest

    def write(self, mark: Mark) -> None:
        """Put the mark on the disk."""
        self._serial += 1
        fields = _FIELDS.pack(_MAGIC, self._serial, *mark)
        data = _CRC.pack(crc32(fields)) + fields
        os.pwrite(self._descriptor, data.ljust(_SLOT, b"\0"), self._serial % 2 * _SLOT)
        files.sync(self._descriptor)

    def close(self) -> None:
        """Close the file, and so unlock it."""
        primitives.close(self._descriptor)


def _unpacked(data: bytes) -> tuple[int, Mark | None]:
    """Return the serial number and the mark of a slot; None if it holds none."""
    old = data[_CRC.size :].startswith(_OLD_MAGIC)
    layout = _OLD_FIELDS if old else _FIELDS
    fields = data[_CRC.size :][: layout.size]
    if len(fields) < layout.size or _CRC.unpack_from(data)[0] != crc32(fields):
        return 0, None
    magic, serial, *values = layout.unpack(fields)
    if old:
        journal, position, size, _, inode, begun, head, head_crc = values
        return serial, Mark(journal, position, size, 0, begun, inode, head, head_crc)
    return serial, Mark(*values) if magic == _MAGIC else None
