"""Turn a batch into rows of a table, and say what the table is."""

from __future__ import annotations

import re
from itertools import count, repeat
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError
from mpsr.forwarding import taken_apart
from mpsr.json_format import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mpsr.batch import Batch

COLUMNS: Final = {  # name: (SQLite's type, DuckDB's)
    "journal": ("TEXT", "VARCHAR"),
    "position": ("INTEGER", "BIGINT"),
    "received_at": ("INTEGER", "BIGINT"),
    "pid": ("INTEGER", "BIGINT"),
    "uid": ("INTEGER", "BIGINT"),
    "gid": ("INTEGER", "BIGINT"),
    "producer": ("BLOB", "BLOB"),
    "label": ("TEXT", "VARCHAR"),
    "seq": ("INTEGER", "BIGINT"),
    "lost": ("INTEGER", "BIGINT"),
    "origin": ("TEXT", "VARCHAR"),
    "body": ("BLOB", "BLOB"),
}
PROGRESS: Final = "mpsr_progress"  # the table that holds the positions

_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def table_name(text: str) -> str:
    """Return the name of a table."""
    if not _TABLE.fullmatch(text) or text.lower() == PROGRESS:
        raise ConfigurationError("it must be a name of letters, digits and _")
    return text


def rows_of(batch: Batch[Any], journal: str) -> Iterator[tuple[Any, ...]]:
    """Give a row for each message; for a loss that stands alone one without a body."""
    producer, label = batch.producer or (None, None)
    messages = list(batch.iter_raw())
    bodies: Sequence[bytes | None] = messages
    apart = taken_apart(messages)
    claims: Iterable[str | None] = repeat(None)
    if apart is not None:
        bodies = [each.body for each in apart]
        claims = [None if each.origin is None else to_json(each.origin) for each in apart]
    bodies = bodies or [None]
    positions: Iterator[int | None] = repeat(None)
    if batch.position is not None:
        positions = count(batch.position - len(bodies) + 1)
    peer, at = batch.peer, batch.received_at
    lost = batch.lost
    for position, seq, claim, body in zip(positions, count(batch.first_seq), claims, bodies):
        yield (
            journal,
            position,
            at,
            peer.pid,
            peer.uid,
            peer.gid,
            producer,
            label,
            seq,
            lost,
            claim,
            body,
        )
        lost = 0
