"""Run a peer in forked processes: the producers in children, the receiver in the parent."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from benchmarks.gates import Gates
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import REPORT, Work


class Forkable(Protocol):
    """What a peer has to be able to do."""

    spec: Spec

    def produce(self, work: Work) -> None:
        """Connect, and drive the work."""

    def hold(self, work: Work) -> None:
        """Hold idle connections, and run the work over all."""

    def receive(self, sink: Sink) -> None:
        """Listen, and feed the sink until it has everything."""


def run_forked(peer: Forkable) -> dict[str, Any]:
    """Fork the producers, be the receiver, and put together what both saw."""
    spec = peer.spec
    gates = Gates()
    reports, report = os.pipe()
    producers = [
        _fork(partial(_produce, peer, index, gates, report)) for index in range(spec.processes)
    ]
    os.close(report)
    sink = Sink(spec, gates)
    try:
        peer.receive(sink)
        said = b""
        while data := os.read(reports, 65_536):
            said += data
    except BaseException:
        for pid in producers:
            os.kill(pid, signal.SIGKILL)
        raise
    statuses = [os.waitpid(pid, 0)[1] for pid in producers]
    if any(statuses):
        raise RuntimeError("a producer failed")
    began, cpu = zip(*REPORT.iter_unpack(said), strict=True)
    return {
        "seconds": (sink.ended - min(began)) / 1e9,
        "producer_cpu": sum(cpu),
        **sink.result(),
    }


def _produce(peer: Forkable, index: int, gates: Gates, report: int) -> None:
    gates.join()
    work = Work(peer.spec, index, gates, report)
    gates.connect.wait()
    if peer.spec.kind == "idle":
        peer.hold(work)
    else:
        peer.produce(work)


def _fork(child: Callable[[], None]) -> int:
    """Call ``child`` in a child process, which ends with it."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        child()
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
