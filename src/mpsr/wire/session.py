"""Hold the states of both ends of a connection, as tables of transitions.

A session is fed what a connection brings (``receive_data``, ``receive_eof``), tells what that
means (``events_received``) and what to answer (``data_to_send``). It never waits, reads no
clock and knows no socket.
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr.errors import LocalProtocolError, Rejected, RemoteProtocolError
from mpsr.limits import FRAME_OVERHEAD, MAX_CONTROL_FRAME, MAX_MESSAGE
from mpsr.wire import codec
from mpsr.wire.frames import (
    FROM_PRODUCER,
    FROM_RECEIVER,
    HEADER,
    PREFACE,
    VERSION,
    Ack,
    Bye,
    FrameType,
    Hello,
    Lost,
    Reject,
    RejectCode,
    Welcome,
    decode,
    encode,
    malformed,
    max_frame,
    scan_single,
)
from mpsr.wire.framing import Deframer, NativeDeframer, RawFrame, Run, deframer, detect, single

if TYPE_CHECKING:
    from mpsr.wire.framing import Framing
    from mpsr.wire.ledger import Track


class State(Enum):
    """Where one end of a connection stands."""

    DETECTING = "nothing has come yet; the first byte will tell the framing"
    FOREIGN = "a framing without sessions"
    PREFACE = "the preface is not whole"
    HELLO = "the preface has passed; HELLO comes next"
    GREETED = "HELLO has passed; WELCOME comes next"
    OPEN = "batches flow one way, acknowledgements the other"
    ENDED = "the producer said BYE, or the stream ended"
    FAILED = "the receiver sent REJECT, or the wire format was broken"


#: (state, frame that passes) -> next state, at the receiver.
RECEIVER_TRANSITIONS: Final[dict[tuple[State, FrameType], State]] = {
    (State.HELLO, FrameType.HELLO): State.GREETED,
    (State.GREETED, FrameType.WELCOME): State.OPEN,
    (State.OPEN, FrameType.BATCH): State.OPEN,
    (State.OPEN, FrameType.LOST): State.OPEN,
    (State.OPEN, FrameType.ACK): State.OPEN,
    (State.OPEN, FrameType.BYE): State.ENDED,
    (State.PREFACE, FrameType.REJECT): State.FAILED,
    (State.HELLO, FrameType.REJECT): State.FAILED,
    (State.GREETED, FrameType.REJECT): State.FAILED,
    (State.OPEN, FrameType.REJECT): State.FAILED,
}

#: (state, frame that passes) -> next state, at the producer.
PRODUCER_TRANSITIONS: Final[dict[tuple[State, FrameType], State]] = {
    (State.HELLO, FrameType.HELLO): State.GREETED,
    (State.GREETED, FrameType.WELCOME): State.OPEN,
    (State.GREETED, FrameType.REJECT): State.FAILED,
    (State.OPEN, FrameType.BATCH): State.OPEN,
    (State.OPEN, FrameType.LOST): State.OPEN,
    (State.OPEN, FrameType.ACK): State.OPEN,
    (State.OPEN, FrameType.REJECT): State.FAILED,
    (State.OPEN, FrameType.BYE): State.ENDED,
    (State.ENDED, FrameType.ACK): State.ENDED,  # it was on its way when BYE was sent
    (State.ENDED, FrameType.REJECT): State.FAILED,  # so was this
}


class Received(NamedTuple):
    """Messages arrived; ``lost`` more were dropped at the producer before them."""

    first_seq: int
    run: Run
    lost: int


class Ended(NamedTuple):
    """The stream ended; ``orderly`` if the producer said BYE."""

    orderly: bool


Event = Hello | Received | Ended


class ReceivingSession:
    """The receiver's end of one connection, in any framing."""

    __slots__ = (
        "_broken",
        "_events",
        "_foreign",
        "_frames",
        "_lost",
        "_max_frame",
        "_max_message",
        "_native",
        "_out",
        "_preface",
        "_seq",
        "_track",
        "framing",
        "state",
    )

    def __init__(self, framing: Framing = "auto", *, max_message: int = MAX_MESSAGE) -> None:
        self.framing: Framing = framing
        self.state = State.DETECTING
        self._max_message = max_message
        self._max_frame = max_frame(max_message)
        self._preface = b""
        self._native: NativeDeframer | None = None
        self._frames: list[RawFrame] = []  # not yet looked at
        self._broken: RemoteProtocolError | None = None  # what is wrong behind them
        self._track: Track | None = None
        self._lost = 0  # reported, and not yet told with a batch
        self._foreign: Deframer[Run] | None = None
        self._seq = 0  # foreign framings: messages so far
        self._events: list[Event] = []
        self._out = b""
        if framing != "auto":
            self._settle(framing)

    @property
    def pending(self) -> int:
        """Bytes of a frame or message that has begun and is not whole."""
        if self._foreign is not None:
            return self._foreign.pending
        begun = self._native.pending if self._native is not None else 0
        return len(self._preface) % len(PREFACE) + begun

    def receive_data(self, data: memoryview) -> None:
        """Take what the connection brought.

        Raises RemoteProtocolError where it breaks the format; ``events_received`` still tells
        all that was good before, and ``data_to_send`` holds a REJECT if the framing has one.
        What is wrong behind a HELLO that has no answer yet is raised by ``welcome``.
        """
        if self.settled:
            data = self._receive_whole(data)
        if self.state is State.FAILED or self._broken is not None or not data:
            return
        if self.state is State.DETECTING:
            self._settle(detect(data[0]))
        try:
            if self._foreign is not None:
                self._take_foreign(self._foreign, data)
            elif self._native is not None:
                self._take_native(self._native, data)
        except RemoteProtocolError as exc:
            self.reject(exc.code, str(exc))
            raise

    def wanted(self) -> memoryview | None:
        """Return where the next bytes belong, if they are the rest of a large frame.

        Release it, then tell ``receive_wanted`` how much was read into it.
        """
        if self._native is None or self.state is not State.OPEN or self._broken is not None:
            return None
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
        runs: list[Run] = []
        try:
            if self._foreign is not None and orderly:
                self._foreign.finish(runs)
                self._receive_runs(runs)
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
    def settled(self) -> bool:
        """Whether it is a native connection that owes nothing just now."""
        return self.state is State.OPEN and self._native is not None and not self._native.begun

    @property
    def answers(self) -> bool:
        """Whether there is something to send."""
        return len(self._out) > 0

    def data_to_send(self) -> bytes:
        """Return what to send since the last call."""
        out, self._out = self._out, b""
        return out

    def welcome(self, track: Track) -> None:
        """Answer Hello: go on where the producer's track stands.

        Raises RemoteProtocolError like ``receive_data``, for what came behind the HELLO.
        """
        self._pass(FrameType.WELCOME)
        self._track = track
        welcome = Welcome(track.epoch, track.expected_seq, self._max_frame)
        self._out += encode(welcome) + encode(Ack(track.accepted_seq))
        try:
            self._process()
        except RemoteProtocolError as exc:
            self.reject(exc.code, str(exc))
            raise

    def acknowledge(self, seq: int) -> None:
        """Tell the producer that everything below ``seq`` is accepted."""
        if self.state is State.OPEN:
            self._out += encode(Ack(seq))

    def reject(self, code: int, text: str) -> None:
        """Refuse to go on; the connection is to be closed once the answer is out."""
        if (self.state, FrameType.REJECT) in RECEIVER_TRANSITIONS:
            self._out += encode(Reject(code, text))
        self.state = State.FAILED

    # -- foreign framings -------------------------------------------------------------------

    def _settle(self, framing: Framing) -> None:
        self.framing = framing
        if framing == "native":
            self.state = State.PREFACE
            self._native = NativeDeframer(self._max_message)
        else:
            self.state = State.FOREIGN
            self._foreign = deframer(framing, self._max_message)

    def _take_foreign(self, foreign: Deframer[Run], data: memoryview) -> None:
        runs: list[Run] = []
        try:
            foreign.feed(data, runs)
        finally:
            self._receive_runs(runs)

    def _receive_runs(self, runs: list[Run]) -> None:
        for run in runs:
            self._events.append(Received(self._seq, run, 0))
            self._seq += run.length

    # -- native -----------------------------------------------------------------------------

    def _receive_whole(self, data: memoryview) -> memoryview:
        """Take the batches that came whole and in order, as most do; return what is left.

        This is the straight road: whatever is not as it mostly is takes the other one.
        """
        track, position, size = self._track, 0, len(data)
        while size - position > HEADER.size and track is not None:
            length, kind, flags, zero = HEADER.unpack_from(data, position)
            end = position + HEADER.size + length
            if kind != FrameType.BATCH or flags or zero or end > size or length > self._max_frame:
                break
            payload = bytes(data[position + HEADER.size : end])
            try:
                first_seq, count, nbytes = codec.scan_batch(payload)
            except ValueError:
                break
            if first_seq != track.expected_seq:
                break
            track.expected_seq += count
            run = Run(count, nbytes, partial(codec.split_batch, payload, 0), payload)
            self._events.append(Received(first_seq, run, 0))
            position = end
        return data[position:] if position else data

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
            for position, (kind, payload, body) in enumerate(frames):
                if self.state is State.GREETED:
                    self._frames = frames[position:]
                    return
                if kind == FrameType.BATCH:
                    if self.state is not State.OPEN:
                        self._pass(FrameType.BATCH)
                    self._receive_batch(payload, body)
                else:
                    self._receive_control(kind, payload)
            if self._broken is not None and self.state is not State.GREETED:
                raise self._broken
        finally:
            if self._lost and self._track is not None:
                self._receive(self._track.expected_seq, Run(0, 0, list))

    def _pass(self, kind: FrameType) -> None:
        state = RECEIVER_TRANSITIONS.get((self.state, kind))
        if state is None:
            if kind is FrameType.WELCOME:
                error = f"there is no HELLO to answer in state {self.state.name}"
                raise LocalProtocolError(error)
            error = f"unexpected {kind.name} in state {self.state.name}"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        self.state = state

    def _receive_control(self, kind: int, payload: bytes) -> None:
        if kind in FROM_RECEIVER:
            error = f"unexpected {FrameType(kind).name}: it comes from a receiver only"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        frame = decode(kind, payload)
        self._pass(FrameType(kind))
        if isinstance(frame, Hello):
            self._events.append(frame)
        elif isinstance(frame, Lost):
            self._lost += frame.dropped - self._already(frame.first_seq, frame.dropped)

    def _receive_batch(self, payload: bytes, body: bytes | None) -> None:
        try:
            if body is not None:
                first_seq, count, nbytes = scan_single(payload, len(body))
            else:
                first_seq, count, nbytes = codec.scan_batch(payload)
        except ValueError as exc:
            raise malformed("BATCH", str(exc)) from None
        skip = self._already(first_seq, count)
        if skip == count:
            return
        if body is not None:
            run = single(body)
        else:
            run = Run(count, nbytes, partial(codec.split_batch, payload, skip), payload)
        if skip:
            rest = run.split()
            run = Run(len(rest), sum(map(len, rest)), partial(list, rest), run.payload)
        self._receive(first_seq + skip, run)

    def _receive(self, first_seq: int, run: Run) -> None:
        lost, self._lost = self._lost, 0
        self._events.append(Received(first_seq, run, lost))

    def _already(self, first_seq: int, count: int) -> int:
        """Expect what comes after these; return how many of them had come before."""
        track = self._track
        if track is None:  # pragma: no cover - by the table: OPEN only after welcome()
            raise LocalProtocolError("a batch before welcome()")
        if first_seq > track.expected_seq:
            error = f"a gap: expected {track.expected_seq}, got {first_seq}"
            raise RemoteProtocolError(error, code=RejectCode.GAP)
        if first_seq == track.expected_seq:
            track.expected_seq += count
            return 0
        already = min(track.expected_seq - first_seq, count)
        track.expected_seq = max(track.expected_seq, first_seq + count)
        return already


