"""Write what was measured into the documentation, so that no figure is typed by hand."""

from __future__ import annotations

import os
import re
from typing import Final

from benchmarks import charts, report
from benchmarks.results import PUBLISHED, ROOT, Results, save

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


def publish(results: Results) -> None:
    """Write the snapshot, the page's tables and the charts."""
    save(results, PUBLISHED)
    with open(PAGE) as file:
        page = file.read()
    with open(PAGE, "w") as file:
        file.write(filled(page, results))
    charts.draw_all(results, charts.FOLDER)


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
