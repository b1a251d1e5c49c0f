"""Read what is to be measured, and measure it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import click

from mpsr import amounts
from mpsr.cli import types
from mpsr.cli.bench.display import show
from mpsr.cli.bench.load import buffer_of
from mpsr.cli.bench.meter import Meter
from mpsr.cli.bench.phase import run_phase
from mpsr.cli.bench.report import Bench
from mpsr.cli.bench.shared import Board, Gate, shared
from mpsr.cli.bench.work import STAMP_SIZE, plan
from mpsr.cli.signals import held_back, orderly_end
from mpsr.cli.status import Status
from mpsr.cli.stdio import Stdout, may_draw, say
from mpsr.errors import Explanation
from mpsr.limits import MAX_MESSAGE
from mpsr.system.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpsr.cli.bench.work import Work

_SHORTEST: Final = 0.1  # seconds: less says nothing
_DISPLAY_END: Final = 2.0  # seconds that the display may take to clear its line

_HELP: Final = """\
Measure how fast mpsr is on this machine: producers, each a process, and a receiver.

\b
Examples:
  mpsr bench
  mpsr bench --size 64K --producers 1
  mpsr bench --batch 100
  mpsr bench --rate 50000
  mpsr bench /run/app/bench.sock --json | jq .throughput.messages_per_second

For the first fifth of the time, two seconds at most, messages are few, and tell their latency; then
the producers send as fast as they can. Every message is counted, at both ends.

With an ADDRESS, this process listens there: choose one where nobody else listens or sends. Without
one, it is a socket in a temporary folder.
"""


def _size(_: click.Context, __: click.Parameter, value: int) -> int:
    if value > MAX_MESSAGE:
        raise click.BadParameter(
            Explanation(
                f"the largest message has {amounts.size(MAX_MESSAGE)}",
                advice="choose a smaller size",
            )
        )
    return value


def _duration(_: click.Context, __: click.Parameter, value: float) -> float:
    if value < _SHORTEST:
        raise click.BadParameter(
            Explanation("it is too short to measure", advice=f"take {_SHORTEST:g}s or more")
        )
    return value


@click.command(
    help=_HELP,
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("address", required=False)
@click.option(
    "--producers",
    type=click.IntRange(1, 256),
    default=4,
    metavar="N",
    help="How many processes send.  [default: 4]",
)
@click.option(
    "--size",
    type=types.size,
    callback=_size,
    default="128",
    metavar="SIZE",
    help="The size of every message: 100, 64K, 1M.  [default: 128]",
)
@click.option(
    "--duration",
    type=types.duration,
    callback=_duration,
    default="10s",
    metavar="TIME",
    help="How long it takes in all: 500ms, 10s, 1m.  [default: 10s]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send so many messages at once, and receive batches; else messages, one by one.",
)
@click.option(
    "--rate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send so many messages a second, from all producers together, and no more; all of them "
    "tell their latency.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
def bench(
    *,
    address: str | None,
    producers: int,
    size: int,
    duration: float,
    batch: int | None,
    rate: int | None,
    as_json: bool,
) -> Status:
    """Run ``mpsr bench``."""
    _check_options(address, size=size, batch=batch, rate=rate)
    works = plan(producers=producers, size=size, seconds=duration, batch=batch, rate=rate or 0)
    buffer = buffer_of(works[-1])
    if batch is not None and batch * size > buffer:
        what = f"--batch {batch} of {amounts.size(size)} is too much"
        why = f"it is more than a producer buffers, {amounts.size(buffer)}"
        raise click.UsageError(Explanation(what, why, "choose a smaller --batch"))
    screen = Stdout()
    board = shared(Board, 1)[0]
    found = Bench(works)

    def begin_end(signum: int) -> None:  # in children, too: a terminal's Ctrl-C reaches them all
        board.signum = board.signum or signum

    with orderly_end(begin_end), _place(address) as place:
        with Meter(place, board) as meter, _display(works, board):
            for board.phase, work in enumerate(works):
                if not board.signum:
                    found.outcomes.append(run_phase(work, meter, board))
        found.signum = board.signum
        for line in found.failures:
            say(line)
        screen.write((found.json() if as_json else found.text()).encode())
    if found.signum:
        return Status(128 + found.signum)
    return Status.FAILURE if found.failures else Status.OK


def _check_options(address: str | None, *, size: int, batch: int | None, rate: int | None) -> None:
    if address is not None and parse_address(address).kind == "fd":
        raise click.UsageError(
            Explanation(
                "a bench needs a path or @name",
                "its producers have to find it",
                "pass one of these",
            )
        )
    if rate is not None and batch is not None:
        raise click.UsageError(
            Explanation(
                "--batch has no use with --rate",
                "that sends each when it is due",
                "remove one of them",
            )
        )
    if rate is not None and size < STAMP_SIZE:
        what = f"--rate needs a --size of {STAMP_SIZE} or more"
        advice = f"choose --size {STAMP_SIZE}, or remove --rate"
        raise click.UsageError(Explanation(what, "every message tells the time", advice))


@contextmanager
def _place(address: str | None) -> Iterator[str]:
    """Give the address to listen at."""
    if address is not None:
        yield address
        return
    with TemporaryDirectory(prefix="mpsr-bench-") as directory:
        yield os.path.join(directory, "bench.sock")


@contextmanager
def _display(works: Sequence[Work], board: Board) -> Iterator[None]:
    """Show how it gets on, where somebody may be looking."""
    if not may_draw():
        yield
        return
    with Gate() as gate:
        process = get_context("fork").Process(target=show, args=(works, board, gate))
        with held_back():
            process.start()
        try:
            yield
        finally:
            gate.open()
            process.join(_DISPLAY_END)
            process.kill()
            process.join()
