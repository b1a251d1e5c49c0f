"""Write messages to Parquet files: ``parquet:DIR``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mpsr.sinks.dataset import DatasetSink
from mpsr.sinks.options import choice

if TYPE_CHECKING:
    from typing import BinaryIO

    from mpsr.sinks.dataset import Writer

_COMPRESSIONS: Final = ("snappy", "zstd", "lz4", "gzip", "none")
_REPEATING: Final = ["host", "time", "pid", "uid", "gid", "producer", "label", "lost"]
_COUNTED: Final = ["sequence", "position"]


def sink(target: str) -> DatasetSink:
    """Return a sink of ``DIR?size=128M&every=1m&partition=hour&compress=snappy``."""
    return DatasetSink(target, "parquet", _writer, {"compress": choice(*_COMPRESSIONS)})


def _writer(file: BinaryIO, given: dict[str, Any]) -> Writer:
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    from mpsr.sinks.columns import SCHEMA  # noqa: PLC0415 - it needs pyarrow

    writer: Writer = pq.ParquetWriter(
        file,
        SCHEMA,
        compression=given.get("compress", "snappy"),
        use_dictionary=_REPEATING,  # one of bodies would cost much, and be given up
        column_encoding=dict.fromkeys(_COUNTED, "DELTA_BINARY_PACKED"),
        write_statistics=[*_REPEATING, *_COUNTED],  # no body is looked for by range
    )
    return writer
