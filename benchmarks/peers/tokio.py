"""The same pattern in Rust, on tokio: receiver and producers both."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from functools import cache
from typing import Any, Final

from benchmarks.gates import Gate
from benchmarks.peers.base import Missing, Peer
from benchmarks.sink import Sink, percentiles
from benchmarks.spec import Spec
from benchmarks.work import Work

SOURCE: Final = os.path.join(os.path.dirname(__file__), "tokio")
MANIFEST: Final = ("--manifest-path", os.path.join(SOURCE, "Cargo.toml"))
BINARY: Final = os.path.join(SOURCE, "target", "release", "tokio-peer")


class Tokio(Peer):
    """A UnixListener, a task per connection, a bounded channel; LengthDelimitedCodec."""

    settings = (
        "multi-threaded runtime, LTO; `LengthDelimitedCodec`; a bounded `mpsc` of 1,024; the "
        "producers encode, and write 128 KiB at a time; per message each goes through the channel "
        "by itself, in batches what was ready together does (`ready_chunks`)"
    )

    @classmethod
    def version(cls) -> str:
        build()
        tree = _say("cargo", "tree", "--offline", "--depth=1", "--prefix=none", *MANIFEST)
        (tokio,) = (line for line in tree.splitlines() if line.startswith("tokio v"))
        rust = _say("rustc", "--version")
        return f"{tokio.split()[1].lstrip('v')}, {' '.join(rust.split()[:2])}"

    def produce(self, work: Work) -> None:
        raise NotImplementedError

    def receive(self, sink: Sink) -> None:
        raise NotImplementedError

    @classmethod
    def measure(cls, spec: Spec, folder: str) -> dict[str, Any]:
        """Run once; the Rust receiver checks every message, in every run."""
        path = f"{folder}/socket"
        rest = [spec.share, spec.size, spec.interface, spec.rate / spec.processes]
        start = Gate()
        with ExitStack() as stack:

            def spawn(verb: str, number: int) -> subprocess.Popen[str]:
                arguments = [BINARY, verb, path, *map(str, [number, *rest])]
                process = subprocess.Popen(
                    arguments, stdin=start.fileno(), stdout=subprocess.PIPE, text=True
                )
                return stack.enter_context(process)

            receiver = spawn("receive", spec.producers)
            _expect(receiver, "listening")
            producers = [spawn("produce", index) for index in range(spec.producers)]
            _expect(receiver, "ready")
            start.open()
            received = _answer(receiver)
            sent = [_answer(producer) for producer in producers]
        latencies = [latency / 1000 for latency in received["latencies"]]
        return {
            "seconds": (received["ended"] - min(one["began"] for one in sent)) / 1e9,
            "messages": spec.total,
            "nbytes": spec.total * spec.size,
            "receiver_cpu": received["cpu"],
            "producer_cpu": sum(one["cpu"] for one in sent),
            **(percentiles(latencies) if latencies else {}),
        }


@cache
def build() -> None:
    """Build it, if that has not been done; raise Missing where it cannot be."""
    if shutil.which("cargo") is None:
        raise Missing("not built: there is no cargo here")
    cargo = ["cargo", "build", "--release", "--quiet", *MANIFEST]
    done = subprocess.run(cargo, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
        error = re.sub(
            r" \(/[^)]*\)", "", (errors or ["nothing"])[0]
        )  # the path is nobody's business
        raise Missing(f"not built: cargo says “{error}”")


def _say(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _expect(process: subprocess.Popen[str], word: str) -> None:
    line = process.stdout.readline().strip() if process.stdout else ""
    if line != word:
        raise RuntimeError(f"the Rust receiver said {line!r}, not {word!r}")


def _answer(process: subprocess.Popen[str]) -> Any:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError("a Rust process failed")
    return json.loads(line)
