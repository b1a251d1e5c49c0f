"""Say what one phase of a bench does."""

from __future__ import annotations

from typing import Final, NamedTuple

from mpsr.limits import MIB

STAMP_SIZE: Final = 8  # bytes: when a message was made, on CLOCK_MONOTONIC, in nanoseconds

_LATENCY_RATE: Final = 2000  # messages a second: the receiver sleeps between most of them
_LATENCY_FLOW: Final = 64 * MIB  # bytes a second: large messages come more rarely, so that it can
_LATENCY_SECONDS: Final = 2.0  # 4,000 messages: enough for a p99, and for an idea of the p99.9
_LATENCY_SHARE: Final = 0.2  # of a short run


class Work(NamedTuple):
    """Every producer sends for so long."""

    producers: int
    size: int
    """Bytes of every message."""
    seconds: float
    batch: int | None = None
    """Messages that are given to send_many at once; None: they are sent one by one."""
    rate: float = 0
    """Messages a second, of all producers together, each with a stamp; 0: as fast as can be."""


def plan(
    *, producers: int, size: int, seconds: float, batch: int | None, rate: float
) -> list[Work]:
    """Return the phases: latency apart from throughput, unless a rate makes them one."""
    if rate:
        return [Work(producers, size, seconds, rate=rate)]
    stamped = max(size, STAMP_SIZE)
    modest = min(_LATENCY_RATE, _LATENCY_FLOW / stamped)
    first = min(_LATENCY_SECONDS, seconds * _LATENCY_SHARE)
    return [
        Work(producers, stamped, first, rate=modest),
        Work(producers, size, seconds - first, batch),
    ]
