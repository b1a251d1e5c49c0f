"""Publish messages into a stream of NATS JetStream: ``nats://HOST:PORT/STREAM/SUBJECT``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.errors import ConfigurationError
from mpsr.sinks.nats.address import sink_target

if TYPE_CHECKING:
    from mpsr.sinks.nats.writer import NatsSink


def sink(target: str) -> NatsSink:
    """Return a sink of ``//HOST:PORT,HOST:PORT/STREAM/SUBJECT?options``."""
    found = sink_target(target)
    try:
        from mpsr.sinks.nats.writer import NatsSink  # noqa: PLC0415 - an extra, and not light
    except ImportError as exc:
        error = "it needs the package nats-py: pip install 'mpsr[nats]'"
        raise ConfigurationError(error) from exc
    return NatsSink(found)
