"""Append, replay and settle batches in SQLite.

Messages are numbered 1, 2, 3 … in the order of their commits; a batch takes a run of these
positions, one that only tells of lost messages takes one. A cursor is the position up to which
somebody is done; what all cursors have passed is trimmed.

Nothing read is believed: every row has a checksum over all of it, rows must follow one another
without a gap up to the last position, and the root's sum tells of a state that went missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import stat
import struct
import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from zlib import crc32

from mpsr import lockfile, primitives
from mpsr.errors import (
    Closed,
    ConfigurationError,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalFull,
    JournalInUse,
    MessageTooLarge,
    NewerJournal,
    NoJournal,
    NotAJournal,
)
from mpsr.forking import watch_forks
from mpsr.limits import (
    CHECKED_AT_OPEN,
    JOURNAL_LIMIT,
    KIB,
    LOG_FRACTION,
    MAX_LOG,
    MIB,
    MIN_JOURNAL_LIMIT,
    TRIM_ROWS,
)
from mpsr.pages import FRAME_HEAD, PAGE, Log
from mpsr.rows import (
    POSITION,
    ROOT,
    ROOT_VALUE,
    Entry,
    Record,
    TrackState,
    checksum_of,
    entry_of_row,
    is_state,
    pack_head,
    pack_track,
    state_checksum,
    track_name,
    unpack_track,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Entry", "Journal", "Record", "TrackState"]

_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION_ID: Final = 0x4D70_7372  # "Mpsr"
_VERSION: Final = 1
_VERSION_MASK: Final = 0x7FFF
_HEADER: Final = 100  # bytes of a database before its first table
_APPLICATION_AT: Final = slice(68, 72)
_VERSION_AT: Final = slice(60, 64)
_NEAR: Final = 4  # bits: a header that is so few off is ours, and damaged
_ROW_PAGES: Final = 3  # pages that a row may touch beside those that its payload fills
_FIXED_PAGES: Final = 16  # pages that any transaction may touch
_RESERVE_AHEAD: Final = 8 * MIB  # bytes: to extend the file takes a sync of its own
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_BY_ERRNO: Final[dict[int | None, type[JournalError]]] = {
    **dict.fromkeys(_NO_SPACE, JournalFull),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), JournalDenied),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), NoJournal),
}
_BESIDE: Final = ("", "-wal", "-shm", "-journal")

_PRAGMAS: Final[dict[str, tuple[str, tuple[object, ...]]]] = {
    "locking_mode": ("EXCLUSIVE", ("exclusive",)),  # first: the WAL's index stays in our memory
    "journal_mode": ("WAL", ("wal",)),
    "synchronous": ("FULL", (2,)),  # NORMAL loses what was committed when the power goes
    "fullfsync": ("ON", (1,)),  # where fsync alone does not reach the disk (macOS)
    "checkpoint_fullfsync": ("ON", (1,)),
    "wal_autocheckpoint": ("0", (0,)),  # its failure would look like that of the commit
    "cache_size": ("-4096", (-4096,)),  # KiB
    "mmap_size": ("0", (0, None)),  # an error in a mapped file is a signal, not an error
    "secure_delete": ("OFF", (0,)),  # zeroing what is trimmed would write it once more
    "cell_size_check": ("ON", (1,)),
    "trusted_schema": ("OFF", (0,)),
    "temp_store": ("MEMORY", (2,)),
}
_SCHEMA: Final = (
    (
        "CREATE TABLE batches (position INTEGER PRIMARY KEY, head BLOB NOT NULL, "
        "checksum INTEGER NOT NULL, payload BLOB NOT NULL)"
    ),
    (
        "CREATE TABLE state (name BLOB PRIMARY KEY, value BLOB NOT NULL, "
        "checksum INTEGER NOT NULL) WITHOUT ROWID"
    ),
)
_READ: Final = (
    "SELECT position, head, checksum, payload FROM batches WHERE position >= "
    "(SELECT max(position) FROM batches WHERE position <= ?) ORDER BY position"
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: The primary result codes of SQLite that speak of the surroundings; the others, of the file.
_SURROUNDINGS: Final = frozenset({
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_MISUSE,
})  # fmt: skip


def _at(point: str) -> None:
    """Do nothing; tests end the process here. ``point`` names the place."""


def _extend(file: int, size: int) -> None:
    """Have the disk set aside room for a file of this size; OSError if there is none."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        os.fsync(file)  # for SQLite takes the size into its next commit


