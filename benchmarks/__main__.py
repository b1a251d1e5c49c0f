"""Measure, and show what came of it: argv in, tables out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from benchmarks import report
from benchmarks.harness import measure, say
from benchmarks.plan import plan
from benchmarks.publish import publish


def main() -> int:
    """Run; 1 if a run failed or a count was wrong."""
    options = _parse()
    chosen = plan(options.effort)
    if options.repetitions:
        chosen = replace(chosen, repetitions=options.repetitions)
    results = measure(chosen, options.only)
    print("\n## Everything\n", report.all_tables(results), sep="\n")
    print("\n## Peers\n", report.peers_table(results), sep="\n")
    print("\n## Machine\n", report.machine_table(results), sep="\n")
    print("\n## Where mpsr is not the first\n", report.losses_table(results), sep="\n")
    print("\n## Bars\n", report.bars_table(results), sep="\n")
    failed = report.errors(results)
    for error in failed:
        say(f"FAILED: {error}")
    if options.publish:
        if failed:
            say("Not published: that takes a run without failures.")
            return 1
        publish(results, part=bool(options.only))
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare mpsr with its peers, on the same work, in one run.",
    )
    effort = parser.add_mutually_exclusive_group()
    for name, text in (
        ("quick", "one short repetition, and only what the bars need"),
        ("full", "more sizes, producers and repetitions: the better part of an hour"),
    ):
        effort.add_argument(
            f"--{name}",
            dest="effort",
            action="store_const",
            const=name,
            default="default",
            help=text,
        )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="cases whose names begin so: 100B"
    )
    parser.add_argument("--repetitions", type=int, metavar="N", help="of each run")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write docs/benchmarks.json, its page and charts; with --only, these cases alone",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
