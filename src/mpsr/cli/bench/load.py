"""Be a producer of a bench: a child process."""

from __future__ import annotations

import multiprocessing
import os
import resource
import struct
import sys
from itertools import count
from threading import Thread
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING, Final

from mpsr.cli.bench.work import STAMP_SIZE
from mpsr.cli.complaint import complain
from mpsr.cli.signals import heed_again
from mpsr.cli.status import status_of
from mpsr.errors import MpsrError
from mpsr.limits import BATCH_TARGET, BUFFER
from mpsr.sync.producer import Producer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.cli.bench.shared import Board, Gate, Report
    from mpsr.cli.bench.work import Work

STAMP: Final = struct.Struct("=q")  # STAMP_SIZE bytes
SECOND: Final = 1_000_000_000  # nanoseconds

_ALL_BUFFERS: Final = 4 * BUFFER  # bytes, of all producers: what a full one leaves is yet to send
_LOOK: Final = 0.1  # seconds: a producer that waits for its time notices an interruption in so long
_CLOCK_INTERVAL: Final = 1000  # messages, or BATCH_TARGET, between two readings of the clock


def buffer_of(work: Work) -> int:
    """Return how many bytes each producer may buffer: the default, unless there are many."""
    return min(BUFFER, _ALL_BUFFERS // work.producers)


def cpu_ns() -> int:
    """Return the CPU time of this process, all threads, in the kernel and out of it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round((usage.ru_utime + usage.ru_stime) * SECOND)


class Load:
    """The producers of a phase.

    Args:
        address: where they send to.
        work: what they do.
        gate: what they wait for before they do it.
        board: where an interruption is reported.
        reports: where each tells what it has done.

    """

    def __init__(
        self, address: str, work: Work, gate: Gate, board: Board, reports: Sequence[Report]
    ) -> None:
        self._address = address
        self._work = work
        self._gate = gate
        self._board = board
        self._reports = reports

    def produce(self, index: int) -> None:
        """Be one of them: connect, wait for the others, send until it is time to end."""
        heed_again()
        self._gate.join()
        Thread(target=_end_with_parent, daemon=True).start()
        try:
            with Producer(
                self._address,
                label=f"mpsr bench, producer {index}",
                buffer=buffer_of(self._work),
                max_message=self._work.size,
            ) as producer:
                self._drive(producer, index)
        except MpsrError as exc:
            complain(exc, who=f"producer {index}")
            sys.exit(status_of(exc))

    def _drive(self, producer: Producer, index: int) -> None:
        work, report = self._work, self._reports[index]
        producer.send(bytes(work.size))  # the receiver waits for it, to know that we are here
        report.sent = 1
        self._gate.wait()
        began_cpu, report.began_ns = cpu_ns(), monotonic_ns()
        if work.rate:
            self._send_paced(producer, index, report)
        else:
            self._send_at_once(producer, report)
        report.ended_ns = monotonic_ns()
        producer.flush()  # however long it takes: we end with the receiver
        report.cpu_ns = cpu_ns() - began_cpu
        report.accepted = producer.stats().accepted

    def _send_at_once(self, producer: Producer, report: Report) -> None:
        """Send without a pause; look at the clock only now and then."""
        work, board = self._work, self._board
        end = report.began_ns + work.seconds * SECOND
        number = work.batch or max(1, min(_CLOCK_INTERVAL, BATCH_TARGET // work.size))
        messages = [bytes(work.size)] * number
        send, send_many = producer.send, producer.send_many
        while monotonic_ns() < end and not board.signum:
            if work.batch is None:
                for message in messages:
                    send(message)
            else:
                send_many(messages)
            report.sent += number

    def _send_paced(self, producer: Producer, index: int, report: Report) -> None:
        """Send every message when it is due, by a timetable that the producers share.

        One that is late is sent at once, and the next by the timetable again.
        """
        work, board = self._work, self._board
        filler = bytes(work.size - STAMP_SIZE)
        interval = SECOND / work.rate
        end = report.began_ns + work.seconds * SECOND
        for slot in count(index, work.producers):
            due = report.began_ns + slot * interval
            while (left := min(due, end) - monotonic_ns()) > 0 and not board.signum:
                sleep(min(left / SECOND, _LOOK))
            now = monotonic_ns()
            if now >= end or board.signum:
                break
            producer.send(STAMP.pack(now) + filler)
            report.sent += 1


def _end_with_parent() -> None:
    """Leave nobody behind, also when the parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
