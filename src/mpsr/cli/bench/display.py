"""Show on a terminal how a bench gets on: a process of its own, so that it disturbs nobody."""

from __future__ import annotations

import select
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from mpsr.amounts import size
from mpsr.cli.bench.load import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from mpsr.cli.bench.shared import Board, Gate
    from mpsr.cli.bench.work import Work

_INTERVAL: Final = 250  # milliseconds between two updates


def show(works: Sequence[Work], board: Board, gate: Gate) -> None:
    """Show the phase under way, until the gate opens; signals stay held back from this child."""
    gate.join()
    poll = select.poll()
    poll.register(gate, 0)  # a hang-up is reported in any case
    with _progress() as progress:
        task = progress.add_task("", total=None, rate="", flow="", clock="")
        seen = (0, 0, 0)  # when, messages, bytes
        while not poll.poll(_INTERVAL):
            work, began, now = works[board.phase], board.began_ns, monotonic_ns()
            if not began:  # between phases
                continue
            if not began <= seen[0] <= now:
                seen = (began, 0, 0)
            looked = (now, board.messages, board.nbytes)
            elapsed, messages, nbytes = (b - a for a, b in zip(seen, looked, strict=True))
            seen = looked
            passed = (now - began) / SECOND
            progress.update(
                task,
                description="latency" if work.rate else "throughput",
                total=work.seconds,
                completed=passed,
                clock=f"{passed:.1f}/{work.seconds:.1f} s",
                rate=f"{messages * SECOND / elapsed:>11,.0f} messages/s",
                flow=f"{size(nbytes * SECOND / elapsed):>9}/s",
            )
            progress.refresh()


def _progress() -> Progress:
    """Return a line that vanishes at the end."""
    # rich is not light, and only this process needs it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        *(TextColumn(f"{{task.fields[{field}]}}") for field in ("clock", "rate", "flow")),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