def _connect(path: str) -> sqlite3.Connection:
    """Open a database; tests give it another file system here."""
    connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")  # if damaged
    return connection


class Journal:
    """A journal, or a spool: an SQLite file that one process owns.

    Every method may be called from any thread, and waits for the one that is at work. What
    ``append`` and ``commit`` wrote is on the disk when they return. After a failure that leaves
    in doubt what the disk holds, everything else raises JournalError.

    Args:
        path: the file; ``PATH.lock`` beside it says who owns it.
        limit: bytes that the file and its write-ahead log may take together. A file that is
            larger already does not grow.
        create: make the file if it is missing, and set a damaged one aside and make a new one.
            If false, both raise.

    Attributes:
        path: the file, in full.
        set_aside: where a damaged file was moved when this one was begun, else None.

    Raises:
        JournalInUse: another process has it open.
        JournalDenied: the permissions forbid it.
        NoJournal: it is missing, if not ``create``, or its directory is.
        NotAJournal: the file is something else.
        NewerJournal: a later version of mpsr wrote it.
        JournalDamaged: only if not ``create``.
        JournalError: it cannot be opened.

    """

    def __init__(
        self, path: str | os.PathLike[str], *, limit: int = JOURNAL_LIMIT, create: bool = True
    ) -> None:
        if limit < MIN_JOURNAL_LIMIT:
            raise ConfigurationError(f"limit={limit}: it must be {MIN_JOURNAL_LIMIT} at least")
        self.path = os.path.realpath(os.fsdecode(path))
        self.limit = limit
        self.set_aside: str | None = None
        self._page = PAGE
        self._most_pages = 0
        self._log_most = min(MAX_LOG, limit // LOG_FRACTION)
        self._logged = 0  # bytes in the write-ahead log, at most
        self._reserved = 0  # pages that the disk holds for the file
        self._mutex = primitives.Lock()
        self._failure: JournalError | None = None
        self._closed = False
        self._stale = False  # what follows must be read anew
        self._trimmed = self._last = self._sum = 0
        self._sums: dict[bytes, int] = {}  # of each state but the root
        self._saved: dict[str, int] = {}  # the cursors on disk
        self._cursors: dict[str, int] = {}  # and as they stand
        self._connection: Any = None
        self._inodes: list[tuple[int, int] | None] = []  # of the file and its log
        self._file: int | None = None  # kept open beside SQLite's own
        self._look(create=create)
        self._lock = self._take_lock()
        try:
            self._open(create=create)
        except BaseException:
            lockfile.give_back(self._lock)
            raise
        watch_forks(self)

    # -- batches ------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The position of the last message committed; 0 before the first."""
        return self._last

    @property
    def trimmed(self) -> int:
        """The position up to which everything is gone."""
        return self._trimmed

    @property
    def used(self) -> int:
        """Bytes that the messages and what belongs to them take in the file."""
        with self._working("measure"):
            return (self._pragma("page_count") - self._pragma("freelist_count")) * self._page

    @property
    def capacity(self) -> int:
        """Bytes that ``used`` can reach."""
        return self._most_pages * self._page

    @property
    def most(self) -> int:
        """Bytes that one ``append`` can take, if each entry takes ENTRY_COST beside its own."""
        return (self._most_pages - 2 * _FIXED_PAGES) * self._page

    def append(
        self,
        entries: Sequence[Entry],
        tracks: Iterable[TrackState] = (),
        *,
        forget: Iterable[tuple[int | None, bytes]] = (),
    ) -> list[int]:
        """Commit the entries, tracks and moved cursors; return each entry's last position.

        All of it is on the disk when this returns; if it raises, nothing of it is.

        Args:
            entries: the batches, in order.
            tracks: where the producers stand with these batches.
            forget: (uid, producer id) of tracks that are to go.

        Raises:
            JournalFull: there is no room for them now; keep them, and try again.
            MessageTooLarge: they would not fit an empty journal.
            JournalError: they could not be written; the journal takes no more.

        """
        sums = [crc32(entry.payload) for entry in entries]
        changes: dict[bytes, bytes | None] = {track_name(*key): None for key in forget}
        changes |= {track_name(t.uid, t.producer.id): pack_track(t) for t in tracks}
        pages = sum(map(self._pages_for, entries))
        if pages > self._most_pages - 2 * _FIXED_PAGES:
            size = sum(entry.nbytes for entry in entries)
            error = f"{size} bytes at once do not fit {self.path}: raise its limit"
            raise MessageTooLarge(error)
        with self._working("append"):
            self._make_room(pages)
            rows, positions, last = [], [], self._last
            for entry, payload_sum in zip(entries, sums, strict=True):
                first, head = last + 1, pack_head(entry)
                last += entry.span
                checksum = checksum_of(first, head, payload_sum)
                rows.append((first, head, checksum, entry.payload))
                positions.append(last)
            with self._transaction(pages + len(changes), last=last, changes=changes) as execute:
                for row in rows:
                    execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
            return positions

    def read(self, after: int, *, max_bytes: int = MIB) -> list[Record]:
        """Return what follows a position, in order: some records, or none at the end.

        The first begins at the message after ``after``, which may be in the middle of a batch,
        or where what is trimmed ends. ``max_bytes`` bounds the payloads, but for the last.

        Raises:
            JournalDamaged: the next record cannot be read. Those before it were.

        """
        with self._working("read"):
            start = max(after, self._trimmed) + 1
            if start > self._last:
                return []
            rows: list[tuple[Any, ...]] = []
            size, whole = 0, False
            try:
                cursor = self._connection.execute(_READ, (start,))
                try:
                    for row in cursor:
                        rows.append(row)
                        size += len(row[3]) if isinstance(row[3], bytes) else 0
                        if size >= max_bytes:
                            break
                    else:
                        whole = True
                finally:
                    cursor.close()  # an open one would keep the log from being reset
            except sqlite3.DatabaseError as exc:
                if not rows or not _is_damage(exc):
                    raise
            last = self._last
        records: list[Record] = []
        expected = None
        for row in rows:
            entry = entry_of_row(row)
            begins = row[0]
            if entry is None or (begins > start if expected is None else begins != expected):
                break
            expected = begins + entry.span
            if expected <= start:
                break
            records.append(Record(expected - 1, entry.after(max(0, start - begins))))
        if not records or (whole and len(records) == len(rows) and expected != last + 1):
            self._raise_unreadable(start)
        return records

    # -- cursors, tracks and other values -----------------------------------------------------

    def cursor(self, name: str) -> int:
        """Return the position of a cursor; one that is new begins before all that is kept."""
        return self._cursors.setdefault(name, self._trimmed)

    def cursors(self) -> dict[str, int]:
        """Return all cursors and their positions."""
        return dict(self._cursors)

    def move(self, name: str, position: int) -> None:
        """Say that everything up to ``position`` is done; the next commit keeps it.

        Raises ValueError for a position that is behind the cursor or not committed.
        """
        if not self.cursor(name) <= position <= self._last:
            limits = f"{self._cursors[name]} to {self._last}"
            raise ValueError(f"cursor {name!r} can move within {limits}, not to {position}")
        self._cursors[name] = position

    def drop(self, name: str) -> None:
        """Remove a cursor, so that it keeps nothing from being trimmed; the next commit does."""
        self._cursors.pop(name, None)

    def tracks(self) -> list[TrackState]:
        """Return where all producers stand."""
        return [unpack_track(name, value) for name, value in self._values(b"t")]

    def get(self, key: str) -> bytes | None:
        """Return what ``put`` kept under a key."""
        name = b"m" + key.encode()
        return dict(self._values(name)).get(name)

    def put(self, key: str, value: bytes) -> None:
        """Keep a small value; it is on the disk when this returns."""
        with self._working("write"), self._transaction(1, changes={b"m" + key.encode(): value}):
            pass

    # -- settling -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Put the moved cursors on the disk."""
        if self._cursors != self._saved:
            with self._working("write its cursors"):
                self._settle()

    def trim(self) -> bool:
        """Remove some of what all cursors have passed; tell whether there is more of it."""
        with self._working("trim"):
            self._settle()
            return bool(self._settled(1))

    def check(self) -> None:
        """Check the structure of the whole file; raise JournalDamaged if it is not right."""
        with self._working("read"), self._noticing_damage():
            self._quick_check()

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file."""
        with self._working("checkpoint"):
            self._checkpoint()

    def close(self) -> None:
        """Put the moved cursors on the disk and part with the file."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            try:
                if self._failure is None:
                    with self._translating("close"):
                        try:
                            if self._cursors != self._saved:
                                self._settle()
                        finally:
                            self._disconnect()
                else:
                    self._leave_open()  # closing would write what is in doubt
            finally:
                lockfile.give_back(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork_in_child(self) -> None:
        """Part with what belongs to the parent."""
        if self._closed:
            return
        self._closed = True
        self._mutex = primitives.Lock()
        self._leave_open()
        primitives.close(self._lock)

    # -- transactions -------------------------------------------------------------------------

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        with self._mutex:
            if self._closed:
                raise Closed(f"the journal {self.path} was closed, or is a parent process's")
            if self._failure is not None:
                error = f"cannot {doing} {self.path}: it failed before ({self._failure})"
                raise JournalError(error, path=self.path) from self._failure
            with self._translating(doing):
                if self._stale:
                    self._load()
                yield

    @contextmanager
    def _transaction(
        self,
        pages: int,
        *,
        last: int | None = None,
        changes: dict[bytes, bytes | None] | None = None,
    ) -> Iterator[Callable[[str, tuple[object, ...]], object]]:
        """Commit what the block executes, and with it changed states, cursors, a trimming."""
        changes = dict(changes or {})
        cursors = dict(self._cursors)
        for name, position in cursors.items():
            if self._saved.get(name) != position:
                changes[b"c" + name.encode()] = POSITION.pack(position)
        changes |= {b"c" + name.encode(): None for name in self._saved.keys() - cursors.keys()}
        last = self._last if last is None else last
        execute = self._connection.execute
        self._check_files()
        self._stale = True
        execute("BEGIN IMMEDIATE")
        try:
            settled = self._settled(TRIM_ROWS, cursors)
            trimmed = settled[-1][1] if settled else self._trimmed
            if settled:
                execute("DELETE FROM batches WHERE position <= ?", (settled[-1][0],))
                _at("trim")
            yield execute
            self._write_changes(changes)
            root = ROOT_VALUE.pack(trimmed, last, self._sum, len(self._sums))
            self._write_state(ROOT, root)
            _at("before-commit")
            execute("COMMIT")
        except BaseException:
            self._logged = self._log_most  # unknown: have the log begin anew, where it has room
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # the error at hand says more
                    execute("ROLLBACK")
            raise
        _at("after-commit")
        touched = pages + len(changes) + len(settled) + _FIXED_PAGES
        self._logged += touched * (self._page + FRAME_HEAD)
        self._trimmed, self._last, self._saved = trimmed, last, cursors
        self._stale = False

    def _check_files(self) -> None:
        """Refuse to write where nobody would find it: into files that were taken away."""
        now = [_inode(self.path), _inode(self.path + "-wal")]
        if now[1] is not None and self._inodes[1] is None:  # made by the first transaction
            self._inodes[1] = now[1]
        if now != self._inodes:
            error = f"cannot write {self.path}: it, or its -wal file, was removed or replaced"
            self._failure = JournalError(error, path=self.path)
            raise self._failure

    def _write_changes(self, changes: dict[bytes, bytes | None]) -> None:
        for name, value in changes.items():
            self._sum ^= self._sums.pop(name, 0)
            if value is None:
                self._connection.execute("DELETE FROM state WHERE name = ?", (name,))
            else:
                self._sums[name] = self._write_state(name, value)
                self._sum ^= self._sums[name]

    def _write_state(self, name: bytes, value: bytes) -> int:
        checksum = state_checksum(name, value)
        sql = "INSERT OR REPLACE INTO state VALUES (?, ?, ?)"
        self._connection.execute(sql, (name, value, checksum))
        return checksum

    def _settle(self) -> None:
        """Commit the cursors and a step of trimming; on a full disk, too."""
        _at("before-cursor")
        try:
            with self._transaction(0):
                pass
        except sqlite3.Error as exc:
            if _code(exc) != sqlite3.SQLITE_FULL:
                raise
            self._checkpoint()  # so that the log begins anew, where it has room
            with self._transaction(0):
                pass

    def _settled(self, most: int, cursors: dict[str, int] | None = None) -> list[tuple[int, int]]:
        """Return (row, last position) of the first rows that all saved cursors have passed."""
        cursors = self._saved if cursors is None else cursors
        floor = min(cursors.values(), default=0)
        if floor <= self._trimmed:
            return []
        sql = "SELECT position FROM batches ORDER BY position LIMIT ?"
        begins = [row[0] for row in self._connection.execute(sql, (most + 1,)).fetchall()]
        if len(begins) <= most:
            begins.append(self._last + 1)
        if begins[0] != self._trimmed + 1:
            self._raise_unreadable(self._trimmed + 1)
        ends = [(row, after - 1) for row, after in pairwise(begins)]
        return [(row, end) for row, end in ends if end <= floor]

    # -- room -----------------------------------------------------------------------------------

    def _pages_for(self, entry: Entry) -> int:
        size = memoryview(entry.payload).nbytes + KIB  # its head, and a label
        return size // (self._page - FRAME_HEAD) + _ROW_PAGES

    def _make_room(self, pages: int) -> None:
        """Make room in the log and in the file for a transaction, or raise JournalFull."""
        if self._logged + (pages + _FIXED_PAGES) * (self._page + FRAME_HEAD) > self._log_most:
            self._checkpoint()
        while self._free_pages() < pages + _FIXED_PAGES:
            if not self._settled(1, dict(self._cursors)):
                error = (
                    f"cannot append to {self.path}: its {self.limit} bytes are full; it goes on "
                    "once its readers have moved on, or with a larger limit"
                )
                raise JournalFull(error, path=self.path)
            self._settle()
        self._reserve(pages + _FIXED_PAGES)

    def _reserve(self, pages: int) -> None:
        """Have the disk set aside what the file will need: a checkpoint cannot wait for room."""
        used = self._pragma("page_count")
        wanted = used + pages - self._pragma("freelist_count")
        if wanted > self._reserved and self._file is not None:
            ahead = min(wanted // 4, _RESERVE_AHEAD // self._page, self._most_pages - wanted)
            try:
                _extend(self._file, (wanted + ahead) * self._page)
            except OSError as exc:
                if exc.errno not in _NO_SPACE:
                    raise
                ahead = 0
                _extend(self._file, wanted * self._page)
            self._reserved = wanted + ahead

    def _free_pages(self) -> int:
        return self._most_pages - self._pragma("page_count") + self._pragma("freelist_count")

    def _checkpoint(self) -> int:
        """Move the log into the file; return how many pages it held."""
        if not self._logged:
            return 0
        _at("checkpoint")
        sql = "PRAGMA wal_checkpoint(PASSIVE)"  # nobody else reads, so it is complete
        busy, frames, moved = self._connection.execute(sql).fetchone()
        if busy or moved != frames:
            error = f"cannot checkpoint {self.path}: {moved} of {frames} pages were moved"
            raise JournalError(error, path=self.path)
        self._logged = 0
        self._reserved = self._pragma("page_count")  # the file may have been cut to its pages
        return int(frames)

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    # -- opening --------------------------------------------------------------------------------

    def _look(self, *, create: bool) -> None:
        """Refuse what is no journal before a lock file is made beside it."""
        if os.path.lexists(f"{self.path}.lock"):
            return  # it may be in use
        with self._translating("open"), suppress(JournalDamaged):
            try:
                self._identify()
            except FileNotFoundError:
                if not create:
                    raise

    def _take_lock(self) -> int:
        with self._translating("open"):
            try:
                return lockfile.take(f"{self.path}.lock")
            except lockfile.Held as exc:
                error = (
                    f"cannot open {self.path}: {exc} has it open; stop that, or choose another file"
                )
                raise JournalInUse(error, path=self.path, pid=exc.pid) from None
            except lockfile.NotALock as exc:
                error = f"cannot open {self.path}: {exc}; choose another file"
                raise NotAJournal(error, path=self.path) from None

    def _open(self, *, create: bool) -> None:
        with self._translating("open"):
            try:
                self._identify()
                self._open_existing()
                return
            except FileNotFoundError:
                if not create:
                    raise
            except JournalDamaged as exc:
                if not create:
                    self._leave_open()
                    raise
                self._move_aside(exc)
                with suppress(sqlite3.Error):  # only now, as it would remove the log
                    self._disconnect()
            self._create()
            self._open_existing()

    def _identify(self) -> None:
        """Look at the file before SQLite does, which would change it."""
        found = os.lstat(self.path) if os.path.lexists(self.path) else None
        if found is None:
            if any(os.path.lexists(self.path + suffix) for suffix in _BESIDE[1:]):
                self._raise_damaged("only its companions are there")
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            what = "has several names" if stat.S_ISREG(found.st_mode) else "is no regular file"
            self._raise_foreign(what)
        with open(self.path, "rb", buffering=0) as file:  # before SQLite: closing drops its locks
            header = file.read(_HEADER)
        expected = bytearray(_HEADER)
        expected[: len(_MAGIC)] = _MAGIC
        expected[_APPLICATION_AT] = _APPLICATION_ID.to_bytes(4)
        telling = [*range(len(_MAGIC)), *range(_HEADER)[_APPLICATION_AT]]
        off = sum(
            (header[index] ^ expected[index]).bit_count()
            for index in telling
            if index < len(header)
        )
        if off > _NEAR:
            self._raise_foreign("is no journal of mpsr")
        if off or len(header) < _HEADER:
            self._raise_damaged("its header is not what was written")
        word = int.from_bytes(header[_VERSION_AT])
        version = word & _VERSION_MASK
        if word != _version_word(version):
            self._raise_damaged("its header is not what was written")
        if version > _VERSION:
            error = (
                f"cannot open {self.path}: a later version of mpsr wrote it (format "
                f"{version}, this one knows {_VERSION}); use that, or another file"
            )
            raise NewerJournal(error, path=self.path)

    def _create(self) -> None:
        """Make an empty journal beside the path and move it there, whole."""
        new = f"{self.path}.new"
        for suffix in _BESIDE:  # of a process that was killed here
            with suppress(FileNotFoundError):
                os.unlink(new + suffix)
        primitives.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = _connect(new)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_version_word(_VERSION)}")
            for statement in _SCHEMA:
                connection.execute(statement)
            root = ROOT_VALUE.pack(0, 0, 0, 0)
            row = (ROOT, root, state_checksum(ROOT, root))
            connection.execute("INSERT INTO state VALUES (?, ?, ?)", row)
            connection.execute("COMMIT")
        finally:
            connection.close()
        os.rename(new, self.path)
        _sync_directory(self.path)

    def _open_existing(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._inodes = [_inode(self.path), None]
        try:
            with self._noticing_damage():
                log = Log(self.path + "-wal")  # before SQLite, which may cut it
                if not log.in_order:
                    self._raise_damaged("the header of its -wal file is not what was written")
                self._connection = _connect(self.path)
                self._configure()
                self._check_structure()
                self._load()
                self._cursors = dict(self._saved)
                self._check_ends()
                self._logged = 1  # or more, after a crash
                if self._checkpoint() < log.synced():
                    self._raise_damaged("its -wal file does not hold all that was committed")
        except JournalDamaged:
            raise  # what becomes of the file is decided elsewhere
        except BaseException as exc:
            if isinstance(exc, sqlite3.Error) and _code(exc) in _BUSY:
                self._disconnect()
            else:
                self._leave_open()
            raise

    def _configure(self) -> None:
        execute = self._connection.execute
        for name, (value, expected) in _PRAGMAS.items():
            execute(f"PRAGMA {name} = {value}").fetchall()
            found = (execute(f"PRAGMA {name}").fetchone() or (None,))[0]
            if found not in expected:
                error = f"cannot open {self.path}: SQLite keeps {name}={found}, not {value}"
                raise JournalError(error, path=self.path)
        self._page = self._pragma("page_size")
        wanted = max((self.limit - self._log_most) // self._page, self._pragma("page_count"))
        execute(f"PRAGMA max_page_count = {wanted}").fetchall()
        self._most_pages = wanted
        execute(f"PRAGMA journal_size_limit = {self._log_most}").fetchall()
        found = self._pragma("journal_size_limit"), self._pragma("max_page_count")
        if found != (self._log_most, wanted):
            error = f"cannot open {self.path}: SQLite does not take its limits, but {found}"
            raise JournalError(error, path=self.path)

    def _check_structure(self) -> None:
        schema = self._connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
        if [row[0] for row in schema] != [*_SCHEMA]:
            self._raise_damaged("its tables are not those of a journal")
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        if pages * self._page <= CHECKED_AT_OPEN:
            self._quick_check()

    def _quick_check(self) -> None:
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            self._raise_damaged(str(found))

    def _load(self) -> None:
        """Read all states and check them against the root."""
        root: bytes | None = None
        sums: dict[bytes, int] = {}
        cursors: dict[str, int] = {}
        total = 0
        for name, value, checksum in self._connection.execute("SELECT * FROM state"):
            if not is_state(name, value, checksum):
                self._raise_damaged("what it knows of cursors and producers is not whole")
            if name == ROOT:
                root = value
                continue
            sums[name] = checksum
            total ^= checksum
            if name.startswith(b"c"):
                cursors[name[1:].decode()] = POSITION.unpack(value)[0]
        if root is None:
            self._raise_damaged("its root is missing")
        self._trimmed, self._last, self._sum, count = ROOT_VALUE.unpack(root)
        if (self._sum, count) != (total, len(sums)):
            self._raise_damaged("what it knows of cursors and producers is not whole")
        self._sums = sums
        self._saved = cursors
        self._stale = False

    def _check_ends(self) -> None:
        sql = "SELECT min(position), (SELECT max(position) FROM batches) FROM batches"
        first, final = self._connection.execute(sql).fetchone()
        empty = self._trimmed == self._last
        good = first is None if empty else first == self._trimmed + 1 and final <= self._last
        if not good:
            self._raise_damaged("its first or last batch is missing")

    def _values(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        with self._working("read"):
            sql = "SELECT * FROM state WHERE name >= ? AND name < ? ORDER BY name"
            bounds = (prefix, prefix[:-1] + bytes([prefix[-1] + 1]))
            rows = self._connection.execute(sql, bounds).fetchall()
            if not all(is_state(*row) and self._sums.get(row[0]) == row[2] for row in rows):
                self._raise_damaged("what it knows of cursors and producers is not whole")
            return [(name, value) for name, value, _ in rows]

    def _move_aside(self, damage: JournalDamaged) -> None:
        """Rename a damaged file and its companions; begin with none."""
        import logging  # noqa: PLC0415 - not light, and hardly ever needed

        stamp = time.strftime("%Y%m%dT%H%M%S")
        aside, number = f"{self.path}.damaged-{stamp}", 0
        while any(os.path.lexists(aside + suffix) for suffix in _BESIDE):
            number += 1
            aside = f"{self.path}.damaged-{stamp}-{number}"
        for suffix in _BESIDE:
            with suppress(FileNotFoundError):
                os.rename(self.path + suffix, aside + suffix)
        _sync_directory(self.path)
        self.set_aside = aside
        logging.getLogger("mpsr").warning("%s; it was moved to %s", damage, aside)

    def _disconnect(self) -> None:
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            if self._file is not None:
                primitives.close(
                    self._file
                )  # last: closing any descriptor of it drops SQLite's locks
            self._connection = self._file = None

    def _leave_open(self) -> None:
        """Never close the connection: that would checkpoint, and remove the log."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    # -- errors ---------------------------------------------------------------------------------

    @contextmanager
    def _translating(self, doing: str) -> Iterator[None]:
        """Translate what went wrong; refuse further work after what leaves the disk in doubt."""
        try:
            yield
        except sqlite3.Error as exc:
            error = self._translated(doing, exc)
            if doing != "read" and not isinstance(error, JournalFull):
                self._failure = error
            raise error from exc
        except OSError as exc:
            kind = _BY_ERRNO.get(exc.errno, JournalError)
            error = kind(f"cannot {doing} {self.path}: {exc.strerror or exc}", path=self.path)
            if kind is not JournalFull:
                self._failure = error
            raise error from exc

    def _translated(self, doing: str, exc: sqlite3.Error) -> JournalError:
        code = _code(exc)
        why = f"cannot {doing} {self.path}: {exc}"
        if code == sqlite3.SQLITE_FULL:
            return JournalFull(f"{why}; it goes on once there is room", path=self.path)
        if code == sqlite3.SQLITE_READONLY:
            return JournalDenied(why, path=self.path)
        if code in _BUSY:
            return JournalInUse(f"{why}: another program has it open; close that", path=self.path)
        if _is_damage(exc):
            advice = "read what can be read with: mpsr journal salvage"
            return JournalDamaged(f"{why}; {advice} {self.path}", path=self.path)
        return JournalError(why, path=self.path)

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        """Take for damage whatever cannot be the surroundings' fault."""
        try:
            yield
        except sqlite3.Error as exc:
            if not _is_damage(exc):
                raise
            self._raise_damaged(str(exc), exc)
        except (TypeError, ValueError, AssertionError, struct.error, MemoryError) as exc:
            self._raise_damaged(repr(exc), exc)

    def _raise_damaged(self, why: str, cause: BaseException | None = None) -> NoReturn:
        error = f"{self.path} is damaged: {why}; read what can be read with: mpsr journal salvage"
        raise JournalDamaged(error, path=self.path) from cause

    def _raise_unreadable(self, position: int) -> NoReturn:
        error = (
            f"{self.path} is damaged: position {position} cannot be read; read what can be read "
            "with: mpsr journal salvage"
        )
        raise JournalDamaged(error, path=self.path, position=position)

    def _raise_foreign(self, what: str) -> NoReturn:
        error = f"cannot open {self.path}: it {what}; it was left as it is: choose another file"
        raise NotAJournal(error, path=self.path)


# -- files and connections ------------------------------------------------------------------------


def _version_word(version: int) -> int:
    """Return a format's version beside its complement, so that a flipped bit is told."""
    return (~version & _VERSION_MASK) << 16 | version


def _code(exc: sqlite3.Error) -> int:
    code: int = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    return code & 0xFF


def _is_damage(exc: sqlite3.Error) -> bool:
    short = getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHORT_READ
    return short or _code(exc) not in _SURROUNDINGS


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        primitives.close(directory)
