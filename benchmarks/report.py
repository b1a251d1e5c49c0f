"""Turn results into Markdown tables, which read well in a terminal too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.bars import judge
from benchmarks.plan import CROWDS
from benchmarks.results import (
    CaseResult,
    Lane,
    Results,
    Spread,
    figures,
    find_case,
    find_lane,
    lane_rate,
)

INTERFACES: Final = {
    "message": "one by one",
    "batch": "batches",
    "untouched": "batches, untouched",
    "list": "pickled lists",
    "bytes": "bytes",
}
COMPARABLE: Final = {"message": ("message",), "batch": ("batch", "list"), "bytes": ("bytes",)}
SIZES: Final = {16: "16 B", 100: "100 B", 1000: "1,000 B", 64_000: "64 kB", 16_000_000: "16 MB"}


def bars_table(results: Results) -> str:
    """Show what was promised, what was measured, and whether they agree."""
    rows = []
    for bar, measured, margin in judge(results):
        if measured is None:
            rows.append((bar.measure, bar.text, "", "not measured"))
            continue
        verdict = "met" if margin >= 0 else f"missed by {-margin:.0%}"
        rows.append((bar.measure, bar.text, _figures(measured, bar.unit), verdict))
    return table(("measure", "bar", "measured (least–most)", "verdict"), rows)


def losses_table(results: Results) -> str:
    """Show every peer that did the same work faster than mpsr."""
    rows = []
    for case in results["cases"]:
        for lane in _measured(case):
            times = _faster_than_us(results, case, lane)
            if lane["peer"].startswith("mpsr") or times <= 1:
                continue
            plain = case["kind"] != "throughput"
            rows.append((title(case), lane["peer"] if plain else _name(lane), f"{times:.3g} ×"))
    return table(("work", "peer", "better by"), rows) if rows else "There is no such case."


def _faster_than_us(results: Results, case: CaseResult, lane: Lane) -> float:
    """Return how much better than mpsr a lane is, or 0 where nothing compares."""
    figure = {"latency": "p50", "idle": "rss_mib", "import": "seconds"}.get(case["kind"])
    if figure:
        ours = find_lane(results, case["name"], "mpsr")
        return figures(ours, figure).median / figures(lane, figure).median if ours else 0.0
    for interface in ("batch", "message"):
        ours = find_lane(results, case["name"], "mpsr", interface)
        theirs = lane["interface"]
        if ours and (theirs == "bytes" or theirs in COMPARABLE[interface]):
            return lane_rate(lane).median / lane_rate(ours).median
    return 0.0


def all_tables(results: Results) -> str:
    """Show everything that was measured, case by case."""
    parts = []
    for case in results["cases"]:
        if case["kind"] == "throughput" and not case["name"].startswith("crowd"):
            parts += [f"### {title(case)}", throughput_table(case)]
    for case in results["cases"]:
        if case["kind"] == "latency":
            parts += [f"### {title(case)}", latency_table(case)]
    idle = [case for case in results["cases"] if case["kind"] == "idle"]
    if idle:
        parts += ["### Idle connections", idle_table(idle)]
    if find_case(results, f"crowd-{CROWDS[0]}p"):
        parts += ["### The same work from more and more producers", crowd_table(results)]
    imports = find_case(results, "import")
    if imports:
        parts += ["### Import", import_table(imports)]
    return "\n\n".join(parts)


def title(case: CaseResult) -> str:
    """Return a case's name in words."""
    producers = f"{case['producers']:,} producer{'s'[: case['producers'] != 1]}"
    size = SIZES.get(case["size"], "")
    match case["kind"]:
        case "latency":
            return f"Latency of {size} at 2,000 messages/s, {producers}"
        case "idle":
            return f"Memory with {case['producers']:,} idle connections"
        case "import":
            return "Time to import"
    what = {
        "journal": f"{producers}, through a journal, beside pyzmq without one and a file's disk",
        "disk": "to the disk in groups of 1 MiB, each synced",
        "reading": "read back from a journal of 1 GiB",
        "crowd": f"the same work from {producers}",
    }
    apart = f" (measured apart: {case['apart']})" if "apart" in case else ""
    return f"{size}, {what.get(case['name'].partition('-')[0], producers)}{apart}"


def throughput_table(case: CaseResult) -> str:
    """Show rates and CPU time, the fastest first."""
    rows = []
    for lane in sorted(_measured(case), key=lane_rate, reverse=True):
        rates = lane_rate(lane)
        rows.append(
            (
                lane["peer"],
                INTERFACES[lane["interface"]],
                _figures(rates),
                f"{rates.median * case['size'] / 1e6:,.0f}",
                _per_million(lane, "receiver_cpu"),
                _per_million(lane, "producer_cpu"),
            )
        )
    cpu = "CPU s a million,"
    header = ("peer", "how", "messages/s (least–most)", "MB/s", f"{cpu} receiver", "producers")
    return table(header, rows)


