"""Give what is received to where it is to end: files, databases, other funnels, programs."""

from __future__ import annotations

from mpsr.errors import SinkError
from mpsr.sinks.delivery import Delivery
from mpsr.sinks.options import choice, count, mode, options, seconds, size
from mpsr.sinks.protocol import Displaced, Grouping, Sink, SinkStatus
from mpsr.sinks.table import NamedSink, sink

__all__ = [
    "Delivery",
    "Displaced",
    "Grouping",
    "NamedSink",
    "Sink",
    "SinkError",
    "SinkStatus",
    "choice",
    "count",
    "mode",
    "options",
    "seconds",
    "sink",
    "size",
]
