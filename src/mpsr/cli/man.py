"""Print or write the manual pages: ``mpsr man``."""

from __future__ import annotations

import os
from typing import Final

import click

from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.cli.suggestions import not_among
from mpsr.errors import Explanation
from mpsr.system import outputs

_MODE: Final = 0o644  # of a page: every user may read it
_HELP: Final = """\
Print the manual page of a COMMAND, or else that of mpsr itself, as roff.

\b
Examples:
  mpsr man | man -l -
  mpsr man recv | man -l -
  mpsr man journal verify | man -l -
  mpsr man --directory ~/.local/share/man/man1
"""


@click.command(help=_HELP, epilog="Exit statuses: see mpsr --help.")
@click.argument("name", metavar="[COMMAND]...", nargs=-1)
@click.option("--directory", metavar="DIR", help="Write all pages there, in place of printing one.")
@click.pass_context
def man(context: click.Context, /, *, name: tuple[str, ...], directory: str | None) -> Status:
    """Run ``mpsr man``."""
    from mpsr.cli.manual import pages  # noqa: PLC0415 - it imports every command

    found = dict(pages(context.find_root().command))
    if directory is None:
        page = "-".join(("mpsr", *name))
        if page not in found:
            known = [each.removeprefix("mpsr-").replace("-", " ") for each in found if "-" in each]
            raise click.BadParameter(
                not_among(" ".join(name), known), context, context.command.params[0]
            )
        Stdout().write(found[page].encode())
        return Status.OK
    if name:
        raise click.UsageError(
            Explanation("--directory takes no COMMAND", "it writes all pages", "remove one of them")
        )
    try:
        os.makedirs(directory, exist_ok=True)
        for each, text in found.items():
            outputs.put(os.path.join(directory, f"{each}.1"), text.encode(), _MODE)
    except OSError as exc:
        why, advice = exc.strerror or str(exc), "choose a directory that can be written"
        raise CommandFailed(
            Status.IO, Explanation(f"cannot write {exc.filename}", why, advice)
        ) from exc
    say(f"wrote {plural(len(found), 'page')} to {directory}")
    return Status.OK
