"""Read the pages of an SQLite file and of its write-ahead log, without SQLite.

SQLite refuses a damaged file, or all that is behind the damage; here a page that cannot be read
costs no more than what is in it. The formats: https://sqlite.org/fileformat2.html
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    Value = int | bytes | None

PAGE: Final = 32 * KIB  # bytes: 4 KiB pages halve the rate of large batches; measured
FRAME_HEAD: Final = 24  # bytes before each page in the write-ahead log

_LOG_HEAD: Final = struct.Struct(">6I8x")  # magic, version, page size, generation, two salts
_LOG_SALT: Final = slice(16, 24)
_LOG_SUMMED: Final = 24  # bytes: its checksums, too, are over so many
_FRAME: Final = struct.Struct(">II8s8x")  # page, the file's size if it ends a commit, salts
_FRAME_SUMMED: Final = 8  # bytes
_SUMS: Final = struct.Struct(">II")
_SALT: Final = struct.Struct(">II")  # the first is one more whenever the log begins anew
_LOG_MAGIC: Final = 0x377F_0682  # the last bit tells the byte order of its checksums
_LOG_VERSION: Final = 3_007_000
_U32: Final = 0xFFFF_FFFF

_LEAVES: Final = frozenset({0x0A, 0x0D})  # of an index and of a table
_INTERIORS: Final = frozenset({0x02, 0x05})
_LEAF_HEAD: Final = 8  # bytes
_INTERIOR_HEAD: Final = 12
_RIGHTMOST: Final = slice(8, 12)
_CHILD: Final = 4  # bytes: a page's number, before a cell or at the begin of an overflow page
_OVERFLOW: Final = PAGE - _CHILD
_LEAST_LOCAL: Final = (PAGE - 12) * 32 // 255 - 23  # bytes of a payload that overflows, here
_MOST_TABLE: Final = PAGE - 35  # bytes: what is larger overflows
_MOST_INDEX: Final = (PAGE - 12) * 64 // 255 - 23
_VARINT: Final = 9  # bytes at most
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type: bytes
_CONSTANTS: Final[dict[int, int | None]] = {0: None, 8: 0, 9: 1}
_FIRST_BLOB: Final = 12
_NONE_WHOLE: Final = (IndexError, ValueError, struct.error)


class Frame(NamedTuple):
    """What a page in the log says of itself."""

    page: int
    size: int
    """Pages of the file, if it ends a commit; else 0."""
    salt: bytes


class Log:
    """A write-ahead log.

    Attributes:
        frames: what is in it, also of an earlier generation.
        in_order: whether its header can be true.
        salt: the mark of the frames that count.

    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._head = b""
        self.frames: list[Frame] = []
        try:
            with open(path, "rb") as log:
                self._head = log.read(_LOG_HEAD.size)
                while len(head := log.read(_FRAME.size)) == _FRAME.size:
                    self.frames.append(Frame(*_FRAME.unpack(head)))
                    log.seek(PAGE, os.SEEK_CUR)
        except FileNotFoundError:
            pass
        if not self.frames or self.frames[0].salt == bytes(8):  # set aside, and not yet written
            self.frames, self.in_order, self.salt = [], True, b""
            return
        magic, version, page, _, *salt = _LOG_HEAD.unpack(self._head)
        number, _ = oldest = list(_SALT.unpack(self.frames[0].salt))
        anew = salt[0] == number + 1 & _U32  # and all that it held had been moved
        good = (magic & ~1, version, page) == (_LOG_MAGIC, _LOG_VERSION, PAGE)
        self.in_order = good and (anew or salt == oldest)
        self.salt = self._head[_LOG_SALT] if anew else self.frames[0].salt

    def synced(self) -> int:
        """Return how many pages it held, at least, when its last sync returned.

        SQLite ends a log, without a word, at the first page that is not whole, as a crash leaves
        it. But a commit with a page of a later one behind it was synced: it must be there.
        """
        live = [n for n, frame in enumerate(self.frames, 1) if frame.salt == self.salt]
        return max((n for n in live[:-1] if self.frames[n - 1].size), default=0)

    def committed(self, whole: int | None = None) -> dict[int, int]:
        """Return where each page stands as of the last commit, of the first ``whole`` frames."""
        found: dict[int, int] = {}
        pending: dict[int, int] = {}
        for number, frame in enumerate(self.frames[:whole]):
            if frame.salt != self.salt:
                break
            pending[frame.page] = _LOG_HEAD.size + number * (_FRAME.size + PAGE) + _FRAME.size
            if frame.size:
                found |= pending
                pending.clear()
        return found

    def whole(self) -> int:
        """Return how many frames there are before the first that is not whole."""
        if not self.frames:
            return 0
        order = ">" if self._head[3] & 1 else "<"
        sums = _summed(self._head[:_LOG_SUMMED], order, (0, 0))
        with open(self._path, "rb") as log:
            log.seek(_LOG_HEAD.size)
            for number, frame in enumerate(self.frames):
                head = log.read(_FRAME.size)
                sums = _summed(head[:_FRAME_SUMMED] + log.read(PAGE), order, sums)
                if frame.salt != self.salt or head[-_SUMS.size :] != _SUMS.pack(*sums):
                    return number
        return len(self.frames)


