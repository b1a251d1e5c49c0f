"""Turn one native frame into bytes and back.

Every frame is ``u32 length of the payload, u8 type, u8 flags, u16 zero``, little-endian, then
the payload; docs/protocol.md draws them. A BATCH's payload belongs to the codec.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from mpsr.errors import RemoteProtocolError
from mpsr.limits import FRAME_OVERHEAD, MAX_CONTROL_FRAME, MAX_INTEGER, MAX_LABEL

VERSION: Final = 1
PREFACE: Final = b"\x89MPSR\r\n" + bytes([VERSION])
HEADER: Final = struct.Struct("<IBBH")
PRODUCER_ID_SIZE: Final = 16

_HELLO: Final = struct.Struct(f"<{PRODUCER_ID_SIZE}sQ")
_WELCOME: Final = struct.Struct("<IQI")
_LOST: Final = struct.Struct("<QQI")
_ACK: Final = struct.Struct("<Q")
_REJECT: Final = struct.Struct("<I")
_RING: Final = struct.Struct("<I")
_FILE: Final = struct.Struct("<Q")
_OBSERVE: Final = struct.Struct("<III")
_TAP: Final = struct.Struct("<I")
_U32: Final = 0xFFFF_FFFF


class FrameType(IntEnum):
    """The type byte."""

    HELLO = 1
    WELCOME = 2
    BATCH = 3
    LOST = 4
    ACK = 5
    REJECT = 6
    BYE = 7
    RING = 32  # frames beside the messages are counted from here
    MOVE = 33
    HANDOVER = 34
    OFFER = 35
    FILE = 36
    OBSERVE = 37
    STATUS = 38
    TAP = 39


TAKES_RING: Final = 1  # a flag of HELLO: the producer would take a ring
SENDS_FILES: Final = 2  # another: it would send files
ACCEPTS_FILES: Final = 1  # a flag of WELCOME: the receiver takes them, from a producer that would
FLAGS: Final[dict[int, int]] = {  # that a frame may have; all others are zero
    FrameType.HELLO: TAKES_RING | SENDS_FILES,
    FrameType.WELCOME: ACCEPTS_FILES,
}

FROM_RECEIVER: Final = frozenset(
    {
        FrameType.WELCOME,
        FrameType.ACK,
        FrameType.REJECT,
        FrameType.RING,
        FrameType.OFFER,
        FrameType.STATUS,
        FrameType.TAP,
    }
)
FROM_PRODUCER: Final = frozenset(FrameType) - FROM_RECEIVER


ACK_FRAME: Final = struct.Struct("<IBBHQ")  # the one frame that comes by the hundred, whole
ACK_HEADER: Final = (_ACK.size, int(FrameType.ACK), 0, 0)


class RejectCode(IntEnum):
    """Why a receiver closes a connection."""

    VERSION = 1  # the preface is of a version that this receiver does not speak
    MALFORMED = 2  # a frame breaks the format
    UNEXPECTED = 3  # a good frame at the wrong moment
    GAP = 4  # sequence numbers are missing
    TOO_LARGE = 5  # a frame or message is larger than the limit
    FENCED = 6  # a newer connection speaks for this producer
    BUSY = 7  # the receiver can take no more producers for now: try again later
    DEADLINE = 8  # a frame did not come in time: try again
    DENIED = 9  # the user or process may not send here


RETRY_CODES: Final = frozenset({RejectCode.BUSY, RejectCode.DEADLINE})


class LostReason(IntEnum):
    """Why a producer dropped messages."""

    DROPPED_NEWEST = 1  # the buffer was full and on_full="drop_newest"
    DROPPED_OLDEST = 2  # the buffer was full and on_full="drop_oldest"
    TOO_LARGE = 3  # the receiver's largest frame is smaller than the message
    FILE_REFUSED = 4  # the receiver takes no files, or the system does not pass this one


class Hello(NamedTuple):
    """A producer introduces itself."""

    producer_id: bytes
    lowest_seq: int
    label: str
    takes_ring: bool = False
    sends_files: bool = False


class Welcome(NamedTuple):
    """A receiver says where to go on."""

    epoch: int
    expected_seq: int
    max_frame: int
    accepts_files: bool = False


class Lost(NamedTuple):
    """These were dropped at the producer; expect the one after."""

    first_seq: int
    dropped: int
    reason: int


class Ack(NamedTuple):
    """Everything below ``seq`` is accepted."""

    seq: int


class Reject(NamedTuple):
    """The receiver closes the connection, and says why."""

    code: int
    text: str


class Bye(NamedTuple):
    """An orderly end."""


class Ring(NamedTuple):
    """A receiver gives a ring of ``size`` bytes of shared memory; its descriptor comes along."""

    size: int


class Move(NamedTuple):
    """What follows comes through the ring."""


class Handover(NamedTuple):
    """A new receiver asks the one that runs for its address."""


class Offer(NamedTuple):
    """A receiver will hand over: the rest is spoken through the descriptor that comes along."""


class Observe(NamedTuple):
    """An observer asks what the receiver is doing."""

    interval: int
    """Milliseconds from one STATUS to the next; 0: one alone."""
    rate: int
    """Messages a second that are wanted as samples, at most; 0: none."""
    clip: int
    """Bytes of a sample that are wanted, at most."""


ControlFrame = (
    Hello | Welcome | Lost | Ack | Reject | Bye | Ring | Move | Handover | Offer | Observe
)

_Plain = type[Lost | Ack | Ring | Observe]
_PLAIN: Final[dict[int, tuple[_Plain, struct.Struct]]] = {
    FrameType.LOST: (Lost, _LOST),
    FrameType.ACK: (Ack, _ACK),
    FrameType.RING: (Ring, _RING),
    FrameType.OBSERVE: (Observe, _OBSERVE),
}
_EMPTY: Final[dict[int, Bye | Move | Handover | Offer]] = {
    FrameType.BYE: Bye(),
    FrameType.MOVE: Move(),
    FrameType.HANDOVER: Handover(),
    FrameType.OFFER: Offer(),
}
_KINDS: Final[dict[type[ControlFrame], FrameType]] = {
    **{plain: FrameType(kind) for kind, (plain, _) in _PLAIN.items()},
    **{type(empty): FrameType(kind) for kind, empty in _EMPTY.items()},
}


def max_frame(max_message: int) -> int:
    """Return the largest payload length that carries messages of up to ``max_message`` bytes."""
    return min(max(max_message + FRAME_OVERHEAD, MAX_CONTROL_FRAME), _U32)


def frame_size(data: bytes) -> int:
    """Return the bytes of the frame at the head of ``data``, header included."""
    return HEADER.size + int(HEADER.unpack_from(data)[0])


def encode(frame: ControlFrame) -> bytes:
    """Return a whole frame, header included."""
    match frame:
        case Hello(producer_id, lowest_seq, label):
            payload = _HELLO.pack(producer_id, lowest_seq) + encode_label(label)
            flags = TAKES_RING * frame.takes_ring | SENDS_FILES * frame.sends_files
            return _with_header(FrameType.HELLO, payload, flags)
        case Welcome():
            payload = _WELCOME.pack(*frame[:3])
            return _with_header(FrameType.WELCOME, payload, ACCEPTS_FILES * frame.accepts_files)
        case Ack(seq):
            return ACK_FRAME.pack(*ACK_HEADER, seq)
        case Reject(code, text):
            room = MAX_CONTROL_FRAME - _REJECT.size
            payload = _REJECT.pack(code) + clip_utf8(text.encode("utf-8", "replace"), room)
            return _with_header(FrameType.REJECT, payload)
        case Lost() | Ring() | Observe():
            kind = _KINDS[type(frame)]
            return _with_header(kind, _PLAIN[kind][1].pack(*frame))
        case Bye() | Move() | Handover() | Offer():
            return _with_header(_KINDS[type(frame)], b"")


def decode(kind: int, payload: bytes, flags: int = 0) -> ControlFrame:
    """Return the frame of a control type; raise RemoteProtocolError if it is malformed."""
    try:
        match kind:
            case FrameType.HELLO:
                return _decode_hello(payload, flags)
            case FrameType.LOST:
                return _decode_lost(payload)
            case FrameType.WELCOME:
                epoch, expected_seq, most = _WELCOME.unpack(payload)
                _check_seq("WELCOME", expected_seq)
                return Welcome(epoch, expected_seq, most, flags == ACCEPTS_FILES)
            case FrameType.ACK | FrameType.RING | FrameType.OBSERVE:
                plain, layout = _PLAIN[kind]
                return plain(*layout.unpack(payload))
            case FrameType.REJECT:
                (code,) = _REJECT.unpack_from(payload)
                return Reject(code, payload[_REJECT.size :].decode("utf-8", "replace"))
            case _ if kind in _EMPTY and not payload:
                return _EMPTY[kind]
    except struct.error:
        raise malformed(FrameType(kind).name, f"its payload has {len(payload)} bytes") from None
    if kind in _EMPTY:
        raise malformed(FrameType(kind).name, "it has a payload")
    raise malformed("frame", f"its type is {kind}")


def _decode_hello(payload: bytes, flags: int) -> Hello:
    producer_id, lowest_seq = _HELLO.unpack_from(payload)
    _check_seq("HELLO", lowest_seq)
    label = payload[_HELLO.size :]
    if len(label) > MAX_LABEL:
        raise malformed("HELLO", f"its label is longer than {MAX_LABEL} bytes")
    try:
        takes_ring, sends_files = bool(flags & TAKES_RING), bool(flags & SENDS_FILES)
        return Hello(producer_id, lowest_seq, label.decode(), takes_ring, sends_files)
    except UnicodeDecodeError:
        raise malformed("HELLO", "its label is not UTF-8") from None


def _decode_lost(payload: bytes) -> Lost:
    lost = Lost(*_LOST.unpack(payload))
    if lost.dropped == 0 or lost.first_seq > MAX_INTEGER - lost.dropped:
        raise malformed("LOST", f"it counts {lost.dropped} from {lost.first_seq}")
    return lost


def _check_seq(what: str, seq: int) -> None:
    if seq > MAX_INTEGER:
        raise malformed(what, f"its sequence number is {seq}")


def encode_file(seq: int, message: bytes) -> list[bytes]:
    """Return the frame of a message that comes with a file, in pieces; no long one is copied."""
    size = _FILE.size + len(message)
    return [HEADER.pack(size, FrameType.FILE, 0, 0) + _FILE.pack(seq), message]


def decode_file(payload: bytes) -> tuple[int, bytes]:
    """Return the sequence number and the message of a FILE frame's payload."""
    if len(payload) < _FILE.size:
        raise malformed("FILE", f"its payload has {len(payload)} bytes")
    (seq,) = _FILE.unpack_from(payload)
    if seq >= MAX_INTEGER:
        raise malformed("FILE", f"its sequence number is {seq}")
    return seq, payload[_FILE.size :]