class Welcomed(NamedTuple):
    """The receiver goes on at ``expected_seq``; its messages are at most ``max_message`` long."""

    expected_seq: int
    max_message: int


class Acknowledged(NamedTuple):
    """Everything below ``seq`` is accepted."""

    seq: int


class SendingSession:
    """The producer's end of one native connection."""

    __slots__ = ("_events", "_native", "_out", "_sent_seq", "state")

    def __init__(self, producer_id: bytes, lowest_seq: int, label: str) -> None:
        self.state = State.HELLO
        self._native = NativeDeframer(0)
        self._events: list[Welcomed | Acknowledged] = []
        self._out = PREFACE + encode(Hello(producer_id, lowest_seq, label))
        self._sent_seq = lowest_seq
        self._pass(FrameType.HELLO)

    def receive_data(self, data: memoryview) -> None:
        """Take what the connection brought.

        Raises Rejected when the receiver refuses this producer, and RemoteProtocolError where
        it breaks the format.
        """
        try:
            frames: list[RawFrame] = []
            self._native.feed(data, frames)
            for frame in frames:
                self._receive(frame)
        except RemoteProtocolError:
            self.state = State.FAILED
            raise

    def events_received(self) -> list[Welcomed | Acknowledged]:
        """Return what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """Return what to send since the last call."""
        out, self._out = self._out, b""
        return out

    def sent(self, end_seq: int) -> None:
        """Note that a BATCH or LOST that ends before ``end_seq`` was sent."""
        if self.state is not State.OPEN:
            self._pass(FrameType.BATCH)
        self._sent_seq = end_seq

    def bye(self) -> None:
        """Say that nothing more comes."""
        self._pass(FrameType.BYE)
        self._out += encode(Bye())

    def _pass(self, kind: FrameType) -> None:
        state = PRODUCER_TRANSITIONS.get((self.state, kind))
        if state is None:
            error = f"{kind.name} cannot pass in state {self.state.name}"
            raise LocalProtocolError(error)
        self.state = state

    def _receive(self, raw: RawFrame) -> None:
        if raw.kind in FROM_PRODUCER:
            error = f"unexpected {FrameType(raw.kind).name}: it comes from a producer only"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        frame = decode(raw.kind, raw.payload)
        kind = FrameType(raw.kind)
        if (self.state, kind) not in PRODUCER_TRANSITIONS:
            error = f"unexpected {kind.name} in state {self.state.name}"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        self._pass(kind)
        match frame:
            case Welcome(_, expected_seq, largest):
                if expected_seq < self._sent_seq:
                    error = f"it expects {expected_seq}, but HELLO named {self._sent_seq}"
                    raise malformed("WELCOME", error)
                if largest < MAX_CONTROL_FRAME:
                    raise malformed("WELCOME", f"its largest frame is {largest} bytes")
                self._sent_seq = expected_seq
                self._events.append(Welcomed(expected_seq, largest - FRAME_OVERHEAD))
            case Ack(seq):
                if seq > self._sent_seq:
                    error = f"it accepts {seq}, but only {self._sent_seq} were sent"
                    raise malformed("ACK", error)
                self._events.append(Acknowledged(seq))
            case Reject(code, text):
                error = f"the receiver refused this producer: {text}"
                raise Rejected(error, code=code)
