"""Publish messages into a stream of NATS JetStream: ``nats://HOST:PORT/STREAM/SUBJECT``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mpsr.errors import ConfigurationError, Explanation
from mpsr.sinks.nats.address import reader_target, sink_target

if TYPE_CHECKING:
    from mpsr.sinks.nats.reader import StreamReader
    from mpsr.sinks.nats.writer import NatsSink

_MISSING: Final = Explanation("it requires the package nats-py", advice="pip install 'mpsr[nats]'")


def sink(target: str) -> NatsSink:
    """Return a sink of ``//HOST:PORT,HOST:PORT/STREAM/SUBJECT?options``."""
    found = sink_target(target)
    try:
        from mpsr.sinks.nats.writer import NatsSink  # noqa: PLC0415 - an extra, and not light
    except ImportError as exc:
        raise ConfigurationError(_MISSING) from exc
    return NatsSink(found)


def stream_reader(target: str) -> StreamReader:
    """Return a reader of ``//HOST:PORT,HOST:PORT/STREAM/SUBJECT?options``; SUBJECT may be left out.

    Raises ConfigurationError where the target makes no sense, or nats-py is not installed.
    """
    found = reader_target(target)
    try:
        from mpsr.sinks.nats.reader import StreamReader  # noqa: PLC0415 - an extra, and not light
    except ImportError as exc:
        raise ConfigurationError(_MISSING) from exc
    return StreamReader(found)
