"""Tell what a journal holds, in words or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from mpsr.amounts import size
from mpsr.cli.journal.tally import missing_text
from mpsr.json_format import local_time
from mpsr.names import all_in_utf8, printable

if TYPE_CHECKING:
    from mpsr.cli.journal.tally import Tally
    from mpsr.store.state import State


class Survey(NamedTuple):
    """A journal at one moment."""

    path: str
    used: int
    """Bytes that it takes on the disk."""
    trimmed: int
    """The position up to which everything is gone."""
    state: State
    tally: Tally


def as_text(survey: Survey) -> str:
    """Return a few lines."""
    path, used, trimmed, state, tally = survey
    lines = [
        ("journal", f"{printable(path)}, {size(used)} on the disk"),
        ("messages", f"{tally}, {size(tally.total.nbytes)}"),
    ]
    if trimmed < state.last:
        lines.append(("positions", f"{trimmed + 1:,} to {state.last:,}"))
    if tally.first:
        lines.append(("received", f"{local_time(tally.first)} to {local_time(tally.last)}"))
    if tally.lost:
        lines.append(("lost", f"{tally.lost:,}, as the producers reported"))
    if tally.noted:
        lines.append(("missing", missing_text(tally.noted)))
    for name, position in sorted(state.cursors.items()):
        behind = f"{state.last - position:,} behind"
        lines.append(("cursor", f"{printable(name)} at {position:,}, {behind}"))
    for (uid, producer), count in tally.by_producer.items():
        who = (
            "others"
            if producer is None
            else f"{printable(producer.label) or '-'} {producer.id.hex()}"
        )
        by = "an unknown user" if uid is None else f"uid {uid}"
        held = f"{count.messages:,} messages, {size(count.nbytes)}"
        lines.append(("producer", f"{who} of {by}: {held}"))
    lines.append(("known", f"{len(state.producers):,} producers, by their sequence numbers"))
    return "".join(f"{what:<11} {text}\n" for what, text in lines)


def as_json(survey: Survey) -> str:
    """Return one document."""
    path, used, trimmed, state, tally = survey
    document = {
        "path": path,
        "used_bytes": used,
        "trimmed": trimmed,
        "last": state.last,
        "batches": tally.batches,
        "messages": tally.total.messages,
        "bytes": tally.total.nbytes,
        "lost": tally.lost,
        "missing": tally.noted,
        "first_received": local_time(tally.first),
        "last_received": local_time(tally.last),
        "cursors": state.cursors,
        "producers": [
            {
                "uid": uid,
                "id": producer and producer.id.hex(),
                "label": producer and producer.label,
                "messages": count.messages,
                "bytes": count.nbytes,
            }
            for (uid, producer), count in tally.by_producer.items()
        ],
        "known_producers": len(state.producers),
    }
    return json.dumps(all_in_utf8(document), indent=2) + "\n"
