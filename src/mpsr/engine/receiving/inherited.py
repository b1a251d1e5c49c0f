"""Hold what a receiver begins with of one that has handed over to it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Final, NamedTuple

from mpsr.batch import ProducerIdentity
from mpsr.system.descriptors import Socket
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

    connections: Sequence[tuple[Carried, Socket]]
    producers: Sequence[ProducerState]


NOTHING: Final = Inherited((), ())


def read_state(memory: int) -> tuple[list[Carried], list[ProducerState]]:
    """Return the connections and the producers of a state that was passed."""
    with open(memory, "rb") as file:
        file.seek(0)
        state = json.load(file)
    producers: list[ProducerState] = []
    for uid, identity, label, epoch, seq in state["producers"]:
        producer = ProducerIdentity(bytes.fromhex(identity), label)
        producers.append(ProducerState((uid, producer.id), producer, seq, epoch))
    connections = [
        Carried(listener, framing, seq, b64decode(held))
        for listener, framing, seq, held in state["connections"]
    ]
    return connections, producers
