"""Know every peer by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple, cast

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer


class Entry(NamedTuple):
    """Where a peer is defined, and the environment that it wants."""

    module: str
    name: str
    environment: dict[str, str]


PEERS: Final = {
    "mpsr": Entry("ours", "Mpsr", {}),
    "mpsr, pure Python": Entry("ours", "Mpsr", {"MPSR_SPEEDUPS": "off"}),
    "mpsr, journal": Entry("durable", "Journaled", {}),
    "mpsr's journal": Entry("durable", "Store", {}),
    "mpsr's journal, read": Entry("durable", "Reading", {}),
    "file": Entry("durable", "File", {}),
    "raw socket": Entry("raw", "RawSocket", {}),
    "no library": Entry("handwritten", "HandWritten", {}),
    "tokio": Entry("tokio", "Tokio", {}),
    "pyzmq": Entry("zeromq", "ZeroMQ", {}),
    "pynng": Entry("nng", "Nng", {}),
    "multiprocessing.Queue": Entry("mp_queue", "Queue", {}),
    "multiprocessing.Connection": Entry("mp_connection", "Connections", {}),
    "faster-fifo": Entry("fifo", "FasterFifo", {}),
    "asyncio streams": Entry("streams", "AsyncioStreams", {}),
    "uvloop streams": Entry("streams", "UvloopStreams", {}),
}


def load(name: str) -> type[Peer]:
    """Return a peer; raise ImportError where what it needs is missing."""
    entry = PEERS[name]
    module = import_module(f"benchmarks.peers.{entry.module}")
    return cast("type[Peer]", getattr(module, entry.name))
