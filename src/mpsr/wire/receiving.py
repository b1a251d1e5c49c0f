"""Follow the receiver's end of one connection, in any framing."""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr._speedups import codec
from mpsr.batch import UNKNOWN_PEER, Batch, Peer
from mpsr.errors import LocalProtocolError, RemoteProtocolError
from mpsr.limits import MAX_MESSAGE
from mpsr.wire.foreign import TextDeframer, deframer, messages_in
from mpsr.wire.frames import (
    FROM_RECEIVER,
    PREFACE,
    VERSION,
    Ack,
    FrameType,
    Handover,
    Hello,
    Lost,
    LostReason,
    Move,
    Observe,
    Offer,
    Reject,
    RejectCode,
    Ring,
    Welcome,
    decode,
    encode,
    malformed,
    max_frame,
)
from mpsr.wire.framing import Deframer, Run, detect, too_large
from mpsr.wire.native import NativeDeframer, RawFrame
from mpsr.wire.transitions import RECEIVER_TRANSITIONS, State

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from mpsr.wire.framing import Framing
    from mpsr.wire.ledger import ProducerState

_OPEN: Final = State.OPEN  # to look it up in the enum takes longer than to compare


class Ended(NamedTuple):
    """The stream ended; ``orderly`` if the producer said BYE."""

    orderly: bool


#: A batch also says how many messages were dropped at the producer before it.
Event = Hello | Batch[Any] | Move | Handover | Observe | Ended


