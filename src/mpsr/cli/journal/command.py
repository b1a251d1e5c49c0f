"""Read what is to be done with a journal, and do it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from mpsr.amounts import size
from mpsr.cli.journal import rescue
from mpsr.cli.journal.progress import shown
from mpsr.cli.journal.report import Survey, as_json, as_text
from mpsr.cli.journal.tally import Tally, missing_text
from mpsr.cli.signals import immediate_end
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.cli.trimmed import telling
from mpsr.errors import Explanation
from mpsr.names import printable
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.salvage import Salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpsr.store.records import Record

_HELP: Final = """\
Look after DIR, a journal or a spool.

\b
Examples:
  mpsr journal verify events.journal
  mpsr journal stats events.journal
  mpsr journal trim events.journal --drop archive
  mpsr journal salvage events.journal.damaged-20260301T120000

DIR may be in use, and be read-only; but trim takes one that no process uses.
"""
_EPILOG: Final = "Exit statuses: see mpsr --help."


@click.group(help=_HELP, epilog=_EPILOG)
def journal() -> None:
    """Run ``mpsr journal``."""


@journal.command(epilog=_EPILOG)
@click.argument("directory", metavar="DIR")
def verify(directory: str) -> Status:
    """Read all of a journal, and tell whether it is whole (exit 65 if it is not)."""
    screen = Stdout()
    with immediate_end(), Salvage(directory) as found:
        tally = Tally()
        with shown("verifying", found.nbytes) as advance:
            records = found.records(torn=False)
            first, last = found.header.first, found.state.last
            for _ in _counted(tally, records, first, last, advance):
                pass
        if tally.missing or found.doubt is not None:
            _show(screen, f"{directory} is damaged: {tally} can be read")
            _tell_missing(tally, found)
            raise found.doubt or CommandFailed(
                Status.DATA,
                Explanation(
                    f"{found.path} is damaged",
                    "what is missing does not come back as it was written",
                    "copy what can be read with: mpsr journal salvage",
                ),
            )
        span = f", positions {tally.begin} to {tally.end}" if tally.batches else ""
        _show(screen, f"{directory} is whole: {tally}{span}")
        if tally.noted:
            _show(screen, f"{missing_text(tally.noted)}, as they were when it was salvaged")
    return Status.OK


@journal.command(epilog=_EPILOG)
@click.argument("directory", metavar="DIR")
@click.option("--json", "json", is_flag=True, help="Print everything as one JSON document.")
def stats(directory: str, *, json: bool) -> Status:
    """Tell what a journal holds: of whom, since when, and how far its readers are."""
    screen = Stdout()
    with immediate_end(), Reader(directory) as reader:
        state, trimmed, used = reader.recover().state, reader.trimmed, reader.used
        tally = Tally()
        with shown("counting", used) as advance:
            records = _records(reader, trimmed, state.last)
            for _ in _counted(tally, records, trimmed + 1, state.last, advance):
                pass
        survey = Survey(reader.path, used, trimmed, state, tally)
        screen.write((as_json if json else as_text)(survey).encode())
    return Status.OK


@journal.command(epilog=_EPILOG)
@click.argument("directory", metavar="DIR")
@click.option(
    "--drop",
    multiple=True,
    metavar="CURSOR",
    help="First remove the cursor of this name: its reader will not come back.",
)
def trim(directory: str, drop: tuple[str, ...]) -> Status:
    """Remove what all readers of a journal are done with.

    Only whole segments go: something that all are done with may stay. A running receiver trims by
    itself, and while it runs, this is refused (exit 75).
    """
    screen = Stdout()
    with immediate_end():
        with Journal(directory, create=False, use=None) as opened:
            unknown = [name for name in drop if name not in opened.cursors()]
            if unknown:
                known = ", ".join(map(repr, opened.cursors())) or "none"
                what = f"{directory} has no cursor {unknown[0]!r}"
                error = Explanation(what, f"there are: {known}", "name one of these")
                raise CommandFailed(Status.CONFIGURATION, error)
            for name in drop:
                opened.drop(name)
            before, used = opened.trimmed, opened.used
            with shown("trimming", used) as advance:
                while opened.trim():
                    advance(used - opened.used)
                    used = opened.used
        trimmed = plural(opened.trimmed - before, "position")
        left = opened.last - opened.trimmed
        _show(screen, f"trimmed {trimmed}; {left} left, {size(opened.used)} on the disk")
        if left and not opened.cursors():
            say(f"{directory} has no cursor: nobody has said what may be trimmed")
    return Status.OK


@journal.command(epilog=_EPILOG)
@click.argument("directory", metavar="DIR")
@click.option("--output", metavar="PATH", help="The new journal.  [default: DIR.salvaged]")
def salvage(directory: str, output: str | None) -> Status:
    """Copy what can be read of a damaged journal into a new one (exit 65 if nothing can).

    DIR stays as it is, and may be in use. Messages keep their positions, cursors theirs, and the
    receiver goes on knowing its producers; what is missing, readers see as lost.
    """
    screen = Stdout()
    output = output or f"{_name_of(directory)}.salvaged"
    if os.path.lexists(output):
        error = Explanation(
            f"cannot make {output}", "it is there already", "remove it, or choose --output"
        )
        raise CommandFailed(Status.CONFIGURATION, error)
    with immediate_end(), Salvage(directory) as found:
        if not found.header.id:
            error = Explanation(
                f"nothing in {directory} can be read: no journal is made",
                "no segment in it has a header that is whole",
                "check the path, or restore it from a backup",
            )
            raise CommandFailed(Status.DATA, error)
        tally = Tally()
        with shown("salvaging", found.nbytes) as advance:
            first, last = found.header.first, found.state.last
            records = _counted(tally, rescue.to_save(found), first, last, advance)
            rescue.write(found, records, output)
        _show(screen, f"saved {tally} to {output}")
        _tell_missing(tally, found)
    return Status.OK


def _name_of(directory: str) -> str:
    """Return a path that something can be appended to."""
    name = directory.rstrip("/")
    return os.path.realpath(directory) if os.path.basename(name) in {"", ".", ".."} else name


def _records(reader: Reader, position: int, until: int) -> Iterator[Record]:
    """Yield the records after a position, up to another, so that a journal in use has an end."""
    while position < until and (records := reader.read(position)):
        for record in records:
            if record.position > until:
                return
            yield record
        position = records[-1].position


def _counted(
    tally: Tally,
    records: Iterable[Record],
    begin: int,
    last: int,
    advance: Callable[[int], None],
) -> Iterator[Record]:
    """Yield and count the records of the positions ``begin`` to ``last``; report trimmed ones."""
    for record in telling(records, begin - 1, last):
        tally.add(record)
        advance(memoryview(record.entry.payload).nbytes)
        yield record
    tally.reach(last)


def _tell_missing(tally: Tally, found: Salvage) -> None:
    if tally.missing:
        say(missing_text(tally.missing))
    if found.doubt is not None:
        say(
            "not all that it knew of readers and producers can be read, nor how far it went: "
            "messages may be missing at its end, and some may come or be sent once more"
        )


def _show(screen: Stdout, line: str) -> None:
    screen.write(f"{printable(line)}\n".encode())
