"""Run ``mpsr top``: choose between the screen and the snapshot."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Final

import click

from mpsr.cli import types
from mpsr.cli.common import receiver_uid
from mpsr.cli.extras import need
from mpsr.cli.signals import immediate_end
from mpsr.cli.status import Status
from mpsr.cli.stdio import Stdout
from mpsr.cli.top.model import COLUMNS
from mpsr.cli.top.snapshot import snapshot
from mpsr.observe import status, watch

if TYPE_CHECKING:
    from mpsr import observe
    from mpsr.system.trust import ReceiverUid

_SHORT: Final = 0.5  # seconds between the two looks of a snapshot
_PIPED_WIDTH: Final = 132  # characters: as many as a printer's line had

_HELP: Final = """\
Watch the receiver at ADDRESS and its producers.

\b
Examples:
  mpsr top app.sock
  mpsr top app.sock --sort lost --filter worker
  mpsr top app.sock --once
  mpsr top app.sock | head

On a terminal it is a live view (pip install 'mpsr[tui]'): ? shows its keys. Piped, with --once, or
with TERM=dumb it prints how things stand, once, as plain text; rates are those of half a second.

The receiver answers its own user and root, also while its consumer is stuck.
"""


@click.command(
    help=_HELP,
    short_help="Watch a receiver and its producers.",
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("address")
@click.option("--once", is_flag=True, help="Print how things stand, and exit.")
@click.option(
    "--sort",
    type=click.Choice(list(COLUMNS)),
    default="messages",
    help="Which producers come first.  [default: messages, a second]",
)
@click.option("--reverse", is_flag=True, help="Sort the other way round.")
@click.option(
    "--filter",
    "text",
    metavar="TEXT",
    default="",
    help="Show only the producers with this in their program, label, pid, uid, framing or id.",
)
@click.option(
    "--interval",
    type=types.duration,
    metavar="TIME",
    default="1s",
    help="From one look to the next: 500ms, 5s; at least 100ms.  [default: 1s]",
)
@receiver_uid
def top(
    *,
    address: str,
    once: bool,
    sort: str,
    reverse: bool,
    text: str,
    interval: float,
    receiver_uid: ReceiverUid,
) -> Status:
    """Run ``mpsr top``."""
    stdout = Stdout()
    live = os.isatty(sys.stdout.fileno()) and os.isatty(sys.stdin.fileno()) if sys.stdin else False
    if once or not live or os.environ.get("TERM", "dumb") == "dumb":
        with immediate_end():
            looks = _two_looks(address, receiver_uid)
            width = shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns if live else _PIPED_WIDTH
            page = snapshot(looks, width=width, sort=sort, backwards=reverse, text=text)
            stdout.write(page.encode("utf-8", "backslashreplace"))
        return Status.OK
    need("textual", extra="tui", by="the live view of mpsr top (not --once)")
    first = status(address, receiver_uid=receiver_uid)  # so that an error is a line, and no screen
    from mpsr.cli.top.screen import Top  # noqa: PLC0415 - not light, and not for all

    view = Top(
        address,
        first,
        interval=interval,
        receiver_uid=receiver_uid,
        sort=sort,
        backwards=reverse,
        text=text,
    )
    view.run()
    return Status(view.return_code or Status.OK)


def _two_looks(address: str, receiver_uid: ReceiverUid) -> list[observe.Status]:
    with closing(watch(address, interval=_SHORT, receiver_uid=receiver_uid)) as looks:
        return [next(looks), next(looks)]
