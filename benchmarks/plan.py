"""Say what is measured: which peers do which work, how often and for how long."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from benchmarks.spec import Interface, Kind, Spec

Effort = Literal["quick", "default", "full"]
Lanes = dict[Interface, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of work, which every one of its lanes does."""

    name: str
    kind: Kind | Literal["import"]
    size: int
    producers: int
    lanes: Lanes
    count: int = 0
    """Messages in all; 0: as many as a run's time takes."""
    rate: float = 0.0
    holders: int = 0
    repetitions: int = 0
    """How often it is repeated; 0: as often as the plan says."""

    def spec(self, kind: Kind, peer: str, interface: Interface, count: int) -> Spec:
        """Return what one run of one lane does."""
        return Spec(
            peer, kind, interface, self.size, self.producers, count, self.rate, self.holders
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All cases, how often each is repeated, and how many seconds a run is to take."""

    effort: Effort
    cases: tuple[Case, ...]
    repetitions: int
    seconds: float


FULL_LANES: Final[Lanes] = {
    "message": (
        "mpsr",
        "mpsr, pure Python",
        "tokio",
        "pyzmq",
        "pynng",
        "multiprocessing.Queue",
        "multiprocessing.Connection",
        "faster-fifo",
        "asyncio streams",
        "uvloop streams",
    ),
    "batch": ("mpsr", "tokio", "pyzmq", "faster-fifo", "asyncio streams", "uvloop streams"),
    "untouched": ("mpsr",),
    "list": ("pyzmq", "multiprocessing.Queue", "multiprocessing.Connection"),
    "bytes": ("raw socket",),
}
SMALL_LANES: Final[Lanes] = {
    "message": ("mpsr", "tokio", "pyzmq", "multiprocessing.Queue", "faster-fifo"),
    "batch": ("mpsr", "tokio"),
}
LARGE_LANES: Final[Lanes] = {
    "message": (
        "mpsr",
        "tokio",
        "pyzmq",
        "pynng",
        "multiprocessing.Queue",
        "multiprocessing.Connection",
        "uvloop streams",
    ),
    "bytes": ("raw socket",),
}
HUGE_LANES: Final[Lanes] = {
    "message": ("mpsr", "tokio", "pyzmq", "multiprocessing.Connection", "uvloop streams"),
    "bytes": ("raw socket",),
}
CORE_LANES: Final[Lanes] = {"message": ("mpsr", "tokio", "pyzmq"), "batch": ("mpsr", "tokio")}
DISK_LANES: Final[Lanes] = {"bytes": ("file", "mpsr's journal")}
JOURNAL_LANES: Final[Lanes] = {"message": ("mpsr, journal", "pyzmq"), "bytes": ("file",)}
READING_LANES: Final[Lanes] = {"bytes": ("mpsr's journal, read",)}
LATENCY_LANES: Final[Lanes] = {
    "message": (
        "mpsr",
        "raw socket",
        "tokio",
        "pyzmq",
        "pynng",
        "multiprocessing.Queue",
        "multiprocessing.Connection",
        "faster-fifo",
        "asyncio streams",
        "uvloop streams",
    )
}
IDLE_LANES: Final[Lanes] = {"message": ("mpsr", "raw socket", "pyzmq", "uvloop streams")}
IMPORT_LANES: Final[Lanes] = {
    "message": ("mpsr", "pyzmq", "pynng", "multiprocessing.Queue", "faster-fifo", "asyncio streams")
}

SIZES: Final = {"16B": 16, "100B": 100, "1000B": 1000, "64kB": 64_000, "16MB": 16_000_000}
GIB: Final = 1024**3
CROWDS: Final = (1, 10, 100, 1000)  # producers that share the same total work


def plan(effort: Effort) -> Plan:
    """Return what is measured with so much effort."""
    repetitions, seconds = {"quick": (1, 0.3), "default": (3, 0.7), "full": (5, 1.5)}[effort]
    cases = [
        _throughput("100B", 4, FULL_LANES),
        _throughput("16B", 4, SMALL_LANES),
        _throughput("1000B", 4, SMALL_LANES | {"bytes": ("raw socket",)}),
        _throughput("64kB", 4, LARGE_LANES),
        _throughput("16MB", 4, HUGE_LANES),
        _throughput("100B", 1, CORE_LANES),
        _throughput("100B", 64, CORE_LANES),
        _throughput("100B", 4, JOURNAL_LANES, "journal-"),
        _disk("100B", effort),
        _disk("64kB", effort),
        Case("reading", "throughput", 100, 1, READING_LANES, GIB // 100, repetitions=1),
        _latency(producers=1, seconds=3 * seconds),
        _idle(1000),
        _idle(10_000),
        *(_crowd(producers, effort) for producers in CROWDS),
        Case("import", "import", 0, 0, IMPORT_LANES),
    ]
    if effort == "full":
        named = {case.name for case in cases}
        every = [_throughput(s, p, FULL_LANES) for s in SIZES for p in (1, 4, 64)]
        cases = [_with_every_lane(case) for case in cases]
        cases += [case for case in every if case.name not in named]
        cases.append(_latency(producers=4, seconds=3 * seconds))
    if effort == "quick":
        cases = [_for_the_bars(case) for case in cases]
    return Plan(effort, tuple(cases), repetitions, seconds)


def _throughput(size: str, producers: int, lanes: Lanes, prefix: str = "") -> Case:
    return Case(f"{prefix}{size}-{producers}p", "throughput", SIZES[size], producers, lanes)


def _disk(size: str, effort: Effort) -> Case:
    """Short rounds, many of them: a disk is slow and fast by turns."""
    nbytes, repetitions = {"quick": (64_000_000, 5)}.get(effort, (256_000_000, 9))
    count = nbytes // SIZES[size]
    return Case(
        f"disk-{size}", "throughput", SIZES[size], 1, DISK_LANES, count, repetitions=repetitions
    )


def _latency(*, producers: int, seconds: float) -> Case:
    rate = 2000.0
    return Case(
        f"latency-{producers}p", "latency", 100, producers, LATENCY_LANES, int(rate * seconds), rate
    )


def _idle(connections: int) -> Case:
    """Four processes hold the connections; now and then one of them says something."""
    return Case(
        f"idle-{connections}", "idle", 100, connections, IDLE_LANES, 400, 200.0, 4, repetitions=1
    )


def _crowd(producers: int, effort: Effort) -> Case:
    count = {"quick": 400_000, "default": 2_000_000, "full": 4_000_000}[effort]
    lanes: Lanes = {"message": ("mpsr", "pyzmq", "no library"), "bytes": ("raw socket",)}
    return Case(f"crowd-{producers}p", "throughput", 100, producers, lanes, count)


def _with_every_lane(case: Case) -> Case:
    plain = case.kind == "throughput" and not case.count and case.lanes != JOURNAL_LANES
    return replace(case, lanes=FULL_LANES) if plain else case


def _for_the_bars(case: Case) -> Case:
    """Leave only the peers that a bar is measured against."""
    wanted = {
        *(
            "mpsr",
            "mpsr, pure Python",
            "mpsr, journal",
            "mpsr's journal",
            "mpsr's journal, read",
            "file",
        ),
        *("raw socket", "no library", "tokio", "pyzmq", "multiprocessing.Queue"),
    }
    lanes: Lanes = {
        interface: tuple(peer for peer in peers if peer in wanted)
        for interface, peers in case.lanes.items()
        if interface != "list"
    }
    if case.kind in ("idle", "import"):
        lanes = {"message": ("mpsr",)}
    return replace(case, lanes=lanes)