OBSERVER_OPENING: Final = PREFACE + HEADER.pack(_OBSERVE.size, FrameType.OBSERVE, 0, 0)
OBSERVER_OPENING_SIZE: Final = len(OBSERVER_OPENING) + _OBSERVE.size


def encode_status(document: bytes) -> bytes:
    """Return the frame that holds a document of what a receiver is doing."""
    return _with_header(FrameType.STATUS, document)


def encode_tap(head: bytes, body: bytes) -> bytes:
    """Return the frame of a sampled message: what is told of it, and its first bytes."""
    return _with_header(FrameType.TAP, _TAP.pack(len(head)) + head + body)


def decode_tap(payload: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body of a TAP frame's payload."""
    if len(payload) < _TAP.size:
        raise malformed("TAP", f"its payload has {len(payload)} bytes")
    (size,) = _TAP.unpack_from(payload)
    begin = _TAP.size + size
    if begin > len(payload):
        raise malformed("TAP", f"its head has {size} bytes, and its payload {len(payload)}")
    return payload[_TAP.size : begin], payload[begin:]


def malformed(what: str, why: str) -> RemoteProtocolError:
    """Return the error for a frame that breaks the format."""
    return RemoteProtocolError(f"malformed {what}: {why}", code=RejectCode.MALFORMED)


def encode_label(label: str) -> bytes:
    """Return a label as at most MAX_LABEL bytes of UTF-8, cut between characters."""
    return clip_utf8(label.encode("utf-8", "replace"), MAX_LABEL)


def clip_utf8(text: bytes, room: int) -> bytes:
    """Return at most ``room`` bytes of UTF-8, cut between characters."""
    return text if len(text) <= room else text[:room].decode("utf-8", "ignore").encode()


def _with_header(kind: FrameType, payload: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(len(payload), kind, flags, 0) + payload
