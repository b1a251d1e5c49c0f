"""Run once, in a process of its own: a spec in, what was measured out."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.gates import Gates
from benchmarks.peers.base import Missing, Peer
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import REPORT, Work


def run_forked(peer: Peer) -> dict[str, Any]:
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


def _produce(peer: Peer, index: int, gates: Gates, report: int) -> None:
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


def raise_descriptor_limit() -> int:
    """Let this process and its children open as many descriptors as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe(name: str) -> dict[str, str]:
    """Return a peer's version and settings, or why it is missing."""
    try:
        peer = peers.load(name)
        return {"version": peer.version(), "settings": peer.settings}
    except (ImportError, Missing) as exc:
        return {"missing": str(exc)}


def main() -> None:
    """Answer what the one argument asks: a spec, or a peer's name."""
    (question,) = sys.argv[1:]
    if question in peers.PEERS:
        answer = describe(question)
    else:
        spec = Spec.from_json(question)
        raise_descriptor_limit()
        with tempfile.TemporaryDirectory(prefix="mpsr-") as folder:
            answer = peers.load(spec.peer).measure(spec, folder)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
