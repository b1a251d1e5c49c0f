"""Print the messages that a journal holds: ``mpsr log``."""

from __future__ import annotations

import pwd
from binascii import hexlify
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from mpsr.cli import types
from mpsr.cli.formats import FORMATS, content, local_time, origin
from mpsr.cli.signals import immediate_end
from mpsr.cli.status import Status
from mpsr.cli.stdio import Stdout, plural, printable
from mpsr.errors import JournalError
from mpsr.journal import Journal, Record
from mpsr.limits import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpsr.journal import Entry

_WRITE: Final = 64 * KIB  # bytes that are printed at once
_WINDOW: Final = 4 * MIB  # bytes, about, that are read at once when going backwards
_MICROSECOND: Final = 1000  # nanoseconds
_SHORTEST_ID: Final = 8  # digits of a producer's id that stand for it

_TELL_LOSSES: Final = ("short", "json")  # the formats that can

_HELP: Final = """\
Print the messages of a journal, the oldest first, and those too that its readers are done with,
until they are trimmed.

\b
Examples:
  mpsr log events.db
  mpsr log events.db -n 20 -r
  mpsr log events.db --since -1h --producer web
  mpsr log events.db --since yesterday --until today -o json | jq .body
  mpsr log events.db -o text > messages

One process uses a journal at a time: while a receiver has it open this is refused (exit 75), and
while this reads, a receiver is.
"""


class _Item(NamedTuple):
    """What stands at a position: a message, or that messages were lost."""

    position: int
    seq: int
    lost: int
    body: bytes | None
    entry: Entry


def _uid(text: str) -> int:
    """Return a user's number."""
    try:
        return int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {text!r}; give a name or number") from None


