"""Print the messages that a journal holds: ``mpsr log``."""

from __future__ import annotations

from binascii import hexlify
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import click

from mpsr.cli import types
from mpsr.cli.formats import DECODERS, FORMATS, check_decoder, syslog_item
from mpsr.cli.signals import immediate_end
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, plural, printable
from mpsr.cli.trimmed import first_of, tell_trimmed
from mpsr.errors import Explanation, JournalError, NoJournal, NotAJournal
from mpsr.json_format import content, local_time, origin
from mpsr.limits import KIB, MIB
from mpsr.store.reader import Reader
from mpsr.store.segments import Segment, list_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpsr.cli.records import Records
    from mpsr.store.records import Entry, Record

_WRITE: Final = 64 * KIB  # bytes that are printed at once
_WINDOW: Final = 4 * MIB  # bytes, about, that are read at once when going backwards
_MOST: Final = 4096  # messages of a batch that are made ready at once
_CHECK_INTERVAL: Final = 0.1  # seconds between two checks for new messages
_MICROSECOND: Final = 1000  # nanoseconds
_SHORTEST_ID: Final = 8  # digits of a producer's id that stand for it

_TELL_LOSSES: Final = ("short", "json")  # the formats that can

_HELP: Final = """\
Print the messages of a journal, the oldest first, and those too that its readers are done with,
until they are trimmed.

\b
Examples:
  mpsr log events.journal
  mpsr log events.journal -f
  mpsr log events.journal -n 20 -r
  mpsr log events.journal --since -1h --producer web
  mpsr log events.journal --since yesterday --until today -o json | jq .body
  mpsr log events.journal -o text > messages
  mpsr log app.journal --decode log --level WARNING

DIR may be in use, and be read-only: this changes nothing in it, and no receiver waits for it.
"""


class _Part(NamedTuple):
    """Messages of one batch that follow each other, or that messages were lost."""

    position: int
    """Of the first."""
    seq: int
    """Of the first."""
    lost: int
    """How many messages were lost before the first."""
    bodies: list[bytes]
    """None where messages were lost and this is all there is to tell."""
    entry: Entry

    @property
    def size(self) -> int:
        """How many lines it counts as."""
        return len(self.bodies) or 1

    def cut(self, begin: int, end: int) -> _Part:
        """Return some of its messages; a loss is reported with the first."""
        if (begin, end) == (0, self.size):
            return self
        lost = 0 if begin else self.lost
        return _Part(
            self.position + begin, self.seq + begin, lost, self.bodies[begin:end], self.entry
        )


if TYPE_CHECKING:
    Choose = Callable[[Record], Iterable[_Part]]
    """Gives what is wanted of a batch."""


