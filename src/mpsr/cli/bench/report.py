"""Tell what a bench measured, as text or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mpsr import __version__, _speedups
from mpsr.amounts import size
from mpsr.cli import version
from mpsr.cli.stdio import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpsr.cli.bench.latency import Histogram
    from mpsr.cli.bench.phase import Outcome
    from mpsr.cli.bench.work import Work

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

_MILLION: Final = 1_000_000
_HELD: Final = 0.98  # of a rate that was asked for: less, and it was too high


class Bench:
    """Everything that is reported.

    Attributes:
        works: the phases that were planned.
        outcomes: those that were run, the last perhaps not to its end.
        signum: the signal that interrupted it, or 0.

    """

    def __init__(self, works: Sequence[Work]) -> None:
        self.works = works
        self.outcomes: list[Outcome] = []
        self.signum = 0

    @property
    def throughput(self) -> Outcome | None:
        """The last phase, whose speed is reported; None if it was not reached, or nothing came."""
        return self._measured(len(self.works) - 1)

    @property
    def stamped(self) -> Outcome | None:
        """The phase whose messages carried their time, the first; None if nothing came."""
        return self._measured(0)

    @property
    def failures(self) -> list[str]:
        """A line for everything that is not as it should be."""
        return [line for outcome in self.outcomes for line in outcome.failures]

    def _measured(self, phase: int) -> Outcome | None:
        outcome = self.outcomes[phase] if phase < len(self.outcomes) else None
        return outcome if outcome is not None and outcome.messages else None

    def json(self) -> str:
        """Return one JSON document."""
        work = self.works[-1]
        document = {
            "version": __version__,
            "codec": "C" if _speedups.IN_C else "Python",
            "python": version.PYTHON,
            "producers": work.producers,
            "size_bytes": work.size,
            "duration_seconds": sum(work.seconds for work in self.works),
            "batch_messages": work.batch,
            "rate_messages_per_second": work.rate or None,
            "interrupted": bool(self.signum),
            "throughput": _throughput(self.throughput) if self.throughput else None,
            "latency": _latency(self.stamped) if self.stamped else None,
            "failures": self.failures,
        }
        return json.dumps(document, indent=2) + "\n"

    def text(self) -> str:
        """Return a few lines for people."""
        work = self.works[-1]
        how = "one by one" if work.batch is None else f"{work.batch:,} at once"
        if work.rate:
            how = f"{work.rate:,.0f} a second"
        who = _many(work.producers, "producer")
        what = f"messages of {size(work.size)}, sent {how}"
        lines = [version.LINE, f"{who}, {what}{'; interrupted' * bool(self.signum)}", ""]
        if self.throughput is not None:
            lines += _throughput_lines(self.throughput)
        if self.stamped is not None:
            lines += _latency_lines(self.stamped, apart=len(self.works) > 1)
        return "\n".join(lines) + "\n"


def _throughput(outcome: Outcome) -> dict[str, Any]:
    seconds, messages = outcome.seconds, outcome.messages
    receiver, producers = _cpu_us(outcome)
    return {
        "seconds": round(seconds, 6),
        "messages": messages,
        "bytes": outcome.nbytes,
        "messages_per_second": round(messages / seconds, 1),
        "bytes_per_second": round(outcome.nbytes / seconds, 1),
        "messages_by_producer": list(outcome.by_producer),
        "receiver_cpu_seconds": round(outcome.receiver_cpu, 6),
        "producers_cpu_seconds": round(outcome.producers_cpu, 6),
        "receiver_cpu_us_per_message": receiver,
        "producers_cpu_us_per_message": producers,
    }


def _latency(outcome: Outcome) -> dict[str, Any]:
    quantiles = _quantiles(outcome.latency)
    return {
        "seconds": round(outcome.seconds, 6),
        "messages": outcome.messages,
        "messages_per_second": round(outcome.messages / outcome.seconds, 1),
        "size_bytes": outcome.work.size,
        "latency_us": {name.replace(".", "_"): us for name, us in quantiles.items()},
    }


def _throughput_lines(outcome: Outcome) -> Iterator[str]:
    seconds, messages = outcome.seconds, outcome.messages
    rate = messages / seconds
    short = rate < outcome.work.rate * _HELD
    exact = "" if outcome.failures else ", from every producer exactly those that it sent"
    yield (
        f"throughput  {rate:,.0f} messages/s, {size(outcome.nbytes / seconds)}/s"
        f"{'; more could not be had' * short}"
    )
    yield f"            {_many(messages, 'message')} in {seconds:.2f} s{exact}"
    yield f"            {min(outcome.by_producer):,} to {max(outcome.by_producer):,} from each"
    receiver, producers = _cpu_us(outcome)
    yield f"CPU time    a message: receiver {receiver:,.3f} µs, producers {producers:,.3f} µs"
    yield f"            the receiver was busy for {outcome.receiver_cpu / seconds:.0%} of the time"


def _latency_lines(outcome: Outcome, *, apart: bool) -> Iterator[str]:
    figures = ", ".join(f"{name} {us:,.0f} µs" for name, us in _quantiles(outcome.latency).items())
    yield f"latency     {figures}"
    line = f"            one way, at {_many(round(outcome.work.rate), 'message')}/s"
    if apart:
        many = _many(outcome.messages, "message")
        line += f", apart from the throughput: {many} of {size(outcome.work.size)}"
    yield line


def _cpu_us(outcome: Outcome) -> tuple[float, float]:
    """Return microseconds a message: the receiver's, and all producers' together."""
    both = (outcome.receiver_cpu, outcome.producers_cpu)
    receiver, producers = (round(cpu / outcome.messages * _MILLION, 6) for cpu in both)
    return receiver, producers


def _quantiles(latency: Histogram) -> dict[str, float]:
    """Return microseconds, by name."""
    found = {name: latency.quantile(fraction) for name, fraction in QUANTILES.items()}
    return {name: value / 1000 for name, value in {**found, "max": latency.largest}.items()}


def _many(count: int, what: str) -> str:
    return f"{count:,} {plural(count, what).partition(' ')[2]}"
