"""Carry a plan out: every run in fresh processes, the peers of a case taking turns."""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from benchmarks import machine
from benchmarks.peers import PEERS
from benchmarks.plan import Case, Plan
from benchmarks.results import LATEST, ROOT, CaseResult, Lane, Results, rate, save
from benchmarks.spec import Kind, Spec

RUN_LIMIT: Final = 90  # seconds: a run that takes longer hangs
BUILD_LIMIT: Final = 900  # seconds: the Rust peer may have to be built first
AUDIT_MESSAGES: Final = 20_000
AUDIT_BYTES: Final = 128_000_000
IMPORTS: Final = {
    "mpsr": "from mpsr import Producer, Receiver",  # they are loaded when they are first named
    "pyzmq": "import zmq",
    "pynng": "import pynng",
    "multiprocessing.Queue": "import multiprocessing.queues",
    "faster-fifo": "import faster_fifo",
    "asyncio streams": "import asyncio",
}
IMPORT_RUNS: Final = 5  # for each repetition: they are short


class Failed(Exception):
    """A run gave no figures, and why."""


def measure(plan: Plan, only: list[str]) -> Results:
    """Carry the plan out, or the part of it whose names match ``only``."""
    began = time.monotonic()
    cases = [case for case in plan.cases if _wanted(case, only)]
    peers = _describe({peer for case in cases for lane in case.lanes.values() for peer in lane})
    results: Results = {
        "effort": plan.effort,
        "repetitions": plan.repetitions,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "load": [os.getloadavg()[0]],
        "machine": machine.describe(),
        "peers": peers,
        "cases": [],
    }
    for number, case in enumerate(cases, 1):
        say(f"[{number:2}/{len(cases)}] {case.name:14}", end="")
        lanes: list[Lane] = [
            {"peer": peer, "interface": interface, "runs": [], "error": None}
            for interface, names in case.lanes.items()
            for peer in names
            if "missing" not in peers[peer]
        ]
        since = time.monotonic()
        _measure_case(plan, case, lanes)
        say(f" ({time.monotonic() - since:.0f} s)")
        result: CaseResult = {
            "name": case.name,
            "kind": case.kind,
            "size": case.size,
            "producers": case.producers,
            "lanes": lanes,
        }
        results["cases"].append(result)
        for lane in lanes:
            if lane["error"] is not None:
                say(f"    {lane['peer']}, {lane['interface']}: {lane['error']}")
        results["load"].append(os.getloadavg()[0])
        results["seconds"] = time.monotonic() - began
        save(results, LATEST)  # what there is by now, in case there will be no more
    return results


def say(text: str, end: str = "\n") -> None:
    """Tell how far it is."""
    print(text, end=end, file=sys.stderr, flush=True)


def _wanted(case: Case, only: list[str]) -> bool:
    return not only or any(fnmatch.fnmatch(case.name, f"{name}*") for name in only)


def _describe(names: set[str]) -> dict[str, dict[str, str]]:
    """Return the version and settings of each peer, or why it is missing."""
    peers = {}
    for name in PEERS:
        if name in names:
            peers[name] = _ask(name, PEERS[name].environment, BUILD_LIMIT)
            say(f"{name}: {peers[name].get('missing') or peers[name]['version']}")
    return peers


def _measure_case(plan: Plan, case: Case, lanes: list[Lane]) -> None:
    repetitions = case.repetitions or plan.repetitions
    if case.kind == "import":
        _measure_imports(lanes, repetitions * IMPORT_RUNS)
        return
    rates: dict[int, float] = {}
    if case.kind == "throughput":
        for index, lane in enumerate(lanes):
            count = min(AUDIT_MESSAGES, AUDIT_BYTES // case.size)
            rates[index] = _run(case, lane, "audit", count)
        say(" audited", end="")
    for repetition in range(repetitions):
        order = list(enumerate(lanes))
        for index, lane in order if repetition % 2 == 0 else reversed(order):
            if lane["error"] is None:
                # Each run is as long as the last one's rate makes it.
                count = case.count or int(plan.seconds * rates[index])
                rates[index] = _run(case, lane, case.kind, count)
        say(f" {repetition + 1}", end="")


def _run(case: Case, lane: Lane, kind: Kind, count: int) -> float:
    """Run a lane once, note what came of it, and return its rate."""
    spec = case.spec(kind, lane["peer"], lane["interface"], count)  # type: ignore[arg-type]
    try:
        run = run_once(spec)
    except Failed as exc:
        lane["error"] = str(exc)
        return 0.0
    if kind != "audit":
        lane["runs"].append(run)
    return rate(run)


def run_once(spec: Spec) -> dict[str, float]:
    """Run one spec in a process of its own; raise Failed where it gives no figures."""
    answer: dict[str, float] = _ask(spec.to_json(), PEERS[spec.peer].environment, RUN_LIMIT)
    return answer


def _ask(question: str, environment: dict[str, str], limit: float) -> Any:
    """Ask a fresh process; it and all its children are gone when this returns."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.run", question],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            answer, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {limit} s") from None
        finally:
            if process.returncode is None:  # not waited for: its number is still its own
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise Failed((errors.strip().splitlines() or ["it failed without a word"])[-1])
    return json.loads(answer)


def _measure_imports(lanes: list[Lane], runs: int) -> None:
    """Time each import in a fresh interpreter, less the interpreter's own start."""
    for number in range(runs + 1):
        for lane in lanes:
            statement = IMPORTS[lane["peer"]]
            code = f"from time import perf_counter as t; b = t(); {statement}; print(t() - b)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            if number:  # the first one finds nothing in the file cache
                lane["runs"].append({"seconds": float(done.stdout)})
    for lane in lanes:
        lane["runs"] = [{"seconds": median(run["seconds"] for run in lane["runs"])}]
