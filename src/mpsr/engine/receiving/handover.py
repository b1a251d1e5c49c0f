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

import os
import socket
from base64 import b64encode
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

from mpsr.errors import RemoteProtocolError
from mpsr.json_format import to_json
from mpsr.json_reader import from_json
from mpsr.limits import HANDOVER_ANSWER
from mpsr.system import passing, primitives
from mpsr.system.descriptors import socketpair
from mpsr.system.poller import READ
from mpsr.wire.frames import RejectCode
from mpsr.wire.ledger import ProducerState
from mpsr.wire.transitions import State

if TYPE_CHECKING:
    from logging import Logger

    from mpsr.engine.receiving.acceptor import Acceptor
    from mpsr.engine.receiving.connection import Connection
    from mpsr.engine.receiving.connections import Connections
    from mpsr.engine.receiving.listener import Listener
    from mpsr.engine.receiving.senders import Senders
    from mpsr.system.poller import AnyPoller
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


class Offered(TypedDict):
    """An address that is offered."""

    address: str
    """Its bytes, each of which is one character."""
    locked: bool
    """Whether the descriptor of its lock comes along."""


class Word(TypedDict):
    """A packet of the dialogue."""

    step: str
    listeners: NotRequired[list[Offered]]


def read_word(packet: bytes) -> Word:
    """Return what a packet of the dialogue says; raise ValueError if it is none."""
    return from_json(packet, Word, most=PACKET)


class Giver:
    """The giver's end.

    Attributes:
        step: how far it has come.

    """

    def __init__(self, connection: Connection, listeners: Sequence[Listener]) -> None:
        """Offer the addresses to the taker, which has asked through a connection."""
        self._listeners = listeners
        self._socket, theirs = socketpair(socket.SOCK_SEQPACKET)
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
        word = None
        if heard:
            with suppress(ValueError):  # no word of the dialogue: it ends
                word = read_word(heard)["step"]
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
                file.write(to_json(state).encode())
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
            self._socket.check()
            self._socket.sendmsg([to_json(message).encode()], passing.along(*descriptors))
        except OSError:  # the taker is gone, or does not read
            if self.step is not Step.TAKEN:
                self.step = Step.OVER


class Handovers:
    """The hand-overs of a receiver, one at a time; new receivers that ask meanwhile wait in order.

    Attributes:
        giver: the one that is under way, or has ended the receiver.

    """

    def __init__(
        self,
        poller: AnyPoller,
        acceptor: Acceptor,
        connections: Connections,
        senders: Senders,
        logger: Logger,
    ) -> None:
        self._poller = poller
        self._acceptor = acceptor
        self._connections = connections
        self._senders = senders
        self._logger = logger
        self.giver: Giver | None = None
        self._queue: deque[Connection] = deque()  # of new receivers that have asked
        self._answer_by = inf  # when the taker is to have answered, on the monotonic clock

    def ask(self, connection: Connection, *, ending: bool) -> None:
        """Offer a new receiver what we have, if it is of our user or of root.

        Raises RemoteProtocolError if it is not, or where nothing can be handed over.
        """
        if connection.uid not in (0, os.geteuid()):
            why = "it asked for a hand-over, and may not receive here"
            self._senders.count(connection.peer, why, self._logger)
            raise RemoteProtocolError(why, code=RejectCode.DENIED)
        if not self._acceptor.may_go_on:
            why = "the receiver has sockets that another process has passed to it"
            raise RemoteProtocolError(why, code=RejectCode.DENIED)
        if ending:
            raise RemoteProtocolError("the receiver is ending", code=RejectCode.BUSY)
        self._queue.append(connection)
        self._offer_next()

    def _offer_next(self) -> None:
        """Offer what we have to the first in the queue that is still connected."""
        while self._queue and self.giver is None:
            connection = self._queue.popleft()
            if connection.open:
                self.giver = Giver(connection, self._acceptor.listeners)
                self._poller.register(self.giver, READ, self.giver)

    def _dismiss(self) -> None:
        """Close the connections in the queue: they will ask the receiver that has taken over."""
        while self._queue:
            connection = self._queue.popleft()
            if connection.open:
                self._connections.part_with(connection)

    @property
    def alone(self) -> bool:
        """Whether nothing is read but what the taker says."""
        return self.giver is not None and self.giver.step is not Step.OFFERED

    @property
    def begun(self) -> bool:
        """Whether nothing more is read, because a taker waits."""
        return self.giver is not None and self.giver.step is Step.BEGUN

    @property
    def taken(self) -> bool:
        """Whether another one is the receiver now."""
        return self.giver is not None and self.giver.step is Step.TAKEN

    def hear(self) -> None:
        """Take note of what the taker says; if it is gone, go on, or offer all to the next one."""
        if self.giver is not None:
            self.giver.hear()
            if self.giver.step is Step.OVER:
                self._poller.unregister(self.giver)
                self.giver.close()
                self.giver, self._answer_by = None, inf
                self._offer_next()
            elif self.giver.step is Step.TAKEN:
                self._dismiss()

    def listen(self, now: float) -> None:
        """Listen to the taker alone, until it has taken too long to answer."""
        giver = self.giver
        if giver is None:
            return
        if now > self._answer_by and giver.step is not Step.TAKEN:
            giver.step = Step.OVER
        if giver.step is Step.OVER or any(each is giver for each, _ in self._poller.poll(0)):
            self.hear()

    def wait_times(self, now: float) -> list[float]:
        """Return the seconds that the taker has left to answer."""
        return [self._answer_by - now] if self._answer_by < inf else []

    def commit(self, now: float, *, journal: bool = False) -> None:
        """Pass everything to a taker that waits: what was read is handed out and accepted."""
        if self.giver is not None and self.begun:
            self._connections.send_acks()
            self._acceptor.places.fill(anyhow=True)
            ledger, connections = self._connections.ledger, list(self._connections.open)
            self.giver.commit(ledger, connections, journal=journal)
            self._answer_by = now + HANDOVER_ANSWER

    def release(self) -> None:
        """Pass everything to a taker that waits, without waiting for its answer: we end."""
        if self.giver is not None:
            self.commit(0.0)
            self.giver.release()

    def gives(self, connection: Connection) -> bool:
        """Tell whether a connection goes on at the taker."""
        return self.giver is not None and self.giver.given(connection)

    def end(self) -> None:
        """Close what was spoken through: whoever waits for it knows that all is released."""
        if self.giver is not None:
            self.giver.close()

    def leave(self) -> None:
        """Close the descriptor alone: it is the parent process's."""
        if self.giver is not None:
            self.giver.leave()


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
