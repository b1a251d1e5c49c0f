"""Read what is to be done with a journal, and do it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from mpsr.cli.journal import rescue
from mpsr.cli.journal.progress import shown
from mpsr.cli.journal.report import as_json, as_text
from mpsr.cli.journal.tally import Tally
from mpsr.cli.signals import immediate_end
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.errors import JournalDamaged
from mpsr.journal import Journal
from mpsr.salvage import Salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpsr.journal import Record

_HELP: Final = """\
Look after the FILE of a journal or spool, while no process uses it.

\b
Examples:
  mpsr journal verify events.db
  mpsr journal stats events.db
  mpsr journal trim events.db --drop archive
  mpsr journal salvage events.db.damaged-20260301T120000
"""
_EPILOG: Final = "Exit statuses: see mpsr --help."


@click.group(help=_HELP, short_help="Verify, measure, trim or salvage a journal.", epilog=_EPILOG)
def journal() -> None:
    """Run ``mpsr journal``."""


@journal.command(epilog=_EPILOG)
@click.argument("file")
def verify(file: str) -> Status:
    """Read all of a journal, and tell whether it is whole (exit 65 if it is not)."""
    screen = Stdout()
    with immediate_end():
        try:
            with Journal(file, create=False) as opened:
                tally = _counted(opened, "verifying")
                opened.check()
                span = f", positions {opened.trimmed + 1} to {opened.last}"
        except JournalDamaged:
            with Salvage(file) as salvage:
                tally = _salvaged(salvage, "verifying")
            _show(screen, f"{file} is damaged: {tally} can be read")
            _tell_missing(tally, salvage)
            raise
        _show(screen, f"{file} is whole: {tally}{span if tally.batches else ''}")
        if tally.missing:
            _show(screen, f"{tally.missing_text()}, as they were when it was salvaged")
    return Status.OK


@journal.command(epilog=_EPILOG)
@click.argument("file")
@click.option("--json", "json", is_flag=True, help="Print everything as one JSON document.")
def stats(file: str, *, json: bool) -> Status:
    """Tell what a journal holds: of whom, since when, and how far its readers are."""
    screen = Stdout()
    with immediate_end(), Journal(file, create=False) as opened:
        tally = _counted(opened, "counting")
        screen.write((as_json if json else as_text)(opened, tally).encode())
    return Status.OK


@journal.command(epilog=_EPILOG)
@click.argument("file")
@click.option(
    "--drop",
    multiple=True,
    metavar="CURSOR",
    help="First remove the cursor of this name: its reader will not come back.",
)
def trim(file: str, drop: tuple[str, ...]) -> Status:
    """Remove what all readers of a journal are done with; its file keeps its size.

    A running receiver does so by itself. The room is used for what comes next.
    """
    screen = Stdout()
    with immediate_end(), Journal(file, create=False) as opened:
        unknown = [name for name in drop if name not in opened.cursors()]
        if unknown:
            known = ", ".join(map(repr, opened.cursors())) or "none"
            line = f"{file} has no cursor {unknown[0]!r}; there are: {known}"
            raise CommandFailed(Status.CONFIGURATION, line)
        for name in drop:
            opened.drop(name)
        before, used = opened.trimmed, opened.used
        with shown("trimming", used) as advance:
            while opened.trim():
                advance(used - opened.used)
                used = opened.used
        trimmed = plural(opened.trimmed - before, "position")
        left = opened.last - opened.trimmed
        _show(screen, f"trimmed {trimmed}; {left} left, {opened.used} bytes in use")
        if left and not opened.cursors():
            say(f"{file} has no cursor: nobody has said what may be trimmed")
    return Status.OK


@journal.command(epilog=_EPILOG)
@click.argument("file")
@click.option("--output", metavar="PATH", help="The new journal.  [default: FILE.salvaged]")
def salvage(file: str, output: str | None) -> Status:
    """Copy what can be read of a damaged journal into a new one (exit 65 if nothing can).

    FILE stays as it is. Messages keep their positions, cursors theirs, and the receiver goes on
    knowing its producers; what is missing, readers see as lost.
    """
    screen = Stdout()
    output = output or f"{file}.salvaged"
    if os.path.lexists(output):
        raise CommandFailed(
            Status.CONFIGURATION, f"{output} is there already; remove it, or choose --output"
        )
    with immediate_end(), Salvage(file) as found:
        tally = Tally()
        with shown("salvaging", found.nbytes) as advance:
            records = _adding(tally, found.records(), advance)
            rescue.write(found, records, output)
        if not (tally.batches or found.cursors or found.tracks or found.values):
            os.unlink(output)
            raise CommandFailed(Status.DATA, f"nothing in {file} can be read: no journal is made")
        _show(screen, f"saved {tally} to {output}")
        _tell_missing(tally, found)
    return Status.OK


def _counted(opened: Journal, doing: str) -> Tally:
    tally = Tally()
    with shown(doing, opened.used) as advance:
        for _ in _adding(tally, _records(opened), advance):
            pass
    return tally


def _salvaged(found: Salvage, doing: str) -> Tally:
    tally = Tally()
    with shown(doing, found.nbytes) as advance:
        for _ in _adding(tally, found.records(), advance):
            pass
    return tally


def _records(opened: Journal) -> Iterator[Record]:
    position = opened.trimmed
    while records := opened.read(position):
        yield from records
        position = records[-1].position


def _adding(
    tally: Tally, records: Iterator[Record], advance: Callable[[int], None]
) -> Iterator[Record]:
    for record in records:
        tally.add(record)
        advance(memoryview(record.entry.payload).nbytes)
        yield record


def _tell_missing(tally: Tally, found: Salvage) -> None:
    if tally.missing:
        say(tally.missing_text())
    if found.last is None:
        say("how far it went cannot be read: messages may be missing at its ends")
    if not found.complete:
        say(
            "not all that it knew of readers and producers can be read: some may come or be sent "
            "once more"
        )


def _show(screen: Stdout, line: str) -> None:
    screen.write(f"{line}\n".encode("utf-8", "surrogateescape"))
