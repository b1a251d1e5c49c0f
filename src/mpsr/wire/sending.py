"""Follow the producer's end of one native connection."""

from __future__ import annotations

from typing import Final, NamedTuple

from mpsr.errors import Explanation, LocalProtocolError, Rejected, RemoteProtocolError
from mpsr.limits import FRAME_OVERHEAD, MAX_CONTROL_FRAME
from mpsr.wire.frames import (
    ACK_FRAME,
    ACK_HEADER,
    FROM_PRODUCER,
    PREFACE,
    Ack,
    Bye,
    FrameType,
    Hello,
    Move,
    Reject,
    RejectCode,
    Ring,
    Welcome,
    decode,
    encode,
    malformed,
)
from mpsr.wire.native import NativeDeframer, RawFrame
from mpsr.wire.transitions import PRODUCER_TRANSITIONS, State

# What is compared for every batch: to look it up in the enum takes longer than to compare.
_OPEN: Final = State.OPEN
_ADVICE: Final[dict[int, str]] = {
    RejectCode.DENIED: "have the receiver allow this user, with allow_uids="
}


class Welcomed(NamedTuple):
    """The receiver goes on at ``expected_seq``; its messages are at most ``max_message`` long."""

    expected_seq: int
    max_message: int
    epoch: int
    """How many connections of this producer the receiver remembers, with this one."""
    accepts_files: bool = False


class Acknowledged(NamedTuple):
    """Everything below ``seq`` is accepted."""

    seq: int


class SendingSession:
    """The producer's end of one native connection."""

    __slots__ = ("_events", "_native", "_out", "_sends_files", "_sent_seq", "state", "takes_ring")

    def __init__(
        self,
        producer_id: bytes,
        lowest_seq: int,
        label: str,
        *,
        takes_ring: bool = False,
        sends_files: bool = False,
    ) -> None:
        self.state: State = State.HELLO
        self._native = NativeDeframer(0)
        self._events: list[Welcomed | Acknowledged | Ring] = []
        self.takes_ring: bool = takes_ring
        """Whether a ring of shared memory may be given, and was not yet."""
        self._sends_files = sends_files
        hello = Hello(producer_id, lowest_seq, label, takes_ring, sends_files)
        self._out = PREFACE + encode(hello)
        self._sent_seq = lowest_seq
        self._pass(FrameType.HELLO)

    def receive_data(self, data: memoryview) -> None:
        """Take what the connection brought.

        Raises Rejected when the receiver refuses this producer, and RemoteProtocolError where
        it breaks the format.
        """
        try:
            if self.state is _OPEN and not self._native.begun:
                data = self._receive_acks(data)
            frames: list[RawFrame] = []
            try:
                self._native.feed(data, frames)
            finally:  # what came before that which breaks the format counts, a REJECT above all
                for frame in frames:
                    self._receive(frame)
        except RemoteProtocolError:
            self.state = State.FAILED
            raise

    def _receive_acks(self, data: memoryview) -> memoryview:
        """Take the acknowledgements that came whole, of which the last says all; return the rest.

        This is a fast path; all else goes through the deframer.
        """
        end = seq = 0
        for frame in ACK_FRAME.iter_unpack(data[: len(data) // ACK_FRAME.size * ACK_FRAME.size]):
            if frame[:4] != ACK_HEADER or frame[4] > self._sent_seq:
                break
            seq = max(seq, frame[4])
            end += ACK_FRAME.size
        if end:
            self._events.append(Acknowledged(seq))
        return data[end:]

    def events_received(self) -> list[Welcomed | Acknowledged | Ring]:
        """Return what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """Return what to send since the last call."""
        out, self._out = self._out, b""
        return out

    def sent(self, end_seq: int) -> None:
        """Note that a BATCH or LOST that ends before ``end_seq`` was sent."""
        if self.state is not _OPEN:
            self._pass(FrameType.BATCH)
        self._sent_seq = max(self._sent_seq, end_seq)

    def move(self) -> None:
        """Say that what follows comes through the ring."""
        self._pass(FrameType.MOVE)
        self._out += encode(Move())

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
        frame = decode(raw.kind, raw.payload, raw.flags)
        kind = FrameType(raw.kind)
        if (self.state, kind) not in PRODUCER_TRANSITIONS:
            error = f"unexpected {kind.name} in state {self.state.name}"
            raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
        self._pass(kind)
        match frame:
            case Welcome():
                self._receive_welcome(frame)
            case Ring():
                if not self.takes_ring:
                    error = "unexpected RING: this producer takes none"
                    raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)
                self.takes_ring = False
                self._events.append(frame)
            case Ack(seq):
                if seq > self._sent_seq:
                    error = f"it accepts {seq}, but only {self._sent_seq} were sent"
                    raise malformed("ACK", error)
                self._events.append(Acknowledged(seq))
            case Reject(code, text):
                what, advice = "the receiver refused this producer", _ADVICE.get(code, "")
                raise Rejected(Explanation(what, text, advice), code=code)

    def _receive_welcome(self, welcome: Welcome) -> None:
        epoch, expected_seq, largest, accepts_files = welcome
        if accepts_files and not self._sends_files:
            raise malformed("WELCOME", "it accepts files, which this producer does not send")
        self.takes_ring = self.takes_ring and not accepts_files  # a ring carries no files
        if expected_seq < self._sent_seq:
            error = f"it expects {expected_seq}, but HELLO named {self._sent_seq}"
            raise malformed("WELCOME", error)
        if largest < MAX_CONTROL_FRAME:
            raise malformed("WELCOME", f"its largest frame is {largest} bytes")
        self._sent_seq = expected_seq
        most = largest - FRAME_OVERHEAD
        self._events.append(Welcomed(expected_seq, most, epoch, accepts_files))