@click.command(
    help=_HELP,
    short_help="Print the messages that a journal holds.",
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("file")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N of them."
)
@click.option("-r", "--reverse", is_flag=True, help="The newest first.")
@click.option(
    "--since",
    type=types.moment,
    metavar="TIME",
    help="Those received then or later: 2026-03-01, '2026-03-01 12:00', 12:00, today, yesterday, "
    "-90s, -1h, -7d.",
)
@click.option("--until", type=types.moment, metavar="TIME", help="Those received then or earlier.")
@click.option(
    "--producer",
    "producers",
    multiple=True,
    metavar="NAME",
    help="Those of the producer of this label, or whose id begins so (8 digits or more).",
)
@click.option(
    "--uid",
    "uids",
    type=_uid,
    multiple=True,
    metavar="USER",
    help="Those of this user's processes.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["short", *FORMATS]),
    default="short",
    help="short: when, who, and the message, a line each. text, json, hex, raw: as mpsr recv "
    "prints them.  [default: short]",
)
def log(
    *,
    file: str,
    lines: int | None,
    reverse: bool,
    since: int | None,
    until: int | None,
    producers: tuple[str, ...],
    uids: tuple[int, ...],
    output: str,
) -> Status:
    """Run ``mpsr log``."""
    screen = Stdout()

    def wanted(entry: Entry) -> bool:
        return (
            (since is None or since <= entry.received_at // _MICROSECOND)
            and (until is None or 0 < entry.received_at // _MICROSECOND <= until)
            and (not uids or entry.peer.uid in uids)
            and (not producers or any(_is_of(entry, name) for name in producers))
            and not (output not in _TELL_LOSSES and entry.empty)
        )

    with immediate_end(), Journal(file, create=False) as journal:
        backwards = reverse or lines is not None
        items = (_backwards if backwards else _forwards)(journal, wanted)
        if lines is not None:
            items = islice(items, lines)
            items = items if reverse else iter(_reversed(items))
        _print(screen, map(_FORMATS[output], items))
    return Status.OK


def _is_of(entry: Entry, name: str) -> bool:
    if entry.producer is None:
        return False
    begins = len(name) >= _SHORTEST_ID and entry.producer.id.hex().startswith(name.lower())
    return begins or entry.producer.label == name


# -- reading ------------------------------------------------------------------------------------


def _forwards(journal: Journal, wanted: Callable[[Entry], bool]) -> Iterator[_Item]:
    for record in _records(journal, journal.trimmed, journal.last):
        if wanted(record.entry):
            yield from _items(record)


def _backwards(journal: Journal, wanted: Callable[[Entry], bool]) -> Iterator[_Item]:
    """Give the newest first, from windows of positions; a batch may come in pieces."""
    before, window = journal.last, 1
    while before > journal.trimmed:
        after = max(journal.trimmed, before - window)
        nbytes = 1
        items: list[_Item] = []
        for record in _records(journal, after, before):
            nbytes += record.entry.nbytes
            if wanted(record.entry):
                items += _items(record)
        yield from (item for item in reversed(items) if item.position <= before)
        before, window = after, max(1, min(2 * window, window * _WINDOW // nbytes))


def _records(journal: Journal, after: int, until: int) -> Iterator[Record]:
    """Give what holds the positions from ``after`` to ``until``; a batch may go beyond."""
    while after < until:
        for record in journal.read(after):
            after, entry = record
            beyond = after - until
            if beyond > 0 and entry.gone:  # nobody will count them one by one
                record = Record(  # noqa: PLW2901 - its part
                    until, entry._replace(length=entry.length - beyond)
                )
            yield record
            if beyond >= 0:
                return


def _items(record: Record) -> list[_Item]:
    position, entry = record
    batch = entry.batch()
    if not batch:
        return [_Item(position, entry.first_seq, batch.lost, None, entry)]
    first = position - len(batch)
    items = [
        _Item(first + n, entry.first_seq + n - 1, 0, body, entry)
        for n, body in enumerate(batch.raw, 1)
    ]
    items[0] = items[0]._replace(lost=batch.lost)
    return items


def _reversed(items: Iterable[_Item]) -> deque[_Item]:
    found: deque[_Item] = deque()
    found.extendleft(items)
    return found


# -- printing -----------------------------------------------------------------------------------


def _print(screen: Stdout, lines: Iterable[bytes]) -> None:
    waiting: list[bytes] = []
    size = 0
    try:
        for line in lines:
            waiting.append(line)
            size += len(line)
            if size >= _WRITE:
                data = b"".join(waiting)
                waiting, size = [], 0
                screen.write(data)
    except JournalError:  # what comes before the damage is good
        screen.write(b"".join(waiting))
        raise
    screen.write(b"".join(waiting))


def _short(item: _Item) -> bytes:
    entry = item.entry
    label = printable(entry.producer.label) if entry.producer is not None else ""
    pid = "?" if entry.peer.pid is None else entry.peer.pid
    head = f"{local_time(entry.received_at) or '-'} {label or '-'}[{pid}]: "
    text = f"{head}-- {plural(item.lost, 'message')} lost --\n" if item.lost else ""
    if item.body is not None:
        text += f"{head}{printable(item.body.decode('utf-8', 'backslashreplace'))}\n"
    return text.encode("utf-8", "backslashreplace")


def _json(item: _Item) -> bytes:
    entry = item.entry
    head = origin(local_time(entry.received_at), entry.peer, entry.producer)[1:]
    losing = f',"lost":{item.lost}' if item.lost else ""
    body = "" if item.body is None else f",{content(item.body)}"
    line = f'{{"position":{item.position},{head},"seq":{item.seq}{losing}{body}}}\n'
    return line.encode()


def _text(item: _Item) -> bytes:
    return _raw(item) + b"\n"


def _hex(item: _Item) -> bytes:
    return hexlify(_raw(item)) + b"\n"


def _raw(item: _Item) -> bytes:
    return item.body or b""


_FORMATS: Final = {"short": _short, "text": _text, "json": _json, "hex": _hex, "raw": _raw}
