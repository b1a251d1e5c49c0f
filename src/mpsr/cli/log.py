"""Print the messages that a journal holds: ``mpsr log``."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Final

import click

from mpsr.cli import types
from mpsr.cli.formats import DECODERS, FORMATS, check_decoder
from mpsr.cli.parts import Part, PartPrinter, form_of
from mpsr.cli.signals import immediate_end
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout
from mpsr.cli.streams import SCHEME, messages_of
from mpsr.cli.trimmed import first_of, tell_trimmed
from mpsr.errors import Explanation, NoJournal, NotAJournal
from mpsr.forwarding import forwarded
from mpsr.json_format import to_json
from mpsr.limits import MIB
from mpsr.store.reader import Reader
from mpsr.store.records import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpsr.sinks.nats.layout import Stored
    from mpsr.sinks.nats.reader import StreamMessage
    from mpsr.store.records import Record

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
  mpsr log nats://localhost:4222/EVENTS -n 20 -f

DIR may be in use, and be read-only: this changes nothing in it, and no receiver waits for it.
nats://HOST:PORT/STREAM/SUBJECT, where SUBJECT may be left out, stands for a stream of NATS.
"""


if TYPE_CHECKING:
    Choose = Callable[[Record], Iterable[Part]]
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
def log(  # noqa: C901 - each option is a line, and each kind of source a block
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
            Explanation(
                "--follow and --reverse exclude each other",
                "the newest message is still to come",
                "remove one of them",
            )
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

    def kept(parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            yield from (part,) if records is None else _kept(part, records.wanted)

    def choose(record: Record) -> Iterator[Part]:
        return kept(_parts(record) if wanted(record.entry) else ())

    form = form_of(output, decode, records)
    if directory.startswith(SCHEME):
        if reverse:
            raise click.UsageError(
                Explanation(
                    "--reverse has no use with a stream",
                    "a stream is read from its oldest message on",
                    "remove --reverse",
                )
            )
        with immediate_end(), PartPrinter(screen, form) as printer:
            for messages in messages_of(
                directory,
                lines=lines,
                since=since,
                follow=follow,
                wanted=lambda message: wanted(_entry_of(message.stored)),
                screen=screen,
            ):
                printer.print(part for each in messages for part in kept(_streamed(each)))
                if follow:
                    printer.flush()
        return Status.OK
    with (
        immediate_end(),
        Reader(directory) as reader,
        PartPrinter(screen, form) as printer,
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


def _print_rest(reader: Reader, position: int, choose: Choose, printer: PartPrinter) -> int:
    """Print what follows a position; return where it ends."""
    while records := reader.read(position):
        tell_trimmed(position + 1, first_of(records[0]) - 1)
        for record in records:
            printer.print(choose(record))
        position = records[-1].position
    return position


def _follow(
    reader: Reader, position: int, choose: Choose, printer: PartPrinter, screen: Stdout
) -> None:
    """Print the messages after a position as they arrive, until a signal or a closed pipe."""
    while True:
        screen.pause(_CHECK_INTERVAL)
        try:
            position = _print_rest(reader, position, choose, printer)
        except (NoJournal, NotAJournal) as exc:
            printer.flush()
            error = Explanation(
                f"{reader.path} is not there any more",
                "it was moved or removed while it was followed",
                "follow it again, once there is a journal",
            )
            raise CommandFailed(Status.CONFIGURATION, error) from exc
        printer.flush()


def _backwards(reader: Reader, last: int, choose: Choose) -> Iterator[Part]:
    """Give the newest first, from windows of positions; a batch may come in pieces."""
    floor, before, window = reader.trimmed, last, 1
    while before > floor:
        after = max(floor, before - window)
        nbytes, begin = 1, before + 1
        parts: list[Part] = []
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


def _parts(record: Record) -> Iterator[Part]:
    position, entry = record
    batch = entry.batch()
    whole = Part(position, entry.first_seq, batch.lost, batch.raw, entry)
    if not batch:
        yield whole
        return
    whole = whole._replace(position=first_of(record))
    for begin in range(0, whole.size, _MOST):
        yield whole.cut(begin, min(begin + _MOST, whole.size))


def _kept(part: Part, wanted: Callable[[bytes], bool]) -> Iterator[Part]:
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


def _single(part: Part) -> Iterator[Part]:
    """Give one message after the other, the last first."""
    return (part.cut(index, index + 1) for index in reversed(range(part.size)))


def _last(backwards: Iterator[Part], count: int) -> Iterator[Part]:
    """Give the newest ``count`` messages, the oldest first."""
    found: list[Part] = []
    while count > 0 and (part := next(backwards, None)) is not None:
        found.append(part.cut(max(0, part.size - count), part.size))
        count -= part.size
    return reversed(found)


# -- reading a stream ---------------------------------------------------------------------------


def _entry_of(stored: Stored) -> Entry:
    payload = b"-" if stored.bodies else b""  # it is there
    return Entry(
        payload,
        len(stored.bodies),
        sum(map(len, stored.bodies)),
        stored.first_seq,
        stored.lost,
        stored.peer,
        stored.producer,
        received_at=stored.received_at,
    )


def _streamed(message: StreamMessage) -> Iterator[Part]:
    """Give each message of what may be packed; all have the number of that in the stream."""
    stored = message.stored
    entry, seq, lost = _entry_of(stored), stored.first_seq, stored.lost
    known = f'"subject":{to_json(message.subject)},'
    if stored.host is not None:
        known += f'"host":{to_json(stored.host)},'
    if not stored.bodies:
        yield Part(message.seq, seq, lost, [], entry, known)
    for number, each in enumerate(map(forwarded, stored.bodies), seq):
        claim = each.origin or stored.origin
        more = known if claim is None else f'{known}"origin":{to_json(claim)},'
        yield Part(message.seq, number, lost, [each.body], entry, more)
        lost = 0
