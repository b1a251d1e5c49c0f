"""Feed an observer what a receiver answers: it understands the same, however it is cut."""

from __future__ import annotations

from typing import Any

from mpsr.errors import RemoteProtocolError
from mpsr.wire.observing import ObservingSession
from tests.fuzz.feeding import Source, cut


def feed(pieces: list[bytes]) -> tuple[Any, ...]:
    """Feed a session; return what it understood, and what it refused."""
    session = ObservingSession(1000, 100, 64)
    told: list[Any] = []
    for piece in pieces:
        try:
            session.receive_data(piece)
        except RemoteProtocolError as exc:
            return told + session.events_received(), type(exc), int(exc.code), str(exc)
        told += session.events_received()
    return told, session.ended


def run(data: bytes) -> None:
    """Feed a session in pieces, and another in one."""
    source = Source(data)
    sizes = source.sizes()
    stream = source.rest()
    if sizes and stream:
        assert feed(list(cut(stream, sizes))) == feed([stream])
    else:
        feed([stream])
