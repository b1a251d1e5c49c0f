"""Insert messages into a table of an SQLite database: ``sqlite:FILE``."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError, MessageRejected, SinkError
from mpsr.sinks.database import DatabaseFile
from mpsr.sinks.options import mode, options, unnamed
from mpsr.sinks.rows import COLUMNS, PROGRESS, rows_of, table_name
from mpsr.system import outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.batch import Batch

# Raised for a value, whatever the state of the database.
_REFUSALS: Final = (sqlite3.DataError, sqlite3.InterfaceError, OverflowError, UnicodeError)
_BUSY: Final = 5.0  # seconds that another process may hold the database
_BESIDES: Final = ("-wal", "-shm", "-journal")  # files that SQLite creates, with the file's mode


def sink(target: str) -> SqliteSink:
    """Return a sink of ``FILE?table=messages&mode=600``."""
    path, given = options(target, {"table": table_name, "mode": mode})
    if not path:
        raise unnamed("file", "sqlite:events.db")
    file = DatabaseFile(path, _BESIDES, given.get("mode", outputs.PRIVATE))
    return SqliteSink(file, given.get("table", "messages"))


class SqliteSink:
    """Inserts rows, and in the same transaction the position up to which they reach.

    Attributes:
        output: the path of the database.

    """

    def __init__(self, file: DatabaseFile, table: str) -> None:
        self._file = file
        self.output: str = file.path
        self._table = table
        self._insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - a plain name
        self._journal = ""
        self._position: int | None = None
        self._database: sqlite3.Connection | None = None

    def open(self, journal: str) -> int | None:
        """Make the tables, if they are missing; return the position of the last transaction.

        A database without one lacks everything: it is new, or replaces one that was removed.
        """
        self._journal = journal
        with self._working():
            self._connect()
        with self._working() as database:
            row = database.execute(
                f"SELECT position FROM {PROGRESS} WHERE journal = ? AND sink = ?",  # noqa: S608 - a constant
                (journal, self._table),
            ).fetchone()
        if row is not None:
            return int(row[0])
        return 0 if journal else None

    def _connect(self) -> None:
        self._file.claim()
        columns = ", ".join(f"{name} {types[0]}" for name, types in COLUMNS.items())
        database = sqlite3.connect(self.output, timeout=_BUSY, isolation_level=None)
        self._database = database
        database.execute("PRAGMA journal_mode = WAL")  # so that readers do not block the sink
        database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
        database.execute("BEGIN IMMEDIATE")
        database.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})")
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {PROGRESS} (journal TEXT, sink TEXT, "
            "position INTEGER, PRIMARY KEY (journal, sink))"
        )
        database.execute("COMMIT")
        self._file.check()  # SQLite has opened all of its files now

    def write(self, batch: Batch[Any]) -> None:
        """Insert a batch; the first one begins a transaction."""
        with self._working() as database:
            if not database.in_transaction:
                database.execute("BEGIN IMMEDIATE")
            database.execute("SAVEPOINT batch")
            try:
                database.executemany(self._insert, rows_of(batch, self._journal))
            except _REFUSALS as exc:
                database.execute("ROLLBACK TO batch")
                reasons = self._refused(database, batch)
                database.execute("ROLLBACK TO batch")
                if not reasons:
                    raise SinkError(f"{self.output}: {exc}") from exc
                raise MessageRejected(reasons) from exc
            database.execute("RELEASE batch")
        self._position = batch.position

    def _refused(self, database: sqlite3.Connection, batch: Batch[Any]) -> dict[int, str]:
        """Return the messages that SQLite cannot hold, and why, by inserting one at a time."""
        reasons = {}
        for index, row in enumerate(rows_of(batch, self._journal)):
            try:
                database.execute(self._insert, row)
            except _REFUSALS as exc:
                reasons[index] = f"SQLite cannot hold it: {exc}"
        return reasons

    def commit(self) -> None:
        """Commit the rows, and the position with them."""
        with self._working() as database:
            self._put_position(database)
            database.execute("COMMIT")
            moved = self._file.is_moved()
            if moved:  # SQLite would not do so at its close: it has noticed the move, too
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if moved:
            self.close()
            with self._working():
                self._connect()
            with self._working() as database:
                self._put_position(database)

    def _put_position(self, database: sqlite3.Connection) -> None:
        if self._position is not None:
            database.execute(
                f"INSERT OR REPLACE INTO {PROGRESS} VALUES (?, ?, ?)",  # noqa: S608 - a constant
                (self._journal, self._table, self._position),
            )

    def close(self) -> None:
        """Close the database; what was not committed is rolled back."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._file.release()

    @contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._database  # type: ignore[misc]  # open() alone finds None, and needs none
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorcode in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH}:
                raise ConfigurationError(f"{self.output}: {exc}") from exc
            raise SinkError(f"{self.output}: {exc}") from exc