class ReceivingSession:
    """The receiver's end of one connection, in any framing."""

    accepts_files: bool = False  # FileSession may
    __slots__ = (
        "_broken",
        "_decode",
        "_events",
        "_frames",
        "_given",
        "_lost",
        "_max_frame",
        "_max_message",
        "_native",
        "_out",
        "_peer",
        "_preface",
        "_producer",
        "address",
        "apart",
        "foreign",
        "framing",
        "may_observe",
        "messages",
        "nbytes",
        "refusal",
        "seq",
        "settled",
        "state",
    )

    def __init__(
        self,
        framing: Framing = "auto",
        *,
        max_message: int = MAX_MESSAGE,
        peer: Peer = UNKNOWN_PEER,
        address: str | None = None,
        decode: Callable[[bytes], Any] | None = None,
        packets: bool = False,
    ) -> None:
        """Begin with nothing received; ``packets``: the kernel keeps boundaries."""
        self.framing: Framing = framing
        """The one that is spoken; "auto" until the first bytes have shown it."""
        self.settled: bool = False
        """Whether it is a native connection that owes nothing just now."""
        self.apart: bool = False
        """Whether the messages that came last were long, so that the next may have places too."""
        self._peer = peer
        self.address: str | None = address
        self.refusal: RemoteProtocolError | None = None
        """Why the peer may not send here, so that whatever comes is rejected."""
        self.may_observe: bool = False  # it may still ask what the receiver is doing
        self._decode = decode
        self.state: State = State.DETECTING
        self._max_message = max_message
        self._max_frame = max_frame(max_message)
        self._preface = b""
        self._native: NativeDeframer | None = None
        self._frames: list[RawFrame] = []  # not yet looked at
        self._broken: RemoteProtocolError | None = None  # what is wrong behind them
        self._producer: ProducerState | None = None
        self._given = False  # whether it gave a ring that nothing has come through yet
        self._lost = 0  # reported, and not yet handed on with a batch
        self.foreign: Deframer[Run] | None = None
        self.seq: int = 0  # foreign framings: messages so far
        self.messages: int = 0  # in batches so far; one that is sent again counts once
        self.nbytes: int = 0  # of these messages, without framing
        self._events: list[Event] = []
        self._out = b""
        if framing != "auto" and (framing == "native" or not packets):
            self._settle(framing)

    @property
    def pending(self) -> int:
        """Bytes of a frame or message that has begun and is not whole."""
        if self.foreign is not None:
            return self.foreign.pending
        begun = self._native.pending if self._native is not None else 0
        return len(self._preface) % len(PREFACE) + begun

    def receive_data(self, data: Buffer) -> None:
        """Take what the connection brought; batches may share its memory, if it is bytes.

        Raises RemoteProtocolError where it breaks the format; ``events_received`` still tells
        all that was good before, and ``data_to_send`` holds a REJECT if the framing has one.
        What is wrong behind a HELLO that has no answer yet is raised by ``welcome``.
        """
        data = data if type(data) is bytes else bytes(data)
        view = memoryview(data)
        if self.settled:
            view = view[self.receive_whole(data, self._events) :]
        if self.state is State.FAILED or self._broken is not None or not view:
            return
        if self.state is State.DETECTING:
            self._settle(detect(view[0]))
        try:
            if self.refusal is not None and not (self.may_observe and self.foreign is None):
                raise self.refusal
            if self.foreign is not None:
                self._take_foreign(self.foreign, view)
            elif self._native is not None:
                self._take_native(self._native, view)
        except RemoteProtocolError as exc:
            self.reject(exc.code, str(exc))
            raise

    def receive_packets(self, packets: list[bytes]) -> None:
        """Take packets that the connection brought: native frames, or else messages.

        Raises RemoteProtocolError like ``receive_data``.
        """
        begins = self.state is State.DETECTING and self.framing == "auto"
        if begins and packets[0].startswith(PREFACE[:-1]):  # of any version
            self._settle("native")
        if self._native is not None:
            self.receive_data(b"".join(packets))
        elif self.refusal is not None:
            raise self.refusal
        elif self.state is not State.FAILED:
            self.state = State.FOREIGN
            messages = messages_in(packets, self.framing)
            good = list(takewhile(lambda each: len(each) <= self._max_message, messages))
            if good:
                self._receive(self.seq, partial(iter, good), len(good), sum(map(len, good)))
                self.seq += len(good)
            if len(good) < len(messages):
                raise too_large(f"a message of more than {self._max_message} bytes")

    def receive_whole(self, data: bytes, batches: list[Event] | deque[Batch[Any]]) -> int:
        """Append the batches that came whole and in order, as most do; return where they end.

        This is a fast path, for a session that is ``settled``; what it leaves goes through the
        deframer.
        """
        producer_state = self._producer
        if producer_state is None:
            return 0
        peer, producer, decoder = self._peer, producer_state.identity, self._decode
        expected = producer_state.expected_seq
        end, found = codec.scan_batches(data, expected, self._max_frame)
        size = 0
        for seq, count, nbytes, payload in found:
            size += nbytes
            messages = partial(codec.iter_batch, payload, 0)
            batch: Batch[Any] = Batch(
                messages, count, nbytes, peer, producer, seq, 0, decoder, payload, producer_state
            )
            batch.address = self.address
            batches.append(batch)
            producer_state.expected_seq = seq + count
            self.apart = False
        self.messages += producer_state.expected_seq - expected
        self.nbytes += size
        return end

    def wanted(self) -> list[memoryview]:
        """Return where the next bytes belong, if they are the rest of a large frame.

        Release them, then tell ``receive_wanted`` how much was read into them.
        """
        if self._native is None or self.state is not State.OPEN or self._broken is not None:
            return []
        return self._native.wanted()

    def receive_wanted(self, size: int) -> None:
        """Take what was read into ``wanted``; raise like ``receive_data``."""
        try:
            if self._native is not None:
                self._native.feed_wanted(size, self._frames)
                self._process()
        except RemoteProtocolError as exc:
            self.reject(exc.code, str(exc))
            raise

    def receive_eof(self) -> None:
        """Take the end of the stream; raise RemoteProtocolError if it cuts a message off."""
        orderly = self.state is not State.FAILED
        if self._native is not None:
            orderly = self.state is State.ENDED
        if self.state is not State.FAILED:
            self.state = State.ENDED
        self.settled = False
        runs: list[Run] = []
        try:
            if self.foreign is not None and orderly:
                self.foreign.finish(runs)
                self._receive_runs(self.foreign, runs)
        except RemoteProtocolError:
            orderly = False
            raise
        finally:
            self._events.append(Ended(orderly))

    def events_received(self) -> list[Event]:
        """Return what has happened since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def answers(self) -> bool:
        """Whether there is something to send."""
        return len(self._out) > 0

    def data_to_send(self) -> bytes:
        """Return what to send since the last call."""
        out, self._out = self._out, b""
        return out

    def welcome(self, producer_state: ProducerState) -> None:
        """Answer Hello: go on where the producer stands.

        Raises RemoteProtocolError like ``receive_data``, for what came behind the HELLO.
        """
        self._pass(FrameType.WELCOME)
        self._producer = state = producer_state
        welcome = Welcome(state.epoch, state.expected_seq, self._max_frame, self.accepts_files)
        self._out += encode(welcome) + encode(Ack(state.accepted_seq))
        try:
            self._process()
        except RemoteProtocolError as exc:
            self.reject(exc.code, str(exc))
            raise

    def acknowledge(self, seq: int) -> None:
        """Tell the producer that everything below ``seq`` is accepted."""
        if self.state is State.OPEN:
            self._out += encode(Ack(seq))

    def give_ring(self, size: int) -> None:
        """Give the producer a ring; the descriptor goes with what is then to be sent."""
        self._pass(FrameType.RING)
        self._given = True
        self._out += encode(Ring(size))

    def offer(self) -> None:
        """Answer Handover; the descriptor goes with what is then to be sent."""
        self._pass(FrameType.OFFER)
        self._out += encode(Offer())

    def reject(self, code: int, text: str) -> None:
        """Refuse to go on; the connection is to be closed once the answer is out."""
        if (self.state, FrameType.REJECT) in RECEIVER_TRANSITIONS:
            self._out += encode(Reject(code, text))
        self.state = State.FAILED
        self.settled = False

    # -- foreign framings -------------------------------------------------------------------

    def _settle(self, framing: Framing) -> None:
        self.framing = framing
        if framing == "native":
            self.state = State.PREFACE
            self._native = NativeDeframer(self._max_message)
        else:
            self.state = State.FOREIGN
            self.foreign = deframer(framing, self._max_message)

    def _take_foreign(self, foreign: Deframer[Run], data: memoryview) -> None:
        runs: list[Run] = []
        try:
            foreign.feed(data, runs)
        finally:
            self._receive_runs(foreign, runs)

    def _receive_runs(self, foreign: Deframer[Run], runs: list[Run]) -> None:
        if isinstance(foreign, TextDeframer):
            self.framing = foreign.framing
        for count, nbytes, split in runs:
            self._receive(self.seq, split, count, nbytes)
            self.seq += count

    # -- native -----------------------------------------------------------------------------

    def _take_native(self, native: NativeDeframer, data: memoryview) -> None:
        missing = len(PREFACE) - len(self._preface)
        if missing:
            self._preface += data[:missing]
            data = data[missing:]
            self._check_preface()
        try:
            native.feed(data, self._frames)
        except RemoteProtocolError as exc:
            self._broken = exc
        self._process()

    def _check_preface(self) -> None:
        if not PREFACE.startswith(self._preface):
            if self._preface[:-1] == PREFACE[:-1]:
                error = f"version {self._preface[-1]} is not spoken here, {VERSION} is"
                raise RemoteProtocolError(error, code=RejectCode.VERSION)
            raise malformed("preface", f"the connection does not open with {PREFACE!r}")
        if self._preface == PREFACE:
            self.state = State.HELLO

    def _process(self) -> None:
        """Turn frames into events, up to one that needs an answer first."""
        frames, self._frames = self._frames, []
        try:
            for position, (kind, payload, flags, bodies) in enumerate(frames):
                if self.state is State.GREETED:
                    self._frames = frames[position:]
                    return
                if kind == FrameType.BATCH:
                    if self.state is not _OPEN:
                        self._pass(FrameType.BATCH)
                    self._receive_batch(payload, bodies)
                else:
                    self._receive_control(kind, payload, flags)
            if self._broken is not None and self.state is not State.GREETED:
                raise self._broken
        finally:
            if self._lost and self._producer is not None:
                self._receive(self._producer.expected_seq, list, 0, 0)
            if self._native is not None:
                owes = self._native.begun or self._broken is not None
                self.settled = self.state is State.OPEN and not owes
                self.apart = self._native.apart

    def _pass(self, kind: FrameType) -> None:
        state = RECEIVER_TRANSITIONS.get((self.state, kind))
        if state is None:
            if kind is FrameType.WELCOME:
                error = f"there is no HELLO to answer in state {self.state.name}"
                raise LocalProtocolError(error)
            error = f"unexpected {kind.name} in state {self.state.name}"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        self.state = state

    def _receive_control(self, kind: int, payload: bytes, flags: int) -> None:
        if kind in FROM_RECEIVER:
            error = f"unexpected {FrameType(kind).name}: it comes from a receiver only"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        frame = decode(kind, payload, flags)
        self._pass(FrameType(kind))
        if isinstance(frame, Hello | Move | Handover | Observe):
            if isinstance(frame, Move) and not self._given:
                error = "unexpected MOVE: there is no ring"
                raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
            self._given = self._given and not isinstance(frame, Move)
            self._events.append(frame)
        elif isinstance(frame, Lost):
            dropped = frame.dropped - self._already(frame.first_seq, frame.dropped)
            if frame.reason != LostReason.LOOPED:  # else the loss itself would loop
                self._lost += dropped

    def _receive_batch(self, payload: bytes, bodies: list[bytes] | None) -> None:
        try:
            if bodies is not None:
                nbytes = sum(map(len, bodies))
                first_seq, sizes = codec.scan_head(payload, len(payload) + nbytes)
                count = len(sizes)
            else:
                first_seq, count, nbytes = codec.scan_batch(payload)
        except ValueError as exc:
            raise malformed("BATCH", str(exc)) from None
        skip = self._already(first_seq, count)
        if skip == count:
            return
        if bodies is not None:
            rest = bodies[skip:]
            nbytes = sum(map(len, rest))
            self._receive(first_seq + skip, partial(iter, rest), count - skip, nbytes)
        else:
            if skip:
                nbytes = sum(map(len, codec.iter_batch(payload, skip)))
            messages = partial(codec.iter_batch, payload, skip)
            self._receive(first_seq + skip, messages, count - skip, nbytes, payload)

    def _receive(
        self,
        first_seq: int,
        messages: Callable[[], Iterable[bytes]],
        count: int,
        nbytes: int,
        payload: Buffer | None = None,
    ) -> None:
        """Tell of messages, and of those that were lost before them."""
        lost, self._lost = self._lost, 0
        self.messages += count
        self.nbytes += nbytes
        state, peer, decoder = self._producer, self._peer, self._decode
        producer = None if state is None else state.identity
        batch: Batch[Any] = Batch(
            messages, count, nbytes, peer, producer, first_seq, lost, decoder, payload, state
        )
        batch.address = self.address
        self._events.append(batch)

    def _already(self, first_seq: int, count: int) -> int:
        """Expect what comes after these; return how many of them had come before."""
        producer_state = self._producer
        if producer_state is None:  # pragma: no cover - by the table: OPEN only after welcome()
            raise LocalProtocolError("a batch before welcome()")
        if first_seq > producer_state.expected_seq:
            error = f"a gap: expected {producer_state.expected_seq}, got {first_seq}"
            raise RemoteProtocolError(error, code=RejectCode.GAP)
        if first_seq == producer_state.expected_seq:
            producer_state.expected_seq += count
            return 0
        already = min(producer_state.expected_seq - first_seq, count)
        producer_state.expected_seq = max(producer_state.expected_seq, first_seq + count)
        return already
