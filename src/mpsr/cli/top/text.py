"""Put what is known of a receiver into words that fit a terminal's line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from mpsr.amounts import duration, size
from mpsr.cli.stdio import plural
from mpsr.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.cli.top.model import Model, Row
    from mpsr.observe import Consumer, Journal, Status

_BARS: Final = "▁▂▃▄▅▆▇█"


class Said(NamedTuple):
    """A line about the receiver, and how much it matters."""

    text: str
    level: str = ""
    """"alarm", "warning" or nothing."""


class Column(NamedTuple):
    """A column of the table of producers."""

    title: str
    width: int
    sort: str
    right: bool = False

    def placed(self, text: str) -> str:
        """Return a text as long as the column is wide."""
        return text.rjust(self.width) if self.right else text.ljust(self.width)


def columns(width: int) -> list[Column]:
    """Return the columns that a table of so many characters has; one stays free behind each."""
    spare = max(0, width - 80)
    graph = 6 + min(54, spare // 4)
    names = min(30, spare // 4)
    return [
        Column("PID", 7, "pid", right=True),
        Column("PROGRAM", 8 + names, "name"),
        Column("UID", 5, "uid", right=True),
        Column("LABEL", 9 + names, "label"),
        Column("MSGS/S", 8, "messages", right=True),
        Column("", graph, "messages"),
        Column("BYTES/S", 8, "bytes", right=True),
        Column("", graph, "bytes"),
        Column("UNACK", 6, "unacknowledged", right=True),
        Column("LOST", 5, "lost", right=True),
    ]


def cells(row: Row, layout: Sequence[Column]) -> list[str]:
    """Return a row's texts, none longer than its column."""
    seen, rates = row.seen, row.rates
    graph = layout[5].width
    texts = [
        _known(seen["pid"]),
        seen["name"] or "?",
        _known(seen["uid"]),
        seen["label"] or f"({seen['framing']})",
        amount(rates.messages_now),
        sparkline(rates.messages, graph),
        size(rates.bytes_now),
        sparkline(rates.nbytes, graph),
        amount(seen["unacknowledged"]),
        amount(seen["lost"]),
    ]
    return [
        clipped(printable(text), column.width) for text, column in zip(texts, layout, strict=True)
    ]


def head(model: Model) -> list[Said]:
    """Return the lines about the receiver itself."""
    status = model.status
    if status is None:
        return []
    stats = status["stats"]
    where = ", ".join(status["addresses"])
    age = duration(status["now"] - status["started"])
    lines = [
        Said(f"{where}  pid {status['pid']}, uid {status['uid']}, mpsr {status['mpsr']}, up {age}"),
        consumer(status["consumer"]),
        Said(
            f"received: {amount(model.total.messages_now)} messages/s, "
            f"{size(model.total.bytes_now)}/s; in all {stats['messages']:,}; "
            f"{plural(stats['connections'], 'connection')}"
        ),
    ]
    wrong = [
        f"{stats[name]:,} {name}" for name in ("lost", "rejected", "refused") if stats[name]
    ] + [word for name, word in _STATES if stats[name]]
    if wrong:
        lines.append(Said("; ".join(wrong), "warning"))
    if status["journal"] is not None:
        lines += journal(status["journal"])
    lines += sinks(status)
    return [Said(printable(line.text), line.level) for line in lines]


_STATES: Final[tuple[tuple[Literal["paused", "limited"], str], ...]] = (
    ("paused", "accepting is paused: descriptors or connections ran out"),
    ("limited", "a user is at its limit"),
)


def consumer(told: Consumer) -> Said:
    """Return what the receiver's caller is doing."""
    lasts, batch = duration(told["seconds"]), told["batch"]
    what = ""
    if batch is not None:
        whose = f"pid {_known(batch['pid'])}"
        if batch["label"]:
            whose = f'"{batch["label"]}" ({whose})'
        what = f" on {plural(batch['messages'], 'message')}, {size(batch['bytes'])}, of {whose}"
        place = batch["position"]
        what += f", from {batch['first_seq']:,}" if place is None else f", position {place:,}"
    if told["state"] == "stuck":
        return Said(f"consumer STUCK for {lasts}{what}", "alarm")
    return Said(f"consumer {told['state']} for {lasts}{what}")


def journal(told: Journal) -> list[Said]:
    """Return how full the journal is, and how far behind each cursor."""
    used = f"{size(told['bytes'])} of {size(told['limit'])}"
    kept = f"positions {told['first']:,} to {told['next'] - 1:,}"
    lags = ", ".join(f"{each['name']} {each['lag']:,}" for each in told["cursors"])
    where = told["directory"]
    full = "FULL, producers wait: " if told["full"] else ""
    lines = [Said(f"journal {full}{used}, {kept}, in {where}", "alarm" if full else "")]
    return [*lines, Said(f"messages behind: {lags}")] if lags else lines


def sinks(status: Status) -> list[Said]:
    """Return how each sink gets on, a line each."""
    lines = []
    for each in status["sinks"]:
        line = f"sink {each['name']} {each['state']}"
        line += f" for {duration(status['now'] - each['since'])}, {each['lag']:,} messages behind"
        line += f", {each['delivered']:,} delivered"
        rejected = each.get("rejected", 0)
        line += f", {rejected:,} rejected" if rejected else ""
        error = each["error"]
        line += f": {error}" if error else ""
        lines.append(Said(line, "warning" if error else ""))
    return lines


def amount(number: float) -> str:
    """Return a number in at most 6 characters: ``0``, ``1.5``, ``12,345``, ``1.2M``."""
    if number >= 99_999.5:  # noqa: PLR2004 - what has six digits
        for unit in "kMG":
            number /= 1000
            if number < 999.5 or unit == "G":  # noqa: PLR2004 - three digits
                return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"  # noqa: PLR2004 - …
    if number != int(number) and number < 9.95:  # noqa: PLR2004 - …
        return f"{number:.1f}"
    return f"{number:,.0f}"


def sparkline(numbers: Sequence[float], width: int) -> str:
    """Return the last numbers as bars, the largest of them the highest; zero is blank."""
    last = numbers[-width:]
    most = max(last, default=0.0)
    if not most:
        return ""
    top = len(_BARS) - 1
    bars = "".join(_BARS[round(each / most * top)] if each else " " for each in last)
    return bars.rjust(width)


def clipped(text: str, width: int) -> str:
    """Return a text that fits, with a mark where it was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)
