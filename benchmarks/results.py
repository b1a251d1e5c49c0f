"""Keep what was measured, and answer questions about it."""

from __future__ import annotations

import json
import os
from statistics import median
from typing import Any, Final, NamedTuple, NotRequired, TypedDict

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LATEST: Final = os.path.join(ROOT, "benchmarks", "results", "latest.json")
PUBLISHED: Final = os.path.join(ROOT, "docs", "benchmarks.json")


class Lane(TypedDict):
    """One peer's runs in one case."""

    peer: str
    interface: str
    runs: list[dict[str, float]]
    error: str | None


class CaseResult(TypedDict):
    """A case, and what each of its lanes did."""

    name: str
    kind: str
    size: int
    producers: int
    lanes: list[Lane]
    apart: NotRequired[str]
    """When and of what it was measured, if not with the others."""


class Results(TypedDict):
    """One run of the benchmarks."""

    effort: str
    repetitions: int
    started: str
    seconds: float
    load: list[float]
    machine: dict[str, str]
    peers: dict[str, dict[str, str]]
    cases: list[CaseResult]


class Spread(NamedTuple):
    """The median of what repeated runs gave, and its neighbours on both ends."""

    median: float
    least: float
    most: float


def spread(values: list[float]) -> Spread:
    """Sum repeated measurements up."""
    return Spread(median(values), min(values), max(values))


def rate(run: dict[str, float]) -> float:
    """Return messages a second."""
    return run["messages"] / run["seconds"]


def lane_rate(lane: Lane) -> Spread:
    """Return messages a second, over a lane's runs."""
    return spread([rate(run) for run in lane["runs"]])


def figures(lane: Lane, figure: str) -> Spread:
    """Return one figure over a lane's runs."""
    return spread([run[figure] for run in lane["runs"]])


def find_case(results: Results, name: str) -> CaseResult | None:
    """Return a case, if it was measured."""
    return next((case for case in results["cases"] if case["name"] == name), None)


def find_lane(results: Results, case: str, peer: str, interface: str = "message") -> Lane | None:
    """Return a lane, if it was measured without an error."""
    found = find_case(results, case)
    for lane in found["lanes"] if found else ():
        if (lane["peer"], lane["interface"]) == (peer, interface):
            return lane if lane["runs"] and lane["error"] is None else None
    return None


def save(results: Results, path: str) -> None:
    """Write results to a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(rounded(results), file, indent=1, ensure_ascii=False)
        file.write("\n")


def load(path: str) -> Results:
    """Read results from a file."""
    with open(path) as file:
        results: Results = json.load(file)
    return results


def rounded(value: Any) -> Any:
    """Return the same with numbers cut to six digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
