"""Print what an outage of an hour comes to: ``python -m benchmarks.scaling``."""

from __future__ import annotations

import argparse
import math
import time
from typing import Final

from benchmarks.scaling.model import Arrivals, Outage, Outcome, Setting, Simulation, fixed_backoff

HOUR: Final = 3600
BEGIN: Final = 300  # seconds before the outage
OUTAGES: Final = {
    "all nodes": Outage(BEGIN, BEGIN + HOUR),
    "one of three nodes": Outage(BEGIN, BEGIN + HOUR, hosts=0, capacity=2 / 3),
    "half of the hosts cut off": Outage(BEGIN, BEGIN + HOUR, hosts=0.5, attempt=9),
}
GIB: Final = 2**30
RECORD: Final = 150  # bytes of a journal that a message of 100 takes, rounded up
JOURNAL: Final = GIB // RECORD  # messages


def steady(rate: float) -> Arrivals:
    return lambda _: rate


def bursts(rate: float) -> Arrivals:
    """Return five times the rate in one minute of ten, and so much less in the others."""
    return lambda second: 5 * rate if second % 600 < 60 else rate * 5 / 9


def daily(rate: float) -> Arrivals:
    """Return a curve of a day, from its steepest rise: from a fifth to nine fifths of the rate."""
    return lambda second: rate * (1 + 0.8 * math.sin(2 * math.pi * second / 86_400))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--batch-cost", type=float, default=Setting.batch_cost, metavar="SECONDS")
    parser.add_argument(
        "--message-cost", type=float, default=Setting.message_cost, metavar="SECONDS"
    )
    parser.add_argument("--journal", type=int, default=JOURNAL, metavar="MESSAGES")
    options = parser.parse_args()
    print(
        "hosts  rate/host  arrivals  outage                     "
        "lag at most   caught up after   back-pressure after   doubled by ids"
    )
    for hosts, rate, shape, name in (
        (10, 1000.0, "steady", "all nodes"),
        (10, 1000.0, "bursts", "all nodes"),
        (10, 1000.0, "daily", "all nodes"),
        (10, 3000.0, "steady", "all nodes"),
        (10, 1000.0, "steady", "one of three nodes"),
        (10, 1000.0, "steady", "half of the hosts cut off"),
        (1000, 10.0, "steady", "all nodes"),
        (1000, 10.0, "steady", "half of the hosts cut off"),
    ):
        arrivals = {"steady": steady, "bursts": bursts, "daily": daily}[shape](rate)
        outcome = _run(
            Setting(
                hosts=hosts,
                arrivals=arrivals,
                seconds=BEGIN + 3 * HOUR,
                outage=OUTAGES[name],
                journal=options.journal,
                batch_cost=options.batch_cost,
                message_cost=options.message_cost,
            )
        )
        begin = f"{hosts:5}  {rate:9,.0f}  {shape:8}  {name:25}"
        print(f"{begin}  {_line(outcome, hosts * rate)}", flush=True)
    _herd()


def _run(setting: Setting) -> Outcome:
    return Simulation(setting).run()


def _line(outcome: Outcome, usual: float) -> str:
    caught_up = outcome.caught_up(BEGIN + HOUR, int(2 * usual))
    pressure = outcome.held_since
    return (
        f"{outcome.most_lag():11,}   {_seconds(caught_up):>15}   "
        f"{_seconds(None if pressure is None else pressure - BEGIN):>19}   "
        f"{outcome.doubled_with_ids:14,}"
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else time.strftime("%H:%M:%S", time.gmtime(value))


def _herd() -> None:
    """Show how 1,000 hosts come back, with the back-off of the sinks and with others."""
    outage = Outage(10, 190)
    print("\nattempts to connect, in the worst second, of 1,000 hosts of one stream")
    print("back-off                       during   at the return   all connected after")
    for name, backoff in (
        ("of the sinks", None),
        ("15 s, without jitter", fixed_backoff(15.0)),
        ("1 s, without jitter", fixed_backoff(1.0)),
    ):
        setting = Setting(1000, steady(1), 300, outage, backoff=backoff)
        outcome = _run(setting)
        during = outcome.most_attempts(outage.begin + 60, outage.end)
        back = outcome.most_attempts(outage.end, 300)
        all_back = next(
            second
            for second, each in enumerate(outcome.seconds[int(outage.end) :], 1)
            if each.connected == setting.hosts
        )
        print(f"{name:29} {during:8,} {back:15,} {all_back:19} s")


if __name__ == "__main__":
    main()
