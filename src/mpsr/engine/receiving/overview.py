"""Describe what a receiver is doing, as the document that observers get.

It is made in the observers' thread, while the engine may be at work in another: so whatever may
change meanwhile is copied in one step first, and an item that has just gone is left out.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from heapq import nlargest
from time import time
from typing import TYPE_CHECKING, Any, Protocol

from mpsr.limits import STUCK_AFTER, TOLD_PRODUCERS
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch
    from mpsr.engine.receiving.acceptor import Acceptor
    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.connections import Connections
    from mpsr.stats import ReceiverStats


class Source(Protocol):
    """What is asked of a receiving engine, with a journal or without."""

    @property
    def in_hand(self) -> Batch[Any] | None:
        """The batch that was handed out last, and is not acknowledged."""

    @property
    def changed_at(self) -> float:
        """When a batch was last handed out, or none was left: on the monotonic clock."""

    @property
    def stopping(self) -> bool:
        """Whether an end was asked for."""

    def stats(self) -> ReceiverStats:
        """Return what was seen so far."""


class Overview:
    """Describes one receiver.

    Attributes:
        source: the engine that is described.
        journal: returns what is to be told of the journal; None if there is none.
        sinks: returns what is to be told of where the messages go on to.

    """

    def __init__(self, source: Source, acceptor: Acceptor, connections: Connections) -> None:
        self.source: Source = source
        self.journal: Callable[[], dict[str, Any]] | None = None
        self.sinks: Callable[[], list[dict[str, Any]]] | None = None
        self._acceptor = acceptor
        self._connections = connections
        self._started = time()
        self._names: dict[int, str | None] = {}  # of programs, by the number of a connection

    def messages_wait(self) -> bool:
        """Return whether messages wait to be read; call it only while the engine does not move."""
        if self._connections.pending:
            return True
        with suppress(OSError, ValueError):  # the engine has moved, and closed a socket
            return any(each.has_datagram() for each in self._acceptor.listeners) or any(
                each.has_message() for each in list(self._connections.open)
            )
        return False

    def document(self, *, still_since: float | None, most: int = TOLD_PRODUCERS) -> dict[str, Any]:
        """Return the document, with so many producers at most.

        ``still_since`` says since when the engine has stood still while messages or connections
        wait for it, on the monotonic clock; None if nothing waits, or the engine moves.
        """
        producers, left_out = self._producers(most)
        return {
            "mpsr": _version(),
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "addresses": [listener.address for listener in self._acceptor.listeners],
            "started": self._started,
            "now": time(),
            "consumer": self._consumer(still_since),
            "stats": self._stats(),
            "producers": producers,
            "producers_left_out": left_out,
            "journal": None if self.journal is None else self.journal(),
            "sinks": [] if self.sinks is None else self.sinks(),
        }

    def _consumer(self, still_since: float | None) -> dict[str, Any]:
        now, source = monotonic(), self.source
        since, batch = source.changed_at, source.in_hand
        if batch is not None:
            state = "stuck" if now - since > STUCK_AFTER else "handling"
        elif source.stopping:
            state = "stopping"
        elif still_since is not None:
            state, since = "stuck", still_since
        else:
            state = "waiting"
        seconds = max(0.0, now - since)
        return {
            "state": state,
            "since": time() - seconds,
            "seconds": seconds,
            "batch": None if batch is None else _batch(batch),
        }

    def _stats(self) -> dict[str, Any]:
        stats = self.source.stats()._asdict()
        refused = stats["refused_by_uid"]
        stats["refused_by_uid"] = {str(uid): count for uid, count in refused.items()}
        return stats

    def _producers(self, most: int) -> tuple[list[dict[str, Any]], int]:
        connections = list(self._connections.open)  # one step, in which no other thread runs
        busiest = nlargest(most, connections, key=lambda each: each.session.nbytes)
        names = {each.order: self._name(each) for each in busiest}
        self._names = names
        now, wall = monotonic(), time()
        told = [_producer(each, names[each.order], now, wall) for each in busiest]
        return told, len(connections) - len(busiest)

    def _name(self, connection: Connection) -> str | None:
        """Return the name of a producer's program: read once, for it costs a system call."""
        if connection.order in self._names:
            return self._names[connection.order]
        try:
            with open(f"/proc/{connection.peer.pid}/comm", "rb") as file:
                return file.read().decode("utf-8", "replace").rstrip("\n")
        except OSError:
            return None


def _producer(connection: Connection, name: str | None, now: float, wall: float) -> dict[str, Any]:
    session, state = connection.session, connection.state
    unacknowledged = 0 if state is None else max(0, state.expected_seq - state.accepted_seq)
    return {
        "id": None if state is None else state.identity.id.hex(),
        "label": None if state is None else state.identity.label,
        "pid": connection.peer.pid,
        "uid": connection.peer.uid,
        "gid": connection.peer.gid,
        "name": name,
        "framing": session.framing,
        "address": session.address,
        "connected": wall - max(0.0, now - connection.opened_at),
        "messages": session.messages,
        "bytes": session.nbytes,
        "unacknowledged": unacknowledged,
        "lost": connection.lost,
        "ring": connection.in_ring,
    }


def _batch(batch: Batch[Any]) -> dict[str, Any]:
    producer = batch.producer
    return {
        "producer": None if producer is None else producer.id.hex(),
        "label": None if producer is None else producer.label,
        "pid": batch.peer.pid,
        "first_seq": batch.first_seq,
        "messages": len(batch),
        "bytes": batch.nbytes,
        "position": batch.position,
    }


def _version() -> str:
    version: str = sys.modules["mpsr"].__version__
    return version
