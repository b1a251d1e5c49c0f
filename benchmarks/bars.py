"""Hold the promises that mpsr makes about its speed, and judge them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from benchmarks.plan import CROWDS
from benchmarks.results import Results, Spread, find_lane, lane_rate, rate, spread

_TIMES: Final = 2.5  # pyzmq's rate: what a journal is to reach, unless the disk is slower
Values = Callable[[Results], list[float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise: a figure, and what it has to be."""

    measure: str
    against: str
    bound: float
    unit: str
    values: Values
    """The figure in each repetition; none where it was not measured."""
    at_least: bool = True

    @property
    def text(self) -> str:
        """The promise in a few words."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}{self.against}"


class Judgement(NamedTuple):
    """What became of a promise."""

    bar: Bar
    measured: Spread | None
    margin: float
    """How far the median is on the right side of the bound, as a part of it."""

    @property
    def met(self) -> bool:
        """Whether the median keeps the promise."""
        return self.measured is not None and self.margin >= 0


def judge(results: Results) -> list[Judgement]:
    """Judge every promise."""
    judgements = []
    for bar in BARS:
        values = bar.values(results)
        measured = spread(values) if values else None
        margin = (measured.median / bar.bound - 1) if measured else 0.0
        judgements.append(Judgement(bar, measured, margin if bar.at_least else -margin))
    return judgements


def _faster(
    case: str,
    interface: str,
    than: str,
    *their_interfaces: str,
    ours: str = "mpsr",
) -> Values:
    """Compare rates, repetition by repetition, with the best of a peer's interfaces."""

    def values(results: Results) -> list[float]:
        mine = find_lane(results, case, ours, interface)
        found = [find_lane(results, case, than, name) for name in their_interfaces or ("message",)]
        theirs = max(filter(None, found), key=lane_rate, default=None)
        if mine is None or theirs is None:
            return []
        pairs = zip(mine["runs"], theirs["runs"], strict=False)
        return [rate(run) / rate(other) for run, other in pairs]

    return values


def _latency(than: str) -> Values:
    def values(results: Results) -> list[float]:
        mine = find_lane(results, "latency-1p", "mpsr")
        theirs = find_lane(results, "latency-1p", than)
        if mine is None or theirs is None:
            return []
        pairs = zip(mine["runs"], theirs["runs"], strict=False)
        return [run["p50"] / other["p50"] for run, other in pairs]

    return values


def _figure(
    case: str, figure: str, scale: float = 1.0, peer: str = "mpsr", interface: str = "message"
) -> Values:
    def values(results: Results) -> list[float]:
        lane = find_lane(results, case, peer, interface)
        return [run[figure] * scale for run in lane["runs"]] if lane else []

    return values


def _through_a_journal(results: Results) -> list[float]:
    """Compare with pyzmq without a journal, or with the disk where that is slower."""
    interfaces = {"mpsr, journal": "message", "pyzmq": "message", "file": "bytes"}
    lanes = [
        find_lane(results, "journal-100B-4p", peer, interface)
        for peer, interface in interfaces.items()
    ]
    turns = zip(*(lane["runs"] for lane in lanes if lane), strict=False)
    if None in lanes:
        return []
    return [rate(ours) / min(_TIMES * rate(theirs), rate(file)) for ours, theirs, file in turns]


def _read_back(results: Results) -> list[float]:
    lane = find_lane(results, "reading", "mpsr's journal, read", "bytes")
    return [run["nbytes"] / run["seconds"] / 1e9 for run in lane["runs"]] if lane else []


_ONE = "one by one"
_QUEUE = "multiprocessing.Queue"

BARS: Final = (
    Bar(f"100 B, {_ONE}", " pyzmq", 3, " ×", _faster("100B-4p", "message", "pyzmq")),
    Bar(f"100 B, {_ONE}", f" {_QUEUE}", 25, " ×", _faster("100B-4p", "message", _QUEUE)),
    Bar(f"16 B, {_ONE}", " pyzmq", 1.5, " ×", _faster("16B-4p", "message", "pyzmq")),
    Bar(f"1,000 B, {_ONE}", " pyzmq", 3, " ×", _faster("1000B-4p", "message", "pyzmq")),
    Bar(
        f"100 B, {_ONE}, pure Python",
        " pyzmq",
        1.3,
        " ×",
        _faster("100B-4p", "message", "pyzmq", ours="mpsr, pure Python"),
    ),
    Bar(
        "100 B, batches",
        " pyzmq at its best",
        4,
        " ×",
        _faster("100B-4p", "batch", "pyzmq", "message", "batch"),
    ),
    Bar("100 B, batches", " tokio", 1, " ×", _faster("100B-4p", "batch", "tokio", "batch")),
    Bar(
        "100 B, batches, untouched",
        " pyzmq at its best",
        12,
        " ×",
        _faster("100B-4p", "untouched", "pyzmq", "message", "batch"),
    ),
    Bar(
        "64 kB", " the raw socket", 0.8, " ×", _faster("64kB-4p", "message", "raw socket", "bytes")
    ),
    Bar("64 kB", " pyzmq", 3, " ×", _faster("64kB-4p", "message", "pyzmq")),
    Bar(
        "16 MB", " the raw socket", 0.8, " ×", _faster("16MB-4p", "message", "raw socket", "bytes")
    ),
    Bar(
        "latency at 2,000/s, p50",
        " the raw socket",
        1.8,
        " ×",
        _latency("raw socket"),
        at_least=False,
    ),
    Bar("latency at 2,000/s, p50", " pyzmq", 0.6, " ×", _latency("pyzmq"), at_least=False),
    Bar(
        "10,000 idle connections, receiver",
        "",
        120,
        " MiB",
        _figure("idle-10000", "rss_mib"),
        at_least=False,
    ),
    Bar(
        "a message from any of them, p50",
        "",
        1,
        " ms",
        _figure("idle-10000", "p50", 0.001),
        at_least=False,
    ),
    Bar(
        "through a journal, 100 B, one by one",
        f" the lower of {_TIMES:g} × pyzmq without one and the disk",
        1,
        " ×",
        _through_a_journal,
    ),
    Bar(
        "the journal's bytes, synced, 100 B",
        " a file's",
        0.85,
        " ×",
        _faster("disk-100B", "bytes", "file", "bytes", ours="mpsr's journal"),
    ),
    Bar(
        "the journal's bytes, synced, 64 kB",
        " a file's",
        0.8,
        " ×",
        _faster("disk-64kB", "bytes", "file", "bytes", ours="mpsr's journal"),
    ),
    Bar("a journal of 1 GiB, read back", "", 1, " GB/s", _read_back),
    Bar(
        "a journal of 1 GiB, opened",
        "",
        0.5,
        " s",
        _figure("reading", "opening", peer="mpsr's journal, read", interface="bytes"),
        at_least=False,
    ),
    *(
        Bar(
            f"same total work, producers: {producers:,}",
            " pyzmq",
            2,
            " ×",
            _faster(f"crowd-{producers}p", "message", "pyzmq"),
        )
        for producers in CROWDS
    ),
    Bar(
        "same total work, producers: 1,000",
        " a sender without a library",
        0.8,
        " ×",
        _faster("crowd-1000p", "message", "no library"),
    ),
    Bar("import mpsr", "", 60, " ms", _figure("import", "seconds", 1000), at_least=False),
)
