"""Run one phase of a bench: fork its producers, receive what they send, compare the counts."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from multiprocessing import get_context
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Final

from mpsr import amounts
from mpsr.cli.bench.latency import Histogram
from mpsr.cli.bench.load import SECOND, STAMP, Load, cpu_ns
from mpsr.cli.bench.shared import Gate, Report, shared
from mpsr.cli.signals import held_back
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import plural
from mpsr.errors import Explanation, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.process import BaseProcess

    from mpsr.cli.bench.meter import Meter, Tally
    from mpsr.cli.bench.shared import Board
    from mpsr.cli.bench.work import Work

_PATIENCE: Final = 10.0  # seconds for the next producer to appear
_LOOK: Final = 0.1  # seconds of silence after which one may have failed


@dataclass(frozen=True)
class Outcome:
    """What a phase measured."""

    work: Work
    seconds: float
    """From the first send to the last receive, or to the end of the timetable."""
    by_producer: tuple[int, ...]
    """Messages received from each."""
    receiver_cpu: float
    """Seconds."""
    producers_cpu: float
    """Seconds, of all together."""
    latency: Histogram
    """Empty where there was no rate."""
    failures: tuple[str, ...]
    """A line for everything that is not as it should be."""

    @property
    def messages(self) -> int:
        """How many were received."""
        return sum(self.by_producer)

    @property
    def nbytes(self) -> int:
        """Bytes of all messages, without framing."""
        return self.messages * self.work.size


def run_phase(work: Work, meter: Meter, board: Board) -> Outcome:
    """Do the work, with fresh producers.

    Raises:
        CommandFailed: a producer did not come, or somebody else did.

    """
    reports = shared(Report, work.producers)
    producers: list[BaseProcess] = []
    with Gate() as gate:
        try:
            load = Load(str(meter.address), work, gate, board, reports)
            for index in range(work.producers):
                child = get_context("fork").Process(target=load.produce, args=(index,))
                with held_back():
                    child.start()
                producers.append(child)
            meter.attend(producers)
            await_all(meter, producers)
            board.messages = board.nbytes = 0
            began_cpu, board.began_ns = cpu_ns(), monotonic_ns()
            gate.open()
            latency = _take(meter, work)
            receiver_cpu = cpu_ns() - began_cpu
            for producer in producers:
                producer.join()
        finally:
            for producer in producers:
                producer.kill()  # no more than a precaution, unless we failed
                producer.join()
            board.began_ns = 0
    by_producer = tuple(tally.messages - 1 for tally in meter.tallies)  # one came before the clock
    began_ns = min(report.began_ns or board.began_ns for report in reports)
    ended_ns = max(meter.handled_ns, *(report.ended_ns for report in reports))
    return Outcome(
        work=work,
        seconds=(ended_ns - began_ns) / SECOND,
        by_producer=by_producer,
        receiver_cpu=receiver_cpu / SECOND,
        producers_cpu=sum(report.cpu_ns for report in reports) / SECOND,
        latency=latency,
        failures=tuple(_failures(producers, reports, meter.tallies, work.size)),
    )


def await_all(meter: Meter, producers: Sequence[BaseProcess]) -> None:
    """Return once every producer has sent its first message, and waits for the start."""
    come, deadline = 0, monotonic() + _PATIENCE
    while come < len(producers):
        try:
            meter.receive(timeout=_LOOK)
            come, deadline = come + 1, monotonic() + _PATIENCE
        except TimedOut:
            if monotonic() > deadline or any(producer.exitcode for producer in producers):
                line = f"only {come} of {plural(len(producers), 'producer')} came"
                why, advice = "the others ended early or are too slow", "run it again, with fewer"
                raise CommandFailed(Status.FAILURE, Explanation(line, why, advice)) from None


def _take(meter: Meter, work: Work) -> Histogram:
    """Receive everything, as a program would; return the latencies of what has a stamp.

    The meter counts.
    """
    latency = Histogram()
    if work.rate:
        for message in meter:
            latency.add(monotonic_ns() - STAMP.unpack_from(message)[0])
    elif work.batch is not None:
        for batch in meter.batches():
            list(batch)  # makes the messages
    else:
        for _ in meter:
            pass
    return latency


def _failures(
    producers: Sequence[BaseProcess],
    reports: Sequence[Report],
    tallies: Sequence[Tally],
    size: int,
) -> Iterator[str]:
    """Give a line for every producer that did not end well, or whose counts disagree."""
    for index, (producer, report, tally) in enumerate(
        zip(producers, reports, tallies, strict=True)
    ):
        status = producer.exitcode or 0
        if status < 0:
            yield f"producer {index} was killed by {signal.Signals(-status).name}"
        elif status > 0:
            yield f"producer {index} failed with status {status}"
        elif line := disagreement(report, tally, size):
            yield f"producer {index} {line}"


def disagreement(report: Report, tally: Tally, size: int) -> str:
    """Tell how what a producer sent and what came from it differ; empty where they do not."""
    came = (tally.messages, tally.nbytes, tally.lost)
    if report.accepted == report.sent and came == (report.sent, report.sent * size, 0):
        return ""
    return (
        f"sent {plural(report.sent, 'message')} of {amounts.size(size)}, of which "
        f"{report.accepted} were accepted; received from it: {tally.messages}, in all "
        f"{amounts.size(tally.nbytes)}; it reported {tally.lost} as lost"
    )
