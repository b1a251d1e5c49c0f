"""Write what was measured into the documentation, so that no figure is typed by hand."""

from __future__ import annotations

import os
import re
from itertools import chain
from typing import Final

from benchmarks import charts, report
from benchmarks.plan import plan
from benchmarks.results import PUBLISHED, ROOT, Results, load, save

PAGE: Final = os.path.join(ROOT, "docs", "benchmarks.md")
CHARTS: Final = """\
![Messages a second, by peer](charts/throughput.svg)

![Median latency, by peer](charts/latency.svg)

![Messages a second, by number of producers](charts/crowd.svg)"""
TABLES: Final = {
    "charts": lambda _results: CHARTS,
    "machine": report.machine_table,
    "bars": report.bars_table,
    "losses": report.losses_table,
    "peers": report.peers_table,
    "everything": report.all_tables,
}


def publish(results: Results, *, part: bool = False) -> None:
    """Write the snapshot, the page's tables and the charts; of a part of a run, those alone."""
    if part:
        results = merged(load(PUBLISHED), results)
    save(results, PUBLISHED)
    with open(PAGE) as file:
        page = file.read()
    with open(PAGE, "w") as file:
        file.write(filled(page, results))
    charts.draw_all(results, charts.FOLDER)


def merged(whole: Results, part: Results) -> Results:
    """Return a run with the cases of another in the place of its own, and those say so."""
    planned = {case.name: {*chain(*case.lanes.values())} for case in plan("default").cases}
    new = {case["name"]: case for case in part["cases"]}
    for case in new.values():
        case["apart"] = f"{part['machine']['mpsr']}, {part['started'][:10]}"
    names = list(dict.fromkeys([*(case["name"] for case in whole["cases"]), *new]))
    old = {case["name"]: case for case in whole["cases"] if case["name"] in planned}
    for name, case in old.items():
        case["lanes"] = [lane for lane in case["lanes"] if lane["peer"] in planned[name]]
    cases = [found for name in names if (found := new.get(name, old.get(name)))]
    return {**whole, "cases": cases, "peers": {**whole["peers"], **part["peers"]}}


def filled(page: str, results: Results) -> str:
    """Return the page with each table between its markers made anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"{PAGE} has no markers for {name}")
        text = f"{begin}\n\n{make(results)}\n\n{end}"
        page = pattern.sub(lambda _, text=text: text, page)  # type: ignore[misc]
    return page
