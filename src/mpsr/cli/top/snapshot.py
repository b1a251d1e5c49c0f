"""Print once what a receiver and its producers do, as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.cli.top.model import Model, shown
from mpsr.cli.top.text import cells, columns, head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.observe import Status


def snapshot(looks: Sequence[Status], *, width: int, sort: str, backwards: bool, text: str) -> str:
    """Return the lines about a receiver; the rates are those between the last two looks."""
    model = Model()
    for look in looks:
        model.take(look)
    lines = [said.text for said in head(model)]
    layout = columns(width)
    graphs = {place for place, column in enumerate(layout) if not column.title}
    rows = shown(model.rows, sort=sort, backwards=backwards, text=text)
    table = [[column.title for column in layout], *(cells(row, layout) for row in rows)]
    lines.append("")
    for texts in table if rows else ():
        parts = [
            column.placed(text)
            for place, (text, column) in enumerate(zip(texts, layout, strict=True))
            if place not in graphs
        ]
        lines.append(" ".join(parts).rstrip())
    if not rows:
        lines.append("no producers" + (f" with {text!r}" if text else ""))
    left_out = model.status["producers_left_out"] if model.status is not None else 0
    if left_out:
        lines.append(f"and {left_out:,} more that have sent less")
    return "\n".join(lines) + "\n"
