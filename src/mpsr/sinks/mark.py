"""Keep beside a file how far it is committed, so that a crash leaves no doubt.

``PATH.position`` holds two slots of 512 bytes, written in turns: the newer one that is whole
counts.

====== ===== ==============================================================
offset type  field (little-endian)
====== ===== ==============================================================
0      u32   CRC-32 of what follows, up to offset 80
4      u32   ``MPSP``
8      u64   serial number: the higher one is newer
16     16 B  the journal's name; zeros without a journal
32     u64   position of the journal up to which the file has everything
40     u64   size of the file, in bytes
48     u64   its device
56     u64   its inode
64     u64   when its first record was written, in nanoseconds since 1970
72     u32   how many bytes at its beginning are known, 256 at most
76     u32   CRC-32 of these
====== ===== ==============================================================
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final, NamedTuple
from zlib import crc32

from mpsr.errors import SinkError
from mpsr.store import files
from mpsr.system import primitives

_SLOT: Final = 512  # bytes: a disk writes as much whole
_FIELDS: Final = struct.Struct("<IQ16sQQQQQII")
_CRC: Final = struct.Struct("<I")
_MAGIC: Final = int.from_bytes(b"MPSP", "little")
HEAD: Final = 256  # bytes by which a file is known again, beside its inode


class Mark(NamedTuple):
    """How far a file is committed."""

    journal: bytes = bytes(16)
    position: int = 0
    size: int = 0
    device: int = 0
    inode: int = 0
    begun: int = 0
    head: int = 0
    head_crc: int = 0

    def known_as(self, descriptor: int) -> bool:
        """Tell whether the file is the one that was marked."""
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != (self.device, self.inode):
            return False
        return crc32(os.pread(descriptor, self.head, 0)) == self.head_crc


class MarkFile:
    """The file that holds the mark; locked, so that one process alone writes what it marks.

    Raises:
        SinkError: another process has it.
        OSError: it cannot be opened.

    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._serial = 0
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            primitives.close(self._descriptor)
            raise SinkError(f"another process has {path} open: end it, or use another") from None

    def read(self) -> Mark | None:
        """Return the mark; None if there is none yet."""
        newest: Mark | None = None
        for slot in range(2):
            data = os.pread(self._descriptor, _CRC.size + _FIELDS.size, slot * _SLOT)
            if len(data) < _CRC.size + _FIELDS.size:
                continue
            if _CRC.unpack_from(data)[0] != crc32(data[_CRC.size :]):
                continue
            magic, serial, *fields = _FIELDS.unpack_from(data, _CRC.size)
            if magic == _MAGIC and serial > self._serial:
                self._serial, newest = serial, Mark(*fields)
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
