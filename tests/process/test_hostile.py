"""Who attacks a receiver holds up nobody else, and costs a bounded amount.

The attacker is another user than the honest producers, and both are others than the receiver, whose
socket all may write to: these tests take the rights of root. ``siege.py`` says how they measure;
``attacks.py`` lists the attacks, each with the limit that bounds what it costs. Attackers run with
``os.nice(19)`` and are paced: that they take processor time from those whom they attack is not the
receiver's fault. ``python -m benchmarks.hostile`` prints the figures, also of attackers that are as
fast as they can.

On a machine that others use, too, everything may stand still for a while, and a stretch of a third
of a second says little. So the quick version asks for half of what the flood gets alone, and for
short waits, in one of three sieges; the full one asks for four fifths, and for short waits, in the
median of three. Where others take the processors, so that the flood gets less, though still more
than half, it asks for four fifths of the messages for each second of the receiver's processor time.
What is promised without a clock holds in each siege.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.process import siege
from tests.process.attacks import ATTACKS
from tests.process.forking import Forks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process.siege import Figures

SIEGES: Final = 3
QUICK_SHARE: Final = 0.5  # of what the flood gets alone
FULL_SHARE: Final = 0.8
SLOWEST: Final = 1.0  # seconds until one message of a connected producer is acknowledged
SLOWEST_NEWCOMER: Final = 2.0  # seconds likewise, of one that connects first, and may have to retry
SOAKED: Final = frozenset(
    {
        "silent connections, ever more",  # it takes long to show
        "silent, few descriptors, ever more",
        "frames that are not whole",  # it takes half a gigabyte
    }
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="takes the right to be another user"
)


def check(figures: Figures) -> None:
    """Check what holds however slow the machine is."""
    bound = ATTACKS[figures.attack].bound
    assert figures.faults == []
    assert figures.done > 0
    assert figures.connects == 2  # none of those who were connected had to connect again
    assert figures.growth <= bound.nbytes, bound.name
    assert figures.released >= 0


@pytest.fixture(scope="module")
def stages() -> Iterator[Forks]:
    """Give the process that forks the stages of the sieges."""
    with Forks("tests.process.siege") as stages:
        yield stages


def waits_are_short(probe: float, newcomer: float) -> bool:
    """Tell whether nobody waited too long."""
    return probe < SLOWEST and newcomer < SLOWEST_NEWCOMER


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in SOAKED])
@pytest.mark.timing
def test_attacker_holds_up_nobody_and_costs_a_bounded_amount(stages: Forks, name: str) -> None:
    """The honest lose nothing, wait no longer than they should, and get most of what they did."""
    sieges = []
    for _ in range(SIEGES):
        figures = siege.run(siege.plan(name, full=False), stages)
        check(figures)
        waits = figures.probe_beside, figures.newcomer_beside
        if figures.ratio >= QUICK_SHARE and waits_are_short(*waits):
            return
        sieges.append(figures)
    pytest.fail(f"in none of these did the honest get what they should: {sieges}")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason=attack.breaks, strict=False))
        if attack.breaks
        else name
        for name, attack in ATTACKS.items()
    ],
)
def test_attacker_takes_little_from_the_honest(stages: Forks, name: str) -> None:
    """It is the same, for as long and as much as an attack takes to show what it can do."""
    sieges = [siege.run(siege.plan(name, full=True), stages) for _ in range(SIEGES)]
    for each in sieges:
        check(each)
    probe = statistics.median(each.probe_beside for each in sieges)
    newcomer = statistics.median(each.newcomer_beside for each in sieges)
    assert waits_are_short(probe, newcomer), sieges
    share = statistics.median(each.ratio for each in sieges)
    efficiency = statistics.median(each.efficiency for each in sieges)
    assert share >= FULL_SHARE or (share >= QUICK_SHARE and efficiency >= FULL_SHARE), sieges
