"""Tell what a journal holds, in words or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mpsr.cli.formats import local_time
from mpsr.cli.stdio import printable

if TYPE_CHECKING:
    from mpsr.cli.journal.tally import Tally
    from mpsr.journal import Journal


def as_text(journal: Journal, tally: Tally) -> str:
    """Return a few lines."""
    first, last = journal.trimmed + 1, journal.last
    lines = [
        ("file", f"{printable(journal.path)}, {journal.used:,} bytes in use"),
        ("messages", f"{tally}, {tally.total.nbytes:,} bytes"),
    ]
    if first <= last:
        lines.append(("positions", f"{first:,} to {last:,}"))
    if tally.first:
        lines.append(("received", f"{local_time(tally.first)} to {local_time(tally.last)}"))
    if tally.lost:
        lines.append(("lost", f"{tally.lost:,}, as the producers reported"))
    if tally.missing:
        lines.append(("missing", tally.missing_text()))
    for name, position in sorted(journal.cursors().items()):
        lines.append(("cursor", f"{printable(name)} at {position:,}, {last - position:,} behind"))
    for (uid, producer), count in tally.by_producer.items():
        who = (
            "others"
            if producer is None
            else f"{printable(producer.label) or '-'} {producer.id.hex()}"
        )
        by = "an unknown user" if uid is None else f"uid {uid}"
        held = f"{count.messages:,} messages, {count.nbytes:,} bytes"
        lines.append(("producer", f"{who} of {by}: {held}"))
    lines.append(("known", f"{len(journal.tracks()):,} producers, by their sequence numbers"))
    return "".join(f"{what:<11} {text}\n" for what, text in lines)


def as_json(journal: Journal, tally: Tally) -> str:
    """Return one document."""
    document = {
        "path": journal.path,
        "used_bytes": journal.used,
        "trimmed": journal.trimmed,
        "last": journal.last,
        "batches": tally.batches,
        "messages": tally.total.messages,
        "bytes": tally.total.nbytes,
        "lost": tally.lost,
        "missing": tally.missing,
        "first_received": local_time(tally.first),
        "last_received": local_time(tally.last),
        "cursors": journal.cursors(),
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
        "known_producers": len(journal.tracks()),
    }
    return json.dumps(document, indent=2) + "\n"
