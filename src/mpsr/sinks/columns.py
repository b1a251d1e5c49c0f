"""Turn batches into columns of Apache Arrow, without touching their messages one by one."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mpsr.forwarding import MAGIC, taken_apart
from mpsr.json_format import host_name, to_json

if TYPE_CHECKING:
    from mpsr.batch import Batch

_WORD = pa.dictionary(pa.int32(), pa.string())  # few values, each in many rows
SCHEMA: pa.Schema = pa.schema(
    [
        ("host", _WORD),
        ("time", pa.timestamp("us", tz="UTC")),
        ("pid", pa.int64()),
        ("uid", pa.int64()),
        ("gid", pa.int64()),
        ("producer", _WORD),
        ("label", _WORD),
        ("sequence", pa.int64()),
        ("position", pa.int64()),
        ("lost", pa.int64()),
        ("origin", pa.string()),
        ("body", pa.binary()),
    ]
)


class Columns:
    """Batches that become one table.

    What holds for a whole batch is kept once, with the batch's number beside each row; bodies
    stay in the batch's memory.

    Attributes:
        nbytes: bytes of their messages.

    """

    def __init__(self) -> None:
        self._host = host_name()
        self._counted = array("q")  # 0, 1, 2, …
        self.clear()

    def clear(self) -> None:
        """Forget them."""
        self.nbytes: int = 0
        self._batch_of = array("i")  # of each row, the number of its batch
        self._lost = array("q")
        self._origins: list[str | None] | None = None  # of each row, once one has any
        self._bodies: list[pa.Array] = []
        self._times: list[int] = []  # from here on: of each batch
        self._peers: list[tuple[int | None, int | None, int | None]] = []
        self._producers: list[tuple[str | None, str | None]] = []
        # A number and the row's own number are the sequence number, and the position.
        self._sequences: list[int] = []
        self._positions: list[int | None] = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._batch_of)

    def add(self, batch: Batch[Any], time_us: int) -> None:
        """Add a batch, received at this time; one that only tells of a loss is a row, too."""
        row, rows = len(self), len(batch) or 1
        self._batch_of.extend(array("i", [len(self._times)]) * rows)
        self._lost.frombytes(bytes(self._lost.itemsize * rows))
        self._lost[row] = batch.lost
        self.nbytes += batch.nbytes
        self._times.append(time_us)
        self._peers.append((batch.peer.pid, batch.peer.uid, batch.peer.gid))
        producer = batch.producer
        self._producers.append(
            (None, None) if producer is None else (producer[0].hex(), producer[1])
        )
        self._sequences.append(batch.first_seq - row)
        last = batch.position
        self._positions.append(None if last is None else last - rows + 1 - row)
        self._add_bodies(batch, row)

    def _add_bodies(self, batch: Batch[Any], row: int) -> None:
        first = next(batch.iter_raw(), None)
        if first is None:
            self._bodies.append(pa.nulls(1, pa.binary()))
        elif first.startswith(MAGIC) and (apart := taken_apart(batch.raw)) is not None:
            if self._origins is None:
                self._origins = [None] * row
            self._origins += [None if m.origin is None else to_json(m.origin) for m in apart]
            self._bodies.append(pa.array([m.body for m in apart], pa.binary()))
            return
        else:
            bodies = batch.to_arrow()
            self._bodies.append(bodies if bodies.type == pa.binary() else bodies.cast(pa.binary()))
        if self._origins is not None:
            self._origins += [None] * (len(self) - row)

    def _numbers(self, rows: int) -> pa.Array:
        """Return the numbers of so many rows."""
        if len(self._counted) < rows:
            self._counted = array("q", range(2 * rows))
        return pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(self._counted)])

    def table(self) -> pa.Table:
        """Return them as a table of ``SCHEMA``."""
        rows = len(self)
        batch_of = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(self._batch_of)])
        lost = pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(self._lost)])
        numbers = self._numbers(rows)
        pids, uids, gids = zip(*self._peers, strict=True)
        ids, labels = zip(*self._producers, strict=True)
        times = pa.array(self._times, pa.timestamp("us", tz="UTC"))

        def spread(values: Any) -> pa.Array:  # noqa: ANN401 - of any type
            return pc.take(pa.array(values, pa.int64()), batch_of)

        def words(values: Any) -> pa.Array:  # noqa: ANN401 - of any type
            found = pa.array(values, pa.string()).dictionary_encode()
            indices = pc.take(found.indices, batch_of)
            return pa.DictionaryArray.from_arrays(indices, found.dictionary)

        return pa.Table.from_arrays(
            [
                words([self._host] * len(self._times)),
                pc.take(times, batch_of),
                spread(pids),
                spread(uids),
                spread(gids),
                words(ids),
                words(labels),
                pc.add(spread(self._sequences), numbers),
                pc.add(spread(self._positions), numbers),
                lost,
                pa.nulls(rows, pa.string())
                if self._origins is None
                else pa.array(self._origins, pa.string()),
                pa.chunked_array(self._bodies, pa.binary()),
            ],
            schema=SCHEMA,
        )
