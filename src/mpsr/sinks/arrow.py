"""Write messages to files of Apache Arrow's own format (IPC): ``arrow:DIR``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mpsr.sinks.dataset import DatasetSink
from mpsr.sinks.options import choice

if TYPE_CHECKING:
    from typing import BinaryIO

    from mpsr.sinks.dataset import Writer

_COMPRESSIONS: Final = ("none", "lz4", "zstd")


def sink(target: str) -> DatasetSink:
    """Return a sink of ``DIR?size=128M&every=1m&partition=hour&compress=none``."""
    return DatasetSink(target, "arrow", _writer, {"compress": choice(*_COMPRESSIONS)})


def _writer(file: BinaryIO, given: dict[str, Any]) -> Writer:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    from mpsr.sinks.columns import SCHEMA  # noqa: PLC0415 - it needs pyarrow

    class Plain:
        """Writes words out: a file of this format has one dictionary for all its tables."""

        def __init__(self) -> None:
            words = [
                field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
                for field in SCHEMA
            ]
            self._schema = pa.schema(words)
            compression = given.get("compress", "none")
            settings = pa.ipc.IpcWriteOptions(
                compression=None if compression == "none" else compression
            )
            self._file = pa.ipc.new_file(file, self._schema, options=settings)

        def write_table(self, table: pa.Table) -> None:
            self._file.write_table(table.cast(self._schema))

        def close(self) -> None:
            self._file.close()

    return Plain()