def _summed(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}II", data[: len(data) // 8 * 8]):
        first = first + one + second & _U32
        second = second + two + first & _U32
    return first, second


class Pages:
    """The pages as of one moment: those in the log, and the file's for the others.

    Args:
        file: a descriptor of the database.
        log: a descriptor of its write-ahead log.
        logged: where in the log each page stands.

    """

    def __init__(self, file: int, log: int = -1, logged: dict[int, int] | None = None) -> None:
        self._file = file
        self._log = log
        self._logged = logged or {}
        self._size = os.fstat(file).st_size + PAGE * len(self._logged)

    def leaves(self, root: int) -> Iterator[int]:
        """Give the numbers of the pages that hold the rows of a table, about in order."""
        return (number for number, page, _ in self._tree(root) if page[0] not in _INTERIORS)

    def rows(self, leaf: int) -> Iterator[tuple[int, list[Value]]]:
        """Give the rows that can be read of such a page: each row's id and its columns."""
        page = self._page(leaf)
        for cell in _cells(page, _LEAF_HEAD):
            with suppress(*_NONE_WHOLE):
                size, at = _varint(page, cell)
                rowid, at = _varint(page, at)
                yield rowid, _columns(self._payload(page, at, size, _MOST_TABLE))

    def index(self, root: int) -> Iterator[list[Value]]:
        """Give the rows that can be read of a table WITHOUT ROWID, each as its columns."""
        for _, page, cells in self._tree(root):
            before = _CHILD if page[0] in _INTERIORS else 0
            for cell in cells:
                with suppress(*_NONE_WHOLE):
                    size, at = _varint(page, cell + before)
                    yield _columns(self._payload(page, at, size, _MOST_INDEX))

    def _tree(self, root: int) -> Iterator[tuple[int, bytes, tuple[int, ...]]]:
        """Give each page from a root on: its number, itself, where its cells are."""
        seen: set[int] = set()
        ahead = [root]
        while ahead:
            number = ahead.pop()
            page = b"" if number in seen else self._page(number)
            seen.add(number)
            if len(page) < PAGE:
                continue
            # What is neither was one of them.
            if page[0] not in _INTERIORS:
                yield number, page, _cells(page, _LEAF_HEAD)
            if page[0] not in _LEAVES:
                cells = _cells(page, _INTERIOR_HEAD)
                if page[0] in _INTERIORS:
                    yield number, page, cells
                children = [int.from_bytes(page[at : at + _CHILD]) for at in cells]
                ahead += [int.from_bytes(page[_RIGHTMOST]), *reversed(children)]

    def _page(self, number: int) -> bytes:
        """Return a page; nothing where the disk cannot read it, or it does not exist."""
        file, at = self._file, (number - 1) * PAGE
        if number in self._logged:
            file, at = self._log, self._logged[number]
        try:
            return os.pread(file, PAGE, at) if at >= 0 else b""
        except OSError:
            return b""

    def _payload(self, page: bytes, at: int, size: int, most: int) -> bytes:
        if size > self._size:
            raise ValueError("larger than the file")
        local = size
        if size > most:
            local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % _OVERFLOW
            local = local if local <= most else _LEAST_LOCAL
        parts = [page[at : at + local]]
        left, following = size - local, page[at + local : at + local + _CHILD]
        while left > 0:
            page = self._page(int.from_bytes(following))
            if len(page) < PAGE:
                raise ValueError("its next page is not there")
            parts.append(page[_CHILD : _CHILD + left])
            left -= _OVERFLOW
            following = page[:_CHILD]
        return b"".join(parts)


def _cells(page: bytes, head: int) -> tuple[int, ...]:
    count = min(int.from_bytes(page[3:5]), (PAGE - head) // 2)
    return struct.unpack_from(f">{count}H", page, head)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    value = 0
    for place in range(at, at + _VARINT - 1):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, place + 1
    return value << 8 | data[at + _VARINT - 1], at + _VARINT


def _columns(record: bytes) -> list[Value]:
    """Return the values of a record."""
    end, at = _varint(record, 0)
    values: list[Value] = []
    place = end
    while at < end:
        kind, at = _varint(record, at)
        if kind in _CONSTANTS:
            values.append(_CONSTANTS[kind])
            continue
        size = _INTEGERS[kind] if kind in _INTEGERS else (kind - _FIRST_BLOB) // 2
        data = record[place : place + size]
        if len(data) != size or (kind not in _INTEGERS and kind < _FIRST_BLOB):
            raise ValueError("no record")
        place += size
        values.append(int.from_bytes(data, signed=True) if kind in _INTEGERS else data)
    return values
