"""Drive the ends of a connection in memory, as an engine would over a socket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from mpsr._speedups import codec
from mpsr.batch import Batch, ProducerIdentity
from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_MESSAGE
from mpsr.wire.frames import (
    ControlFrame,
    FrameType,
    Hello,
    Lost,
    LostReason,
    Observe,
    RejectCode,
    Ring,
    decode,
    encode,
)
from mpsr.wire.framing import Framing
from mpsr.wire.ledger import Ledger, ProducerState
from mpsr.wire.native import NativeDeframer, RawFrame
from mpsr.wire.receiving import Ended, ReceivingSession
from mpsr.wire.sending import Acknowledged, SendingSession, Welcomed
from mpsr.wire.transitions import State

UID: Final = 1000
PRODUCER_ID: Final = bytes(range(16))


class Messages(NamedTuple):
    """Messages that follow each other, however many batches or reads they came in."""

    first_seq: int
    bodies: list[bytes]


class Dropped(NamedTuple):
    """So many were lost at the producer, in however many pieces it was told."""

    messages: int


Understood = Hello | Messages | Dropped | Observe


class ReceiverEnd:
    """A receiving session that answers HELLO from a ledger, as the inbox does.

    What it understands does not depend on how the bytes are cut, so it can be compared.
    """

    def __init__(
        self,
        framing: Framing = "auto",
        *,
        max_message: int = MAX_MESSAGE,
        ledger: Ledger | None = None,
        uid: int | None = UID,
    ) -> None:
        self.session = ReceivingSession(framing, max_message=max_message)
        self.ledger = Ledger() if ledger is None else ledger
        self.producer_state: ProducerState | None = None
        self.understood: list[Understood] = []
        self.sent = b""
        self.error: RemoteProtocolError | None = None
        self.orderly: bool | None = None  # until the stream has ended
        self._uid = uid

    def feed(self, data: bytes) -> None:
        """Take one read; the buffer is used again at once, as a shared one is."""
        buffer = bytearray(data)
        try:
            self.session.receive_data(memoryview(buffer))
        except RemoteProtocolError as exc:
            self.error = exc
        buffer[:] = b"\xee" * len(buffer)
        self._settle()

    def feed_all(self, pieces: Iterable[bytes]) -> None:
        """Take one read after the other, up to one that breaks the format."""
        for piece in pieces:
            if self.error is None:
                self.feed(piece)

    def finish(self) -> None:
        """Take the end of the stream."""
        try:
            self.session.receive_eof()
        except RemoteProtocolError as exc:
            self.error = exc
        self._settle()

    def accept(self, seq: int) -> None:
        """Acknowledge everything below ``seq``."""
        assert self.producer_state is not None
        self.producer_state.accepted_seq = seq
        self.session.acknowledge(seq)
        self.sent += self.session.data_to_send()

    def leave(self) -> None:
        """Lose the connection without having seen its end."""
        producer_state, self.producer_state = self.producer_state, None
        if producer_state is not None:
            self.ledger.gone(producer_state, 0.0, orderly=False)

    def _settle(self) -> None:
        hello: Hello | None = None
        for event in self.session.events_received():
            match event:
                case Hello():
                    self.understood.append(event)
                    hello = event
                case Observe():
                    self.understood.append(event)
                case Batch():
                    self._take(event)
                case Ended(orderly):
                    self.orderly = orderly
                    if self.producer_state is not None:
                        self.ledger.gone(self.producer_state, 0.0, orderly=orderly)
                        self.producer_state = None
        if hello is not None:
            self._greet(hello)
        self.sent += self.session.data_to_send()

    def _greet(self, hello: Hello) -> None:
        try:
            identity = ProducerIdentity(hello.producer_id, hello.label)
            producer_state = self.ledger.open(self._uid, identity, hello.lowest_seq, 0.0)
            producer_state.fence = self._fenced
            self.producer_state = producer_state
            self.session.welcome(producer_state)
        except RemoteProtocolError as exc:
            self.error = exc
            self.session.reject(exc.code, str(exc))
        self._settle()

    def _fenced(self) -> None:
        self.producer_state = None
        self.error = RemoteProtocolError("a newer connection speaks", code=RejectCode.FENCED)
        self.session.reject(self.error.code, str(self.error))
        self.sent += self.session.data_to_send()

    def _take(self, batch: Batch[bytes]) -> None:
        first_seq, lost = batch.first_seq, batch.lost
        bodies = list(batch)
        assert len(batch) == len(bodies)
        assert batch.raw == bodies
        assert batch.nbytes == sum(map(len, bodies))
        assert lost or bodies, "an event that says nothing"
        last = self.understood[-1] if self.understood else None
        if lost:
            already = last.messages if isinstance(last, Dropped) else 0
            if already:
                self.understood.pop()
            self.understood.append(Dropped(already + lost))
            last = None
        if not bodies:
            return
        if isinstance(last, Messages):
            assert first_seq == last.first_seq + len(last.bodies)
            last.bodies.extend(bodies)
        else:
            self.understood.append(Messages(first_seq, list(bodies)))

    @property
    def bodies(self) -> list[bytes]:
        """All messages so far."""
        return [
            body for item in self.understood if isinstance(item, Messages) for body in item.bodies
        ]

    @property
    def lost(self) -> int:
        """How many messages the producer reported as dropped so far."""
        return sum(item.messages for item in self.understood if isinstance(item, Dropped))


class ConnectionPair:
    """Both ends of one native connection, with pipes between them that can be cut."""

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        producer_id: bytes = PRODUCER_ID,
        lowest_seq: int = 0,
        label: str = "",
        uid: int | None = UID,
        max_message: int = MAX_MESSAGE,
    ) -> None:
        self.producer = SendingSession(producer_id, lowest_seq, label)
        self.receiver = ReceiverEnd(ledger=ledger, uid=uid, max_message=max_message)
        self.told: list[Welcomed | Acknowledged | Ring] = []  # what the producer understood
        self.refusal: RemoteProtocolError | None = None
        self._there = b""  # on the way to the receiver
        self._told_bytes = 0  # how much of what the receiver sent has arrived
        self.next_seq = lowest_seq

    def send(self, messages: Sequence[bytes], first_seq: int | None = None) -> None:
        """Put a batch on the way."""
        first_seq = self.next_seq if first_seq is None else first_seq
        self._send(codec.pack_batch(messages, first_seq), first_seq + len(messages))

    def lose(self, count: int, first_seq: int | None = None) -> None:
        """Put the word that messages were dropped on the way."""
        first_seq = self.next_seq if first_seq is None else first_seq
        data = encode(Lost(first_seq, count, LostReason.DROPPED_OLDEST))
        self._send(data, first_seq + count)

    def _send(self, data: bytes, end_seq: int) -> None:
        self.producer.sent(end_seq)
        self._there += self.producer.data_to_send() + data
        self.next_seq = end_seq

    def bye(self) -> None:
        """Put BYE on the way."""
        self.producer.bye()

    def exchange(self) -> None:
        """Carry everything to where it goes, until both ends are silent."""
        while self.deliver() + self.answer():
            pass

    def deliver(self, size: int | None = None) -> int:
        """Carry up to ``size`` bytes to the receiver; return how many."""
        self._there += self.producer.data_to_send()
        piece, self._there = self._there[:size], self._there[len(self._there[:size]) :]
        if piece and self.receiver.error is None:
            self.receiver.feed(piece)
        return len(piece)

    def answer(self, size: int | None = None) -> int:
        """Carry up to ``size`` bytes to the producer; return how many."""
        piece = self.receiver.sent[self._told_bytes :][:size]
        self._told_bytes += len(piece)
        if piece and self.producer.state is not State.FAILED:
            try:
                self.producer.receive_data(memoryview(piece))
            except RemoteProtocolError as exc:
                self.refusal = exc
            self.told += self.producer.events_received()
        return len(piece)

    def cut(self) -> None:
        """End the connection; what is still on the way is gone."""
        if self.receiver.orderly is None and self.receiver.error is None:
            self.receiver.finish()
        else:
            self.receiver.leave()

    @property
    def accepted(self) -> int:
        """The highest acknowledgement that the producer has heard."""
        return max((told.seq for told in self.told if isinstance(told, Acknowledged)), default=0)


def open_pair(ledger: Ledger | None = None, *, lowest_seq: int = 0, **more: int) -> ConnectionPair:
    """Return a pair that has exchanged HELLO and WELCOME."""
    pair = ConnectionPair(ledger, lowest_seq=lowest_seq, **more)  # type: ignore[arg-type]
    pair.exchange()
    return pair


def frames_in(data: bytes) -> list[ControlFrame]:
    """Return the control frames in what a receiver sent, every one whole."""
    raw: list[RawFrame] = []
    deframer = NativeDeframer(0)
    deframer.feed(memoryview(data), raw)
    assert deframer.pending == 0
    assert all(frame.kind != FrameType.BATCH for frame in raw)
    return [decode(frame.kind, frame.payload) for frame in raw]


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return the data in pieces that begin at the places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def bytewise(data: bytes) -> list[bytes]:
    """Return the data byte by byte."""
    return [data[place : place + 1] for place in range(len(data))]
