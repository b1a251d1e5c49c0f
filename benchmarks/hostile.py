"""Attack a receiver, and print what that costs the honest: argv in, a table out.

The attacks, and how they are measured, stand in ``tests/process/attacks.py`` and ``siege.py``. It
takes the rights of root, for the attacker is another user than the honest producers. Run it from
the checkout: ``python -m benchmarks.hostile``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.machine import describe
from tests.process import siege
from tests.process.attacks import ATTACKS
from tests.process.forking import Forks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.process.siege import Figures

MIB: Final = 1024 * 1024
HEADS: Final = (
    "attack",
    "done",
    "seconds",
    "throughput, of alone",
    "by the receiver's CPU",
    "slowest message, ms (alone)",
    "slowest newcomer, ms (alone)",
    "memory, MiB (bound)",
    "descriptors more",
    "free again, s",
    "log, lines",
    "lost or doubled",
)


def main() -> int:
    """Run; 1 if anything was lost or doubled."""
    options = _parse()
    if os.geteuid() != 0:
        print("it takes the rights of root: the attacker is another user", file=sys.stderr)
        return 2
    chosen = [name for name in ATTACKS if name.startswith(tuple(options.only) or "")]
    failed = False
    print(_row(HEADS))
    print(_row(["---"] * len(HEADS)))
    with Forks("tests.process.siege") as stages:
        for name in chosen:
            plan = siege.plan(name, full=not options.quick, paced=not options.unpaced)
            sieges = [siege.run(plan, stages) for _ in range(options.repetitions)]
            print(_row(_cells(sieges)), flush=True)
            for fault in [fault for each in sieges for fault in each.faults]:
                failed = True
                print(f"FAILED: {name}: {fault}", file=sys.stderr)
    how = "as fast as they could" if options.unpaced else "paced"
    print(f"\nAttackers were {how}, and nice. Throughput is the median, times are the worst.")
    print("; ".join(f"{what}: {is_}" for what, is_ in describe().items()))
    return 1 if failed else 0


def _cells(sieges: Sequence[Figures]) -> list[str]:
    attack = ATTACKS[sieges[0].attack]
    share = statistics.median(each.ratio for each in sieges)
    efficiency = statistics.median(each.efficiency for each in sieges)
    slowest = max(each.probe_beside for each in sieges) * 1000
    slowest_alone = max(each.probe_alone for each in sieges) * 1000
    newcomer = max(each.newcomer_beside for each in sieges) * 1000
    newcomer_alone = max(each.newcomer_alone for each in sieges) * 1000
    growth = max(each.growth for each in sieges)
    released = [each.released for each in sieges]
    return [
        sieges[0].attack,
        f"{max(each.done for each in sieges):,} {attack.unit}",
        f"{statistics.median(each.seconds for each in sieges):.1f}",
        f"{share:.0%}",
        f"{efficiency:.0%}",
        f"{slowest:.0f} ({slowest_alone:.0f})",
        f"{newcomer:.0f} ({newcomer_alone:.0f})",
        f"{growth / MIB:.1f} ({attack.bound.nbytes / MIB:.0f}: {attack.bound.name})",
        str(max(each.descriptors for each in sieges)),
        "never" if min(released) < 0 else f"{max(released):.2f}",
        f"{max(each.log_lines for each in sieges):,}",
        "see below" if any(each.faults for each in sieges) else "nothing",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile",
        description="Attack a receiver, and print what that costs the honest.",
    )
    parser.add_argument("--quick", action="store_true", help="the versions of the test suite")
    parser.add_argument(
        "--unpaced", action="store_true", help="let attackers be as fast as they can"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="attacks whose names begin so"
    )
    parser.add_argument("--repetitions", type=int, default=1, metavar="N", help="of each siege")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
