"""Hold the states of both ends of a connection, and what leads from one to the next."""

from __future__ import annotations

from enum import Enum
from typing import Final

from mpsr.wire.frames import FrameType


class State(Enum):
    """Where one end of a connection stands."""

    DETECTING = "nothing has come yet; the first byte will tell native, length or text"
    FOREIGN = "a framing without sessions"
    PREFACE = "the preface is not whole"
    HELLO = "the preface has passed; HELLO comes next"
    GREETED = "HELLO has passed; WELCOME comes next"
    ASKED = "HANDOVER has passed; OFFER comes next"
    OBSERVED = "OBSERVE has passed; what is seen flows to the observer"
    OPEN = "batches flow one way, acknowledgements the other"
    ENDED = "the producer said BYE, or the stream ended"
    FAILED = "the receiver sent REJECT, or the wire format was broken"


#: (state, frame that passes) -> next state, at the receiver.
RECEIVER_TRANSITIONS: Final[dict[tuple[State, FrameType], State]] = {
    (State.HELLO, FrameType.HELLO): State.GREETED,
    (State.HELLO, FrameType.HANDOVER): State.ASKED,  # by a new receiver
    (State.ASKED, FrameType.OFFER): State.ENDED,
    (State.HELLO, FrameType.OBSERVE): State.OBSERVED,  # by an observer
    (State.OBSERVED, FrameType.STATUS): State.OBSERVED,
    (State.OBSERVED, FrameType.TAP): State.OBSERVED,
    (State.GREETED, FrameType.WELCOME): State.OPEN,
    (State.OPEN, FrameType.BATCH): State.OPEN,
    (State.OPEN, FrameType.LOST): State.OPEN,
    (State.OPEN, FrameType.ACK): State.OPEN,
    (State.OPEN, FrameType.BYE): State.ENDED,
    (State.OPEN, FrameType.RING): State.OPEN,
    (State.OPEN, FrameType.MOVE): State.OPEN,  # once, and only behind a RING
    (State.OPEN, FrameType.FILE): State.OPEN,  # only where WELCOME said that files are accepted
    (State.PREFACE, FrameType.REJECT): State.FAILED,
    (State.HELLO, FrameType.REJECT): State.FAILED,
    (State.GREETED, FrameType.REJECT): State.FAILED,
    (State.ASKED, FrameType.REJECT): State.FAILED,
    (State.OBSERVED, FrameType.REJECT): State.FAILED,
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
    (State.OPEN, FrameType.RING): State.OPEN,  # once, and only where HELLO offered to take it
    (State.OPEN, FrameType.MOVE): State.OPEN,
    (State.OPEN, FrameType.FILE): State.OPEN,  # only where WELCOME said that files are accepted
    (State.ENDED, FrameType.ACK): State.ENDED,  # it was on its way when BYE was sent
    (State.ENDED, FrameType.REJECT): State.FAILED,  # so was this
    (State.ENDED, FrameType.RING): State.ENDED,  # and this
}
