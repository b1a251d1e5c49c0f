"""A message that comes with a file, and descriptors that come with none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr._speedups import codec
from mpsr.batch import Batch, ProducerIdentity
from mpsr.errors import LocalProtocolError, RemoteProtocolError
from mpsr.limits import FRAME_OVERHEAD, MAX_CONTROL_FRAME
from mpsr.wire.files import FileSession
from mpsr.wire.frames import (
    HEADER,
    PREFACE,
    FrameType,
    Hello,
    RejectCode,
    Welcome,
    decode_file,
    encode,
    encode_file,
)
from mpsr.wire.ledger import Ledger
from mpsr.wire.sending import SendingSession, Welcomed
from tests.wire.pair import PRODUCER_ID, bytewise, cut_at

WELCOME = Welcome(1, 0, 1 << 20)


def file(seq: int, message: bytes = b"") -> bytes:
    return b"".join(encode_file(seq, message))


def opened(*, accepts: bool = True) -> FileSession:
    """Return a session that has answered HELLO."""
    session = FileSession()
    session.receive_data(PREFACE + encode(Hello(PRODUCER_ID, 0, "", sends_files=True)))
    session.events_received()
    if accepts:
        session.accept_files()
    session.welcome(Ledger().open(0, ProducerIdentity(PRODUCER_ID, ""), 0, 0.0))
    return session


def understood(session: FileSession) -> list[tuple[list[bytes], tuple[int, ...]]]:
    batches = [each for each in session.events_received() if isinstance(each, Batch)]
    return [(list(each), each.files) for each in batches]


@pytest.mark.parametrize("accepts", [False, True])
def test_welcome_tells_whether_files_are_accepted(accepts: bool) -> None:
    """By its flag, which nothing else has."""
    sent = opened(accepts=accepts).data_to_send()
    assert HEADER.unpack_from(sent)[1:] == (FrameType.WELCOME, int(accepts), 0)


@given(messages=st.lists(st.binary(max_size=40), max_size=4), places=st.lists(st.integers(0, 999)))
def test_files_go_with_their_messages_however_the_bytes_are_cut(
    messages: list[bytes], places: list[int]
) -> None:
    """Each has its own, in order, and what lies between has none."""
    session = opened()
    data, begins, seq = b"", [], 0
    for message in messages:
        data += codec.pack_batch([b"between"], seq)
        begins.append(len(data))
        data += file(seq + 1, message)
        seq += 2
    there = 0
    for piece in cut_at(data, places):
        session.waiting.extend(each for each in begins if there <= each < there + len(piece))
        begins = [each for each in begins if each >= there + len(piece)]
        there += len(piece)
        session.receive_data(piece)
        if len(session.waiting) <= 1:
            assert session.check_files() is None
    got = understood(session)
    assert [bodies for bodies, _ in got] == [
        bodies for message in messages for bodies in ([b"between"], [message])
    ]
    assert all(bool(files) == bool(index % 2) for index, (_, files) in enumerate(got))
    assert not session.waiting
    assert not session.unwanted


def test_descriptor_waits_for_the_rest_of_its_frame() -> None:
    """From the first byte on, while nobody knows yet which frame it is."""
    session = opened()
    session.waiting.append(7)
    for piece in bytewise(file(0, b"message"))[:-1]:
        session.receive_data(piece)
        assert session.check_files() is None
    session.receive_data(b"e")
    assert understood(session) == [([b"message"], (7,))]


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        (b"", 1),
        (codec.pack_batch([b"message"], 0), 1),
        (codec.pack_batch([b"message"], 0)[:-1], 1),
        (file(0), 2),
        (file(0)[:-1], 2),
        (file(0)[:4], 2),
    ],
)
def test_descriptor_without_a_file_frame_is_refused(data: bytes, descriptors: int) -> None:
    session = opened()
    session.waiting.extend(range(descriptors))
    session.receive_data(data)
    failure = session.check_files()
    assert failure is not None
    assert failure.code == RejectCode.UNEXPECTED


def test_file_frame_without_a_descriptor_is_refused() -> None:
    """What came before it stands."""
    session = opened()
    with pytest.raises(RemoteProtocolError, match="no descriptor came with it") as caught:
        session.receive_data(codec.pack_batch([b"before"], 0) + file(1))
    assert caught.value.code == RejectCode.UNEXPECTED
    assert understood(session) == [([b"before"], ())]


def test_file_that_was_not_asked_for_is_refused() -> None:
    """Whether WELCOME has said nothing, or there is no session for files."""
    with pytest.raises(RemoteProtocolError, match="WELCOME did not say") as caught:
        opened(accepts=False).receive_data(file(0))
    assert caught.value.code == RejectCode.UNEXPECTED
    with pytest.raises(RemoteProtocolError) as caught:
        opened(accepts=False).receive_data(HEADER.pack(MAX_CONTROL_FRAME + 1, FrameType.FILE, 0, 0))
    assert caught.value.code == RejectCode.TOO_LARGE


def test_message_that_came_before_leaves_its_descriptor() -> None:
    session = opened()
    session.waiting.append(5)
    session.receive_data(file(0, b"message"))
    session.waiting.append(6)
    session.receive_data(file(0, b"message"))
    assert understood(session) == [([b"message"], (5,))]
    assert session.unwanted == [6]


def test_gap_leaves_the_descriptor() -> None:
    session = opened()
    session.waiting.append(5)
    with pytest.raises(RemoteProtocolError, match="gap") as caught:
        session.receive_data(file(1))
    assert caught.value.code == RejectCode.GAP
    assert session.take_files() == [5]
    assert session.take_files() == []


@pytest.mark.parametrize("payload", [b"", bytes(7), b"\xff" * 8])
def test_malformed_files_are_named(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed FILE") as caught:
        decode_file(payload)
    assert caught.value.code == RejectCode.MALFORMED


def test_long_message_comes_with_its_file() -> None:
    """As long as a BATCH's may be."""
    session = opened()
    session.waiting.append(5)
    message = bytes(1 << 20)
    data = file(0, message)
    for start in range(0, len(data), 65_536):
        session.receive_data(data[start : start + 65_536])
        assert session.check_files() is None
    assert understood(session) == [([message], (5,))]


# -- the producer's end ---------------------------------------------------------------------


@pytest.mark.parametrize("accepts", [False, True])
def test_producer_that_sends_files_hears_whether_they_are_accepted(accepts: bool) -> None:
    """Then there is no ring any more."""
    session = SendingSession(PRODUCER_ID, 0, "", takes_ring=True, sends_files=True)
    session.receive_data(memoryview(encode(WELCOME._replace(accepts_files=accepts))))
    assert session.events_received() == [Welcomed(0, (1 << 20) - FRAME_OVERHEAD, 1, accepts)]
    assert session.takes_ring != accepts


def test_producer_that_sends_none_hears_of_no_files() -> None:
    session = SendingSession(PRODUCER_ID, 0, "")
    with pytest.raises(RemoteProtocolError, match="malformed WELCOME: it accepts files"):
        session.receive_data(memoryview(encode(WELCOME._replace(accepts_files=True))))


def test_file_comes_from_a_producer_only() -> None:
    session = SendingSession(PRODUCER_ID, 0, "", sends_files=True)
    with pytest.raises(RemoteProtocolError, match="unexpected FILE: it comes from a producer"):
        session.receive_data(memoryview(encode(WELCOME) + file(0)))
    with pytest.raises(LocalProtocolError):
        session.bye()
