"""What the simulation of many hosts never breaks, whatever it is given."""

from __future__ import annotations

import random

import pytest

from benchmarks.scaling.model import Outage, Setting, Simulation, sink_backoff
from mpsr.limits import SINK_BACKOFF_FIRST, SINK_BACKOFF_MOST

OUTAGES = [
    None,
    Outage(20, 80),
    Outage(20, 80, hosts=0.5, attempt=9),
    Outage(20, 80, hosts=0, capacity=0.5),
]


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("journal", [500, 1_000_000])
def test_nothing_is_lost_or_doubled(outage: Outage | None, journal: int) -> None:
    setting = Setting(20, lambda second: 37.5 + second % 7, 150, outage, journal=journal)
    outcome = Simulation(setting).run()
    last = outcome.seconds[-1]
    assert outcome.arrived == outcome.stored + last.lag + last.held
    stored = [each.stored for each in outcome.seconds]
    assert stored == sorted(stored)
    assert max(each.lag for each in outcome.seconds) <= 20 * journal


def test_more_capacity_never_means_a_later_catch_up() -> None:
    times = []
    for cost in (8e-5, 4e-5, 2e-5, 1e-5):
        setting = Setting(20, lambda _: 400.0, 400, Outage(20, 80), message_cost=cost)
        caught_up = Simulation(setting).run().caught_up(80, 16_000)
        assert caught_up is not None
        times.append(caught_up)
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_catch_up_agrees_with_arithmetic() -> None:
    """Backlog over spare capacity, where the leader is the bottleneck."""
    setting = Setting(10, lambda _: 1000.0, 600, Outage(10, 310))
    outcome = Simulation(setting).run()
    capacity = 1000 / (setting.batch_cost + 1000 * setting.message_cost)
    expected = 300 * 10_000 / (capacity - 10_000)
    caught_up = outcome.caught_up(310, 20_000)
    assert caught_up is not None
    assert expected - 2 <= caught_up <= expected + SINK_BACKOFF_MOST + 5


def test_full_journals_hold_producers_back_from_the_expected_second() -> None:
    setting = Setting(5, lambda _: 100.0, 100, Outage(10, 90), journal=3000)
    outcome = Simulation(setting).run()
    assert outcome.held_since == pytest.approx(10 + 30, abs=1)
    assert Simulation(Setting(5, lambda _: 100.0, 100, Outage(10, 30))).run().held_since is None


def test_message_ids_double_only_what_outlives_the_duplicate_window() -> None:
    def doubled(window: float) -> int:
        setting = Setting(20, lambda _: 100.0, 200, Outage(10, 70), duplicate_window=window, seed=3)
        return Simulation(setting).run().doubled_with_ids

    assert doubled(10) > 0
    assert doubled(120) == 0


def test_backoff_is_that_of_the_sinks() -> None:
    chance = random.Random(1)
    assert SINK_BACKOFF_FIRST / 2 <= sink_backoff(1, chance) <= SINK_BACKOFF_FIRST
    assert SINK_BACKOFF_MOST / 2 <= sink_backoff(1000, chance) <= SINK_BACKOFF_MOST
