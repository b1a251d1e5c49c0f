"""Draw the charts of the README and the documentation, as SVG, from published results.

`python -m benchmarks.charts` draws them anew from docs/benchmarks.json.
"""

from __future__ import annotations

import os
from html import escape
from typing import Final, NamedTuple

from benchmarks.plan import CROWDS
from benchmarks.results import PUBLISHED, ROOT, Results, figures, find_case, find_lane, lane_rate
from benchmarks.results import load as load_results

FOLDER: Final = os.path.join(ROOT, "docs", "charts")

WIDTH: Final = 760
LABELS: Final = 210  # the labels' part of the width
VALUES: Final = 130  # the part behind the longest mark, for its value
MARK: Final = 16  # height of one mark
GAP: Final = 12  # between rows
HEAD: Final = 64

STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 16px; font-weight: 600 } .note { fill: #57606a }
  .ours0 { fill: #0969da } .ours1 { fill: #80b4ef }
  .peer0 { fill: #6e7781 } .peer1 { fill: #c3c8cd }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 }
    .ours0 { fill: #4493f8 } .ours1 { fill: #275a9c }
    .peer0 { fill: #9198a1 } .peer1 { fill: #4d545c }
  }
"""


class Mark(NamedTuple):
    """One horizontal bar; ``shade`` tells a row's marks apart."""

    value: float
    text: str
    shade: int = 0


class Row(NamedTuple):
    """What belongs to one label."""

    label: str
    ours: bool
    marks: list[Mark]


def draw_all(results: Results, folder: str) -> None:
    """Draw every chart for which there are figures."""
    os.makedirs(folder, exist_ok=True)
    for name, chart in {
        "throughput": throughput_chart(results),
        "latency": latency_chart(results),
        "crowd": crowd_chart(results),
    }.items():
        if chart:
            with open(os.path.join(folder, f"{name}.svg"), "w") as file:
                file.write(chart)


def throughput_chart(results: Results) -> str:
    """Draw messages a second, one by one and in batches."""
    rows = []
    case = find_case(results, "100B-4p")
    for peer in dict.fromkeys(lane["peer"] for lane in case["lanes"]) if case else ():
        marks = []
        for shade, interface in enumerate(("message", "batch")):
            lane = find_lane(results, "100B-4p", peer, interface)
            if lane:
                rate = lane_rate(lane).median
                marks.append(Mark(rate, f"{rate / 1e6:.3g} M", shade))
        if marks:
            rows.append(Row(peer, peer.startswith("mpsr"), marks))
    rows.sort(key=lambda row: -row.marks[0].value)
    note = "100-byte messages from 4 producers, a second; light: in batches"
    return draw("Throughput", note, rows)


def latency_chart(results: Results) -> str:
    """Draw the median of the one-way latency."""
    rows = []
    case = find_case(results, "latency-1p")
    for lane in case["lanes"] if case else ():
        if lane["runs"] and lane["error"] is None:
            p50, p99 = (figures(lane, name).median for name in ("p50", "p99"))
            mark = Mark(p50, f"{p50:.0f} µs (p99 {p99:,.0f})")
            rows.append(Row(lane["peer"], lane["peer"] == "mpsr", [mark]))
    rows.sort(key=lambda row: row.marks[0].value)
    return draw("Latency", "one way, half of the messages arrive within; 2,000 messages/s", rows)


def crowd_chart(results: Results) -> str:
    """Draw throughput against the number of producers."""
    rows = []
    for producers in CROWDS:
        for peer in ("mpsr", "pyzmq", "no library"):
            lane = find_lane(results, f"crowd-{producers}p", peer)
            if lane:
                rate = lane_rate(lane).median
                label = f"{producers:,} × {peer}"
                rows.append(Row(label, peer == "mpsr", [Mark(rate, f"{rate / 1e6:.3g} M")]))
    note = "100-byte messages a second, the same total work from more and more producers"
    return draw("Many producers", note, rows)


def draw(title: str, note: str, rows: list[Row]) -> str:
    """Return a chart of horizontal bars, or nothing where there are none."""
    if not rows:
        return ""
    most = max(mark.value for row in rows for mark in row.marks)
    scale = (WIDTH - LABELS - VALUES) / most
    body = []
    y = HEAD
    for label, ours, marks in rows:
        middle = y + MARK * len(marks) / 2 + 5
        body.append(_text(LABELS - 10, middle, label, 'text-anchor="end"'))
        for mark in marks:
            kind = f"{'ours' if ours else 'peer'}{mark.shade}"
            width = max(1.0, mark.value * scale)
            body.append(
                f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{width:.1f}" height="{MARK - 2}"'
                ' rx="2"/>'
            )
            body.append(_text(LABELS + width + 6, y + 12, mark.text, 'class="note"'))
            y += MARK
        y += GAP
    head = [_text(10, 26, title, 'class="title"'), _text(10, 46, note, 'class="note"')]
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        *head,
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


if __name__ == "__main__":
    draw_all(load_results(PUBLISHED), FOLDER)
