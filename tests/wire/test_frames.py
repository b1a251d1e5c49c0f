"""Turn each control frame into bytes and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr._speedups import codec
from mpsr.errors import RemoteProtocolError
from mpsr.limits import FRAME_OVERHEAD, MAX_CONTROL_FRAME, MAX_LABEL, MAX_MESSAGE
from mpsr.wire.frames import (
    ACCEPTS_FILES,
    FROM_PRODUCER,
    FROM_RECEIVER,
    HEADER,
    PREFACE,
    RETRY_CODES,
    SENDS_FILES,
    TAKES_RING,
    VERSION,
    Ack,
    Bye,
    ControlFrame,
    FrameType,
    Hello,
    Lost,
    Reject,
    RejectCode,
    Welcome,
    clip_utf8,
    decode,
    encode,
    encode_label,
    max_frame,
)

U32 = st.integers(0, 2**32 - 1)
SEQ = st.integers(0, 2**63 - 1)
LABELS = st.text(max_size=80).filter(lambda text: len(text.encode()) <= MAX_LABEL)

FRAMES: st.SearchStrategy[ControlFrame] = st.one_of(
    st.builds(
        Hello, st.binary(min_size=16, max_size=16), SEQ, LABELS, st.booleans(), st.booleans()
    ),
    st.builds(Welcome, U32, SEQ, U32, st.booleans()),
    st.builds(Lost, st.integers(0, 2**62 - 1), st.integers(1, 2**62), U32),
    st.builds(Ack, SEQ),
    st.builds(Reject, U32, st.text(max_size=400)),
    st.just(Bye()),
)


@given(frame=FRAMES)
def test_frames_come_back_as_they_were(frame: ControlFrame) -> None:
    """What is encoded is decoded into the same frame."""
    data = encode(frame)
    length, kind, flags, zero = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    expected = 0
    if isinstance(frame, Hello):
        expected = frame.takes_ring * TAKES_RING + frame.sends_files * SENDS_FILES
    elif isinstance(frame, Welcome):
        expected = frame.accepts_files * ACCEPTS_FILES
    assert (length, flags, zero) == (len(payload), expected, 0)
    assert length <= MAX_CONTROL_FRAME
    assert decode(kind, payload, flags) == frame


def test_preface_ends_with_the_version() -> None:
    """A byte that is no text, the name, a line end that relays might spoil, the version."""
    assert b"\x89MPSR\r\n" + bytes([VERSION]) == PREFACE
    with pytest.raises(UnicodeDecodeError):
        PREFACE.decode()


def test_every_frame_comes_from_one_end() -> None:
    """Each type is either the producer's to send or the receiver's."""
    assert set(FrameType) == FROM_PRODUCER | FROM_RECEIVER
    assert not FROM_PRODUCER & FROM_RECEIVER


def test_only_passing_troubles_are_worth_a_retry() -> None:
    """A producer tries again where the receiver was busy or it was late itself."""
    assert {RejectCode.BUSY, RejectCode.DEADLINE} == RETRY_CODES


@given(kind=st.integers(0, 255).filter(lambda kind: kind != 3), payload=st.binary(max_size=300))
def test_decoding_never_fails_but_with_malformed(kind: int, payload: bytes) -> None:
    """Any payload is either a frame, which encodes again, or MALFORMED."""
    frame: ControlFrame | None = None
    failure: RemoteProtocolError | None = None
    try:
        frame = decode(kind, payload)
    except RemoteProtocolError as exc:
        failure = exc
    assert failure is None or failure.code == RejectCode.MALFORMED
    if frame is not None and not isinstance(frame, Reject):  # whose text may be no UTF-8
        assert encode(frame)[HEADER.size :] == payload


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (FrameType.HELLO, bytes(23), "malformed HELLO: its payload has 23 bytes"),
        (FrameType.HELLO, bytes(280), "malformed HELLO: its label is longer than 255 bytes"),
        (FrameType.HELLO, bytes(24) + b"\xff", "malformed HELLO: its label is not UTF-8"),
        (FrameType.WELCOME, bytes(15), "malformed WELCOME: its payload has 15 bytes"),
        (FrameType.LOST, bytes(20), "malformed LOST: it counts 0 from 0"),
        (FrameType.LOST, bytes(19), "malformed LOST: its payload has 19 bytes"),
        (FrameType.ACK, bytes(9), "malformed ACK: its payload has 9 bytes"),
        (FrameType.REJECT, bytes(3), "malformed REJECT: its payload has 3 bytes"),
        (FrameType.BYE, bytes(1), "malformed BYE: it has a payload"),
        (0, b"", "malformed frame: its type is 0"),
        (200, b"", "malformed frame: its type is 200"),
    ],
)
def test_malformed_frames_are_named(kind: int, payload: bytes, text: str) -> None:
    """The error says which frame is malformed, and how."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(kind, payload)
    assert str(caught.value) == text
    assert caught.value.code == RejectCode.MALFORMED


def test_reject_text_that_is_no_utf8_is_kept_readable() -> None:
    """Why a receiver refuses is told even where its text is damaged."""
    assert decode(FrameType.REJECT, struct.pack("<I", 2) + b"a\xffb") == Reject(2, "a\ufffdb")


@given(text=st.text(), room=st.integers(0, 300))
def test_text_is_cut_between_characters(text: str, room: int) -> None:
    """What is cut is as long as fits, and still UTF-8."""
    clipped = clip_utf8(text.encode("utf-8", "replace"), room)
    assert len(clipped) <= room
    assert text.encode("utf-8", "replace").decode().startswith(clipped.decode())
    assert len(text.encode("utf-8", "replace")) - len(clipped) == 0 or room - len(clipped) < 4


def test_label_that_is_no_unicode_is_sent_with_question_marks() -> None:
    """A lone surrogate, say from a file name, spoils no HELLO."""
    assert encode_label("a\udcffb") == b"a?b"


def test_long_label_is_cut() -> None:
    """A label is a name; one too long is cut rather than refused."""
    frame = decode(FrameType.HELLO, encode(Hello(bytes(16), 0, "é" * 200))[HEADER.size :])
    assert isinstance(frame, Hello)
    assert frame.label == "é" * 127


def test_long_reject_text_is_cut() -> None:
    """A REJECT fits a control frame whatever its text."""
    data = encode(Reject(RejectCode.GAP, "é" * 5000))
    assert len(data) == HEADER.size + MAX_CONTROL_FRAME
    assert decode(FrameType.REJECT, data[HEADER.size :]) == Reject(RejectCode.GAP, "é" * 2046)


@pytest.mark.parametrize("max_message", [0, 1, 4072, 4073, MAX_MESSAGE])
def test_largest_message_fits_the_largest_frame(max_message: int) -> None:
    """A frame of one largest message is allowed, and so is one of 4 KiB."""
    body = codec.pack_batch([bytes(max_message)], 0)[HEADER.size :]
    assert len(body) == max_message + FRAME_OVERHEAD
    assert len(body) <= max_frame(max_message)
    assert max_frame(max_message) >= MAX_CONTROL_FRAME


@pytest.mark.parametrize("max_message", [2**32 - 24, 2**32, 2**40])
def test_largest_frame_fits_its_length_field(max_message: int) -> None:
    """A receiver of huge messages names what a frame can be at most."""
    assert max_frame(max_message) == 2**32 - 1
    encode(Welcome(1, 0, max_frame(max_message)))