@click.command(
    help=_HELP,
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("directory", metavar="DIR")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N of them."
)
@click.option("-r", "--reverse", is_flag=True, help="The newest first.")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Then print what comes, as it comes, until Ctrl-C; with -n 0, only that.",
)
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
    type=types.user_id,
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
@click.option(
    "--decode",
    type=click.Choice(DECODERS),
    help="log: show the records of mpsr.logging as people read them, or, with -o json, add their "
    "fields. syslog: with -o json, add the fields of a syslog message.",
)
@click.option(
    "--level",
    type=types.level,
    metavar="LEVEL",
    help="With --decode log: only records of this level (INFO, WARNING, 35) or a higher one.",
)
def log(
    *,
    directory: str,
    lines: int | None,
    reverse: bool,
    follow: bool,
    since: int | None,
    until: int | None,
    producers: tuple[str, ...],
    uids: tuple[int, ...],
    output: str,
    decode: str | None,
    level: int | None,
) -> Status:
    """Run ``mpsr log``."""
    if follow and reverse:
        raise click.UsageError(
            Explanation("--follow and --reverse exclude each other", "there is no newest yet")
        )
    check_decoder(decode, output, level, readable="short")
    records = None
    if decode == "log":
        from mpsr.cli.records import Records  # noqa: PLC0415 - few decode

        records = Records(b"\n", level or 0)
    screen = Stdout()

    def wanted(entry: Entry) -> bool:
        return (
            (since is None or since <= entry.received_at // _MICROSECOND)
            and (until is None or 0 < entry.received_at // _MICROSECOND <= until)
            and (not uids or entry.peer.uid in uids)
            and (not producers or any(_is_of(entry, name) for name in producers))
            and not (output not in _TELL_LOSSES and entry.empty)
        )

    def choose(record: Record) -> Iterator[_Part]:
        for part in _parts(record) if wanted(record.entry) else ():
            yield from (part,) if records is None else _kept(part, records.wanted)

    with (
        immediate_end(),
        Reader(directory) as reader,
        _Printer(screen, _form(output, decode, records)) as printer,
    ):
        position = reader.trimmed
        if reverse or lines is not None:
            position = reader.recover().state.last
            backwards = _backwards(reader, position, choose)
            if reverse:
                printer.print(islice((each for part in backwards for each in _single(part)), lines))
            else:
                printer.print(_last(backwards, lines or 0))
        else:
            position = _print_rest(reader, position, choose, printer)
            reader.recover()  # raises JournalDamaged if there was more
        if follow:
            printer.flush()
            _follow(reader, position, choose, printer, screen)
    return Status.OK


def _is_of(entry: Entry, name: str) -> bool:
    if entry.producer is None:
        return False
    begins = len(name) >= _SHORTEST_ID and entry.producer.id.hex().startswith(name.lower())
    return begins or entry.producer.label == name


# -- reading ------------------------------------------------------------------------------------


def _print_rest(reader: Reader, position: int, choose: Choose, printer: _Printer) -> int:
    """Print what follows a position; return where it ends."""
    while records := reader.read(position):
        tell_trimmed(position + 1, first_of(records[0]) - 1)
        for record in records:
            printer.print(choose(record))
        position = records[-1].position
    return position


def _follow(
    reader: Reader, position: int, choose: Choose, printer: _Printer, screen: Stdout
) -> None:
    """Print what comes behind a position, until a signal ends it, or nobody reads any more."""
    followed = _log_id(reader.path)
    while True:
        screen.pause(_CHECK_INTERVAL)
        try:
            position = _print_rest(reader, position, choose, printer)
        except (NoJournal, NotAJournal):
            gone = True
        else:
            gone = followed != _log_id(reader.path, followed)
        printer.flush()
        if gone:
            error = Explanation(
                f"{reader.path} is not there any more",
                "it was moved or removed while it was followed",
                "follow it again, once there is a journal",
            )
            raise CommandFailed(Status.CONFIGURATION, error)


def _log_id(path: str, unknown: bytes = b"") -> bytes:
    """Return what tells the journal that is at a path from all others."""
    with suppress(OSError, IndexError), Segment(path, list_segments(path)[-1]) as newest:
        return newest.header.id if newest.header is not None else unknown
    return unknown


def _backwards(reader: Reader, last: int, choose: Choose) -> Iterator[_Part]:
    """Give the newest first, from windows of positions; a batch may come in pieces."""
    floor, before, window = reader.trimmed, last, 1
    while before > floor:
        after = max(floor, before - window)
        nbytes, begin = 1, before + 1
        parts: list[_Part] = []
        for record in _records(reader, after, before):
            begin = min(begin, first_of(record))
            nbytes += record.entry.nbytes
            parts += choose(record)
        for part in reversed(parts):
            if part.position <= before:
                yield part.cut(0, min(part.size, before + 1 - part.position))
        if begin > after + 1:  # then all before it is gone, too
            return tell_trimmed(floor + 1, begin - 1)
        before, window = after, max(1, min(2 * window, window * _WINDOW // nbytes))
    return None


def _records(reader: Reader, after: int, until: int) -> Iterator[Record]:
    """Give what holds the positions from ``after`` to ``until``; a batch may go beyond."""
    while after < until:
        records = reader.read(after)
        for record in records:
            if first_of(record) > until:
                return
            after, entry = record
            beyond = after - until
            if beyond > 0 and entry.gone:  # nobody will count them one by one
                yield record._replace(
                    position=until, entry=entry._replace(length=entry.length - beyond)
                )
            else:
                yield record
            if beyond >= 0:
                return
        if not records:
            return


def _parts(record: Record) -> Iterator[_Part]:
    position, entry = record
    batch = entry.batch()
    whole = _Part(position, entry.first_seq, batch.lost, batch.raw, entry)
    if not batch:
        yield whole
        return
    whole = whole._replace(position=first_of(record))
    for begin in range(0, whole.size, _MOST):
        yield whole.cut(begin, min(begin + _MOST, whole.size))


def _kept(part: _Part, wanted: Callable[[bytes], bool]) -> Iterator[_Part]:
    """Give what is left of it without the messages that are not wanted; its loss stays."""
    begin, lost = 0, part.lost
    for keep, run in groupby(part.bodies, wanted):
        end = begin + len([*run])
        if keep:
            yield part.cut(begin, end)._replace(lost=lost)
            lost = 0
        begin = end
    if lost:
        yield part._replace(bodies=[], lost=lost)


def _single(part: _Part) -> Iterator[_Part]:
    """Give one message after the other, the last first."""
    return (part.cut(index, index + 1) for index in reversed(range(part.size)))


def _last(backwards: Iterator[_Part], count: int) -> Iterator[_Part]:
    """Give the newest ``count`` messages, the oldest first."""
    found: list[_Part] = []
    while count > 0 and (part := next(backwards, None)) is not None:
        found.append(part.cut(max(0, part.size - count), part.size))
        count -= part.size
    return reversed(found)


# -- printing -----------------------------------------------------------------------------------


class _Printer:
    """Prints in one format, much at once; at its end, what is left, also before a damage."""

    def __init__(self, screen: Stdout, form: Callable[[_Part], bytes]) -> None:
        self._screen = screen
        self._form = form
        self._waiting: list[bytes] = []
        self._size = 0

    def print(self, parts: Iterable[_Part]) -> None:
        """Print messages, sooner or later."""
        for part in parts:
            text = self._form(part)
            self._waiting.append(text)
            self._size += len(text)
            if self._size >= _WRITE:
                self.flush()

    def flush(self) -> None:
        """Print what waits."""
        text = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._screen.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, JournalError):
            self.flush()


def _form(output: str, decode: str | None, records: Records | None) -> Callable[[_Part], bytes]:
    """Return what prints messages in a format, with what a decoder finds in them."""
    if output == "json":
        item = records.item if records is not None else syslog_item if decode else None
        return partial(_json, decode=item)
    return _FORMATS[output] if records is None else partial(_readable, records=records)


def _readable(part: _Part, records: Records) -> bytes:
    label = "" if part.entry.producer is None else part.entry.producer.label
    losing = _short(part._replace(bodies=[])) if part.lost else b""
    return losing + records.lines(part.bodies, label)


def _short(part: _Part) -> bytes:
    entry = part.entry
    label = printable(entry.producer.label) if entry.producer is not None else ""
    pid = "?" if entry.peer.pid is None else entry.peer.pid
    head = f"{local_time(entry.received_at) or '-'} {label or '-'}[{pid}]: "
    texts = [body.decode("utf-8", "backslashreplace") for body in part.bodies]
    if not "".join(texts).isprintable():
        texts = [*map(printable, texts)]
    if part.lost:
        texts.insert(0, f"-- {plural(part.lost, 'message')} lost --")
    lines = [f"\n{head}".join(texts), "\n"]
    return "".join([head, *lines] if texts else []).encode("utf-8", "backslashreplace")


def _json(part: _Part, decode: Callable[[bytes], str | None] | None) -> bytes:
    entry = part.entry
    head = f',{origin(local_time(entry.received_at), entry.peer, entry.producer)[1:]},"seq":'
    losing = f',"lost":{part.lost}' if part.lost else ""
    if not part.bodies:
        return f'{{"position":{part.position}{head}{part.seq}{losing}}}\n'.encode()
    lines: list[str] = []
    ahead = part.seq - part.position
    for position, body in enumerate(part.bodies, part.position):
        decoded = "" if decode is None else decode(body)
        start = f'{{"position":{position}{head}{position + ahead}{losing},'
        lines.append(f"{start}{content(body)}{decoded}}}\n")
        losing = ""
    return "".join(lines).encode()


def _text(part: _Part) -> bytes:
    return b"\n".join([*part.bodies, b""])


def _hex(part: _Part) -> bytes:
    return b"\n".join([*map(hexlify, part.bodies), b""])


def _raw(part: _Part) -> bytes:
    return b"".join(part.bodies)


_FORMATS: Final = {"short": _short, "text": _text, "hex": _hex, "raw": _raw}