def latency_table(case: CaseResult) -> str:
    """Show percentiles in microseconds, the fastest first."""
    lanes = sorted(_measured(case), key=lambda lane: figures(lane, "p50"))
    rows = [
        (
            lane["peer"],
            *(_figures(figures(lane, name)) for name in ("p50", "p99", "p99.9")),
            _per_million(lane, "receiver_cpu"),
            _per_million(lane, "producer_cpu"),
        )
        for lane in lanes
    ]
    cpu = "CPU s a million,"
    header = ("peer", "p50 µs (least–most)", "p99 µs", "p99.9 µs", f"{cpu} receiver", "producers")
    return table(header, rows)


def idle_table(cases: Sequence[CaseResult]) -> str:
    """Show the receiver's memory and how late a message from an idle connection is."""
    rows = [
        (
            lane["peer"],
            f"{case['producers']:,}",
            f"{figures(lane, 'rss_mib').median:.0f}",
            *(f"{figures(lane, name).median / 1000:.2f}" for name in ("p50", "p99")),
        )
        for case in cases
        for lane in sorted(_measured(case), key=lambda lane: figures(lane, "rss_mib"))
    ]
    return table(("peer", "connections", "receiver MiB", "p50 ms", "p99 ms"), rows)


_CROWD_LANES: Final = (
    *(("mpsr", "message"), ("pyzmq", "message"), ("no library", "message")),
    ("raw socket", "bytes"),
)


def crowd_table(results: Results) -> str:
    """Show how throughput depends on the number of producers."""
    rows = []
    for peer, how in _CROWD_LANES:
        lanes = [find_lane(results, f"crowd-{producers}p", peer, how) for producers in CROWDS]
        rates = [lane_rate(lane).median if lane else 0.0 for lane in lanes]
        kept = f"{rates[-1] / max(rates):.0%}" if max(rates) else ""
        rows.append((peer, *(_number(value) for value in rates), kept))
    header = ("messages/s", *(f"{count:,} producer{'s'[: count != 1]}" for count in CROWDS), "kept")
    return table(header, rows)


def import_table(case: CaseResult) -> str:
    """Show how long an import takes."""
    lanes = sorted(_measured(case), key=lambda lane: figures(lane, "seconds"))
    return table(
        ("import", "ms"),
        [(lane["peer"], f"{figures(lane, 'seconds').median * 1000:.0f}") for lane in lanes],
    )


def peers_table(results: Results) -> str:
    """Show each peer's version and settings, or why it was left out."""
    rows = [
        (name, facts.get("version", "–"), facts.get("settings") or f"left out: {facts['missing']}")
        for name, facts in results["peers"].items()
    ]
    return table(("peer", "version", "settings"), rows)


def machine_table(results: Results) -> str:
    """Show where, when and under what load this was measured."""
    load = results["load"]
    facts = {
        **results["machine"],
        "measured": f"{results['started']}, in {results['seconds'] / 60:.0f} minutes",
        "effort": f"{results['effort']}; repetitions: {results['repetitions']}",
        "load average": f"{min(load):.1f} to {max(load):.1f} (the benchmarks' own included)",
    }
    return table(("what", "which"), list(facts.items()))


def errors(results: Results) -> list[str]:
    """Return what went wrong; figures with an error among them are not to be trusted."""
    return [
        f"{title(case)}: {_name(lane)}: {lane['error']}"
        for case in results["cases"]
        for lane in case["lanes"]
        if lane["error"] is not None
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, padded; figures are aligned to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = [bool(rows) and all(_is_figure(row[i]) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(cells, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width + 1) + (":" if flush else "-")
        for width, flush in zip(widths, right, strict=True)
    ]
    return "\n".join([line(header), f"|{'|'.join(rule)}|", *map(line, rows)])


def _is_figure(cell: str) -> bool:
    return not cell or cell[0].isdigit()


def _measured(case: CaseResult) -> list[Lane]:
    return [lane for lane in case["lanes"] if lane["runs"] and lane["error"] is None]


def _name(lane: Lane) -> str:
    return f"{lane['peer']}, {INTERFACES[lane['interface']]}"


def _per_million(lane: Lane, figure: str) -> str:
    """Return CPU seconds a million messages."""
    values = sorted(run[figure] / run["messages"] * 1e6 for run in lane["runs"])
    return _number(values[len(values) // 2])


def _figures(measured: Spread, unit: str = "") -> str:
    if measured.least == measured.most:
        return f"{_number(measured.median)}{unit}"
    least, most = _number(measured.least), _number(measured.most)
    return f"{_number(measured.median)}{unit} ({least}–{most})"


def _number(value: float) -> str:
    """Return a number with three significant digits."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"
