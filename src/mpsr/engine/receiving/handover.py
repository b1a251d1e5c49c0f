"""Hand a receiver's addresses and connections over to a new one, which has asked for them.

The two speak through a pair of sockets, in packets of JSON with descriptors::

    giver                                taker
    offer: listeners, locks        ->
                                   <-    ready
    connections: up to 200 each    ->          once all that was read is handed out
    state: producers, framings     ->
                                   <-    taken
    done                           ->

Up to "taken" the giver is the receiver: where the taker dies it goes on. From "offer" on the taker
holds the listeners and their locks, too: where the giver dies it has them.
"""

from __future__ import annotations

import json
import os
import socket
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.batch import ProducerIdentity
from mpsr.system import primitives
from mpsr.wire.ledger import ProducerState
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.listener import Listener
    from mpsr.wire.framing import Framing
    from mpsr.wire.ledger import Ledger

PACKET: Final = 65_536  # bytes: more than any packet of the dialogue has
DESCRIPTORS: Final = 200  # that one packet carries: the kernel allows 253


class Step(StrEnum):
    """How far a hand-over has come, at the giver."""

    OFFERED = "the taker has the listeners"
    BEGUN = "the taker is ready: nothing more is read, and what was is handed out"
    COMMITTED = "the taker has all"
    TAKEN = "the taker is the receiver"
    OVER = "the taker is gone: nothing has changed"


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


class Giver:
    """The giver's end.

    Attributes:
        step: how far it has come.

    """

    def __init__(self, connection: Connection, listeners: Sequence[Listener]) -> None:
        """Offer the addresses to the taker, which has asked through a connection."""
        self._listeners = listeners
        self._socket, theirs = primitives.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self.step: Step = Step.OFFERED
        self._carried: list[Connection] = []
        offers: list[dict[str, Any]] = []
        descriptors: list[int] = []
        for listener in listeners:
            told, along = listener.offer()
            offers.append(told)
            descriptors += along
        self._say({"step": "offer", "pid": os.getpid(), "listeners": offers}, descriptors)
        connection.session.offer()
        connection.flush(theirs.fileno())
        theirs.close()

    def fileno(self) -> int:
        """Return the descriptor at which the taker is heard."""
        return self._socket.fileno()

    def hear(self) -> None:
        """Take note of what the taker says, or of its end."""
        try:
            heard = self._socket.recv(PACKET)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        word = json.loads(heard).get("step") if heard else None
        if word == "ready" and self.step is Step.OFFERED:
            self.step = Step.BEGUN
        elif word == "taken" and self.step is Step.COMMITTED:
            self.step = Step.TAKEN
            self._say({"step": "done"})
        elif self.step is not Step.TAKEN:
            self.step = Step.OVER

    def commit(self, ledger: Ledger, connections: Sequence[Connection], *, journal: bool) -> None:
        """Pass what the receiver knows: all that was read is handed out and accepted.

        What producers a ``journal`` knows is not repeated.
        """
        self._carried = [each for each in connections if _goes_on(each)]
        for begin in range(0, len(self._carried), DESCRIPTORS):
            part = self._carried[begin : begin + DESCRIPTORS]
            self._say({"step": "connections"}, [each.fileno() for each in part])
        index = {listener.address: number for number, listener in enumerate(self._listeners)}
        state = {
            "connections": [_told(each, index) for each in self._carried],
            "producers": [] if journal else [_known(each) for each in ledger.states()],
        }
        memory = os.memfd_create("mpsr hand-over", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(json.dumps(state).encode())
            self._say({"step": "state"}, [memory])
        finally:
            primitives.close(memory)
        if self.step is Step.BEGUN:
            self.step = Step.COMMITTED

    def given(self, connection: Connection) -> bool:
        """Tell whether a connection goes on at the taker."""
        return self.step is Step.TAKEN and connection in self._carried

    def release(self) -> None:
        """Count a committed hand-over as done: the giver ends, and waits for no answer."""
        if self.step is Step.COMMITTED:
            self.step = Step.TAKEN
            self._say({"step": "done"})

    def leave(self) -> None:
        """Close the descriptor alone: it is the parent process's."""
        self._socket.close()

    def close(self) -> None:
        """End the dialogue; a taker that has not taken everything starts by itself."""
        if self.step is not Step.TAKEN:
            self._say({"step": "cancel"})
        self._socket.close()

    def _say(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        try:
            along = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
            self._socket.sendmsg([json.dumps(message).encode()], [along] if descriptors else [])
        except OSError:  # the taker is gone, or does not read
            if self.step is not Step.TAKEN:
                self.step = Step.OVER


def _goes_on(connection: Connection) -> bool:
    """Tell whether a connection is to be passed: a producer of ours connects anew by itself."""
    session = connection.session
    if session.refusal is not None:
        return False
    return session.state is State.FOREIGN or (
        session.state is State.DETECTING and not session.pending
    )


def _told(connection: Connection, index: dict[str, int]) -> list[Any]:
    session = connection.session
    held = b"" if session.foreign is None else session.foreign.held
    at = index.get(session.address or "", 0)
    return [at, session.framing, session.seq, b64encode(held).decode()]


def _known(state: ProducerState) -> list[Any]:
    uid, producer = state.key[0], state.identity
    return [uid, producer.id.hex(), producer.label, state.epoch, state.accepted_seq]


def read_state(memory: int) -> tuple[list[Carried], list[ProducerState]]:
    """Return the connections and the producers of a state that was passed."""
    with open(memory, "rb") as file:
        file.seek(0)
        state = json.load(file)
    producers: list[ProducerState] = []
    for uid, identity, label, epoch, seq in state["producers"]:
        producer = ProducerIdentity(bytes.fromhex(identity), label)
        known = ProducerState((uid, producer.id), producer, seq)
        known.epoch = epoch
        producers.append(known)
    connections = [
        Carried(listener, framing, seq, b64decode(held))
        for listener, framing, seq, held in state["connections"]
    ]
    return connections, producers
