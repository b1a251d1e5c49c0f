"""Run once, in a process of its own: a spec in, what was measured out."""

from __future__ import annotations

import json
import resource
import sys
import tempfile

from benchmarks import peers
from benchmarks.peers.base import Missing
from benchmarks.spec import Spec


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
