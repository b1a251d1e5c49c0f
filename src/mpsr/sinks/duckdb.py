"""Insert messages into a table of a DuckDB database: ``duckdb:FILE``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError, Explanation, SinkError
from mpsr.sinks.database import DatabaseFile
from mpsr.sinks.options import in_utf8, mode, options, unnamed
from mpsr.sinks.protocol import Grouping
from mpsr.sinks.rows import COLUMNS, PROGRESS, rows_of, table_name
from mpsr.system import outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from mpsr.batch import Batch

_WAL: Final = ".wal"  # of the file that DuckDB creates for its log, with the mode of any file
_GROUPING: Final = Grouping(seconds=1.0, idle=0.1)  # a commit costs much, each row little


def sink(target: str) -> DuckdbSink:
    """Return a sink of ``FILE?table=messages&mode=600``."""
    try:
        import duckdb  # noqa: PLC0415, F401 - an extra
    except ImportError as exc:
        what, advice = "it requires the package duckdb", "pip install 'mpsr[duckdb]'"
        raise ConfigurationError(Explanation(what, advice=advice)) from exc
    path, given = options(target, {"table": table_name, "mode": mode})
    if not path:
        raise unnamed("file", "duckdb:events.duckdb")
    file = DatabaseFile(path, (_WAL,), given.get("mode", outputs.PRIVATE))
    in_utf8(file.path, "DuckDB")
    return DuckdbSink(file, given.get("table", "messages"))


class DuckdbSink:
    """Inserts rows, and in the same transaction the position up to which they reach.

    Attributes:
        output: the path of the database.

    """

    grouping: Grouping = _GROUPING

    def __init__(self, file: DatabaseFile, table: str) -> None:
        self._file = file
        self.output: str = file.path
        self._table = table
        unnested = ", ".join(f"unnest(?::{types[1]}[])" for types in COLUMNS.values())
        self._insert = f"INSERT INTO {table} SELECT {unnested}"
        self._rows: list[tuple[Any, ...]] = []
        self._journal = ""
        self._position: int | None = None
        self._database: duckdb.DuckDBPyConnection | None = None

    def open(self, journal: str) -> int | None:
        """Make the tables, if they are missing; return the position of the last transaction.

        A database without one lacks everything: it is new, or replaces one that was removed.
        """
        self._journal = journal
        with self._working():
            self._connect()
        with self._working() as database:
            row = database.execute(
                f"SELECT max(position) FROM {PROGRESS} WHERE journal = ? AND sink = ?",  # noqa: S608 - a constant
                [journal, self._table],
            ).fetchone()
        if row is not None and row[0] is not None:
            return int(row[0])
        return 0 if journal else None

    def _connect(self) -> None:
        import duckdb  # noqa: PLC0415 - an extra

        self._file.claim(_blank)
        columns = ", ".join(f"{name} {types[1]}" for name, types in COLUMNS.items())
        database = self._database = duckdb.connect(self.output)
        self._file.prepare(_WAL)
        database.execute("BEGIN")
        database.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})")
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {PROGRESS} (journal VARCHAR, sink VARCHAR, "
            "position BIGINT)"
        )
        database.execute("COMMIT")

    def write(self, batch: Batch[Any]) -> None:
        """Keep the rows of a batch for the commit."""
        self._rows.extend(rows_of(batch, self._journal))
        self._position = batch.position

    def commit(self) -> None:
        """Insert the rows, and the position with them, in one transaction."""
        rows, self._rows = self._rows, []
        with self._working() as database:
            self._commit(database, rows)
        if self._file.is_moved():
            self.close()
            with self._working():
                self._connect()
            with self._working() as database:
                self._commit(database, [])

    def _commit(self, database: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]]) -> None:
        self._file.prepare(_WAL)  # DuckDB has removed it, if it had written all to the file
        database.execute("BEGIN")
        if rows:
            database.execute(self._insert, [list(column) for column in zip(*rows, strict=True)])
        if self._position is not None:
            which = [self._journal, self._table]
            delete = f"DELETE FROM {PROGRESS} WHERE journal = ? AND sink = ?"  # noqa: S608 - a constant
            database.execute(delete, which)
            insert = f"INSERT INTO {PROGRESS} VALUES (?, ?, ?)"  # noqa: S608 - a constant
            database.execute(insert, [*which, self._position])
        database.execute("COMMIT")

    def close(self) -> None:
        """Close the database; what was not committed is rolled back."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._file.release()

    @contextmanager
    def _working(self) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb  # noqa: PLC0415 - an extra

        try:
            yield self._database  # type: ignore[misc]  # open() alone finds None, and needs none
        except (duckdb.CatalogException, duckdb.BinderException) as exc:
            raise ConfigurationError(f"{self.output}: {_line(exc)}") from exc
        except duckdb.Error as exc:
            raise SinkError(f"{self.output}: {_line(exc)}") from exc


def _blank() -> bytes:
    """Return the content of an empty database: DuckDB opens no empty file."""
    import duckdb  # noqa: PLC0415 - an extra

    with TemporaryDirectory(prefix="mpsr-") as directory:
        path = os.path.join(directory, "blank")
        duckdb.connect(path).close()
        with open(path, "rb") as file:
            return file.read()


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())
