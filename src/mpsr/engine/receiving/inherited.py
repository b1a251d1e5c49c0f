"""Hold what a receiver begins with of one that has handed over to it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Final, NamedTuple, TypedDict

from mpsr.batch import ProducerIdentity
from mpsr.json_reader import from_json
from mpsr.limits import MAX_HANDOVER
from mpsr.system.descriptors import Socket
from mpsr.wire.frames import PRODUCER_ID_SIZE
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


class _State(TypedDict):
    """The document in which a state is passed."""

    connections: list[tuple[int, Framing, int, str]]
    """Index of the address, framing, messages so far, and the begun message in base64."""
    producers: list[tuple[int | None, str, str, int, int]]
    """User, id in hexadecimal digits, label, epoch, and the number below which all is accepted."""


def read_state(memory: int, listeners: int) -> tuple[list[Carried], list[ProducerState]]:
    """Return the connections and the producers of a state that was passed.

    Raises ValueError if the file cannot be read, holds no state, or has a value that no receiver
    with that number of ``listeners`` passes.
    """
    try:
        with open(memory, "rb", closefd=False) as file:
            file.seek(0)
            text = file.read(MAX_HANDOVER + 1)
    except OSError as exc:
        raise ValueError(exc.strerror or str(exc)) from exc
    state = from_json(text, _State, most=MAX_HANDOVER)
    producers: list[ProducerState] = []
    for uid, identity, label, epoch, seq in state["producers"]:
        producer = ProducerIdentity(bytes.fromhex(identity), label)
        _check(len(producer.id) == PRODUCER_ID_SIZE, "a producer id", identity)
        _check(epoch >= 0 and seq >= 0, "the number of a producer", min(epoch, seq))
        producers.append(ProducerState((uid, producer.id), producer, seq, epoch))
    connections: list[Carried] = []
    for listener, framing, seq, held in state["connections"]:
        _check(0 <= listener < listeners, "the index of an address", listener)
        _check(seq >= 0, "the number of a message", seq)
        connections.append(Carried(listener, framing, seq, b64decode(held, validate=True)))
    return connections, producers


def _check(holds: bool, what: str, value: object) -> None:  # noqa: FBT001 - the check itself
    """Raise ValueError if a value is invalid."""
    if not holds:
        error = f"{what} is invalid: {value}"
        raise ValueError(error)
