"""Tell what a receiver is doing: ``mpsr status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from mpsr.amounts import duration, size
from mpsr.cli import types
from mpsr.cli.common import receiver_uid
from mpsr.cli.status import Status
from mpsr.cli.stdio import Stdout, plural
from mpsr.json_format import to_json
from mpsr.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpsr import observe
    from mpsr.system.trust import ReceiverUid

_WIDEST: Final = 80  # characters to which the cells of a column are padded: one may be longer
_SHOWN: Final = 10  # producers in a text: a look fits the screen, and -o json has them all

_HELP: Final = """\
Tell what the receiver at ADDRESS is doing: a look, from its own thread.

\b
Examples:
  mpsr status app.sock
  mpsr status app.sock -o json | jq .consumer

The receiver answers also while whoever handles its messages is stuck, and then says since when and
on what. It answers its own user, root, and the users of its --observer. A receiver of datagrams
alone cannot be asked.
"""


answer_timeout = click.option(  # of what asks a receiver
    "--timeout",
    type=types.duration,
    metavar="TIME",
    default="2s",
    help="Give up (exit 124), and say why, when there is no answer for so long.  [default: 2s]",
)


@click.command(
    help=_HELP,
    short_help="Tell what a receiver is doing.",
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("address", metavar="ADDRESS")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="text: for people. json: an object with everything.  [default: text]",
)
@answer_timeout
@receiver_uid
def status(*, address: str, output: str, timeout: float, receiver_uid: ReceiverUid) -> Status:
    """Run ``mpsr status``."""
    from mpsr import observe  # noqa: PLC0415 - loaded once the command line makes sense

    seen = observe.status(address, timeout=timeout, receiver_uid=receiver_uid)
    lines = [to_json(seen)] if output == "json" else text(seen)
    Stdout().write("".join(f"{line}\n" for line in lines).encode())
    return Status.OK


def text(seen: observe.Status) -> list[str]:
    """Return a status as lines of text."""
    return [*map(printable, _lines(seen))]


def _lines(seen: observe.Status) -> Iterator[str]:
    stats = seen["stats"]
    where = ", ".join(seen["addresses"])
    up = duration(seen["now"] - seen["started"])
    yield f"receiver   pid {seen['pid']}, uid {seen['uid']}, mpsr {seen['mpsr']}"
    yield f"           up {up}, at {where}"
    yield f"consumer   {consumer(seen['consumer'])}"
    yield (
        f"received   {plural_of(stats['messages'], 'message')}, {size(stats['nbytes'])}, "
        f"{stats['lost']:,} lost"
    )
    more = [
        f"{stats[name]:,} {name}" for name in ("rejected", "refused", "discarded") if stats[name]
    ]
    more += [word for word in ("paused", "limited") if stats[word]]
    connections = f"{stats['connections']:,} now, {stats['accepted']:,} in all"
    yield f"connected  {', '.join([connections, *more])}"
    if seen["producers"]:
        yield ""
        yield from _producers(seen)
    journal = seen["journal"]
    if journal is not None:
        yield ""
        full = ", FULL: producers wait" if journal["full"] else ""
        held = f"{size(journal['bytes'])} of {size(journal['limit'])}{full}"
        yield f"journal    {journal['directory']}: {held}"
        rows = [("CURSOR", "POSITION", "BEHIND")]
        rows += [
            (each["name"], f"{each['position']:,}", f"{each['lag']:,}")
            for each in journal["cursors"]
        ]
        yield from table(rows, left=1)
    for sink in seen["sinks"]:
        error = "" if sink["error"] is None else f": {sink['error']}"
        state = f"{sink['state']}, {plural_of(sink['lag'], 'message')} behind"
        state += f", {sink['delivered']:,} delivered"
        if sink.get("rejected"):
            state += f", {sink['rejected']:,} rejected"
        yield f"sink       {sink['name']}: {state}{error}"


def _producers(seen: observe.Status) -> Iterator[str]:
    rows = [("PID", "UID", "MESSAGES", "BYTES", "UNACKED", "LOST", "PROGRAM", "LABEL")]
    shown = seen["producers"][:_SHOWN]
    for each in shown:
        name = "?" if each["name"] is None else each["name"]
        label = f"({each['framing']})" if each["label"] is None else each["label"]
        rows.append(
            (
                "?" if each["pid"] is None else str(each["pid"]),
                "?" if each["uid"] is None else str(each["uid"]),
                f"{each['messages']:,}",
                size(each["bytes"]),
                f"{each['unacknowledged']:,}",
                f"{each['lost']:,}",
                name,
                label,
            )
        )
    yield from table(rows, left=0, texts=2)
    left = len(seen["producers"]) - len(shown) + seen["producers_left_out"]
    if left:
        yield f"  and {left:,} more"


def consumer(seen: observe.Consumer) -> str:
    """Say what the receiver's caller is doing."""
    batch = seen["batch"]
    time = duration(seen["seconds"])
    if batch is None:
        if seen["state"] == "stuck":
            return f"stuck for {time}: the program does not call the receiver, and messages wait"
        return f"{seen['state']} for {time}"
    first = batch["first_seq"]
    messages = f"message {first:,}"
    if batch["messages"] > 1:
        messages = f"messages {first:,} to {first + batch['messages'] - 1:,}"
    who = "a foreign producer" if batch["producer"] is None else "a producer"
    if batch["label"]:
        who = f'producer "{batch["label"]}"'
    pid = "" if batch["pid"] is None else f" (pid {batch['pid']})"
    doing = f"stuck for {time} on" if seen["state"] == "stuck" else f"handling for {time}"
    return f"{doing} {messages} of {who}{pid}"


def table(rows: Sequence[tuple[str, ...]], *, left: int, texts: int = 0) -> Iterator[str]:
    """Return rows in columns: numbers to the right, the first ``left`` and last ``texts`` not."""
    rows = [tuple(map(printable, row)) for row in rows]
    longest = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths = [min(each, _WIDEST) for each in longest]
    last = len(widths) - texts
    for row in rows:
        cells = [
            cell.ljust(width) if not left <= column < last else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def plural_of(count: int, what: str) -> str:
    """Return ``1,234 messages``."""
    return plural(count, what).replace(str(count), f"{count:,}", 1)
