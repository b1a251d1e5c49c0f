"""Hold what a receiver begins with of one that has handed over to it."""

from __future__ import annotations

import socket
from base64 import b64decode
from collections.abc import Sequence
from typing import Final, NamedTuple, TypedDict

from mpsr.batch import ProducerIdentity
from mpsr.json_reader import from_json
from mpsr.limits import MAX_HANDOVER
from mpsr.wire.framing import Framing
from mpsr.wire.ledger import ProducerState


class Carried(NamedTuple):
    """A connection that goes on at another receiver, in the middle of a message or not."""

    listener: int
    """Which of the addresses it came to."""
    framing: Framing
    seq: int
    """Messages so far."""
    held: bytes
    """What has come of a message that is not whole."""


class Inherited(NamedTuple):
    """What a receiver begins with: of another one, or nothing."""

    connections: Sequence[tuple[Carried, socket.socket]]
    producers: Sequence[ProducerState]


NOTHING: Final = Inherited((), ())


class _State(TypedDict):
    """The document in which a state is passed."""

    connections: list[tuple[int, Framing, int, str]]
    """Index of the address, framing, messages so far, and the begun message in base64."""
    producers: list[tuple[int | None, str, str, int, int]]
    """User, id in hexadecimal digits, label, epoch, and the number below which all is accepted."""


def read_state(memory: int) -> tuple[list[Carried], list[ProducerState]]:
    """Return the connections and the producers of a state that was passed.

    Raises ValueError if it is none.
    """
    with open(memory, "rb") as file:
        file.seek(0)
        state = from_json(file.read(MAX_HANDOVER + 1), _State, most=MAX_HANDOVER)
    producers: list[ProducerState] = []
    for uid, identity, label, epoch, seq in state["producers"]:
        producer = ProducerIdentity(bytes.fromhex(identity), label)
        producers.append(ProducerState((uid, producer.id), producer, seq, epoch))
    connections = [
        Carried(listener, framing, seq, b64decode(held))
        for listener, framing, seq, held in state["connections"]
    ]
    return connections, producers
