"""Find messages in streams, piece by piece."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr._speedups import codec
from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_CONTROL_FRAME, MAX_MESSAGE, READ_IN_PLACE
from mpsr.wire.foreign import (
    DelimitedDeframer,
    EofDeframer,
    LengthDeframer,
    OctetCountedDeframer,
    TextDeframer,
    deframer,
    messages_in,
)
from mpsr.wire.frames import HEADER, Ack, Bye, FrameType, RejectCode, encode
from mpsr.wire.framing import ByteOrder, Deframer, Framing, Run, detect, single
from mpsr.wire.native import NativeDeframer, RawFrame
from mpsr.wire.packing import FOREIGN_FRAMINGS
from tests.fuzz.feeding import length_together
from tests.wire.pair import cut_at

FOREIGN: list[Framing] = ["length", "length-le", "octet-counted", "lines", "null", "eof"]
PLACES = st.lists(st.integers(0, 5000), max_size=30)


def feed(target: Deframer[Run], pieces: Iterable[bytes], *, ends: bool = True) -> list[bytes]:
    """Return the messages in the pieces; each piece's memory is used again at once."""
    runs: list[Run] = []
    for piece in pieces:
        buffer = bytearray(piece)
        target.feed(memoryview(buffer), runs)
        buffer[:] = bytes(len(buffer))
    if ends:
        target.finish(runs)
    return [message for run in runs for message in run.split()]


# -- long messages --------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 3) | st.integers(15_000, 60_000), min_size=1, max_size=12),
    reads=st.lists(st.integers(1, 90_000), min_size=1, max_size=12),
    peek=st.integers(1, 5000),
)
def test_long_messages_are_read_into_their_places(
    sizes: list[int], reads: list[int], peek: int
) -> None:
    """Frames come back whole, however much goes into their places, and whatever comes behind."""
    batches = [[bytes([n + 1]) * size for n, size in enumerate(sizes)], [b"small"], [b"y" * 40_000]]
    data = memoryview(
        encode(Ack(7)) + b"".join(codec.pack_batch(batch, 0) for batch in batches * 2)
    )
    frames: list[RawFrame] = []
    target = NativeDeframer(MAX_MESSAGE)
    turn = 0
    while data:
        size, turn = reads[turn % len(reads)], turn + 1
        if turn > 500:  # a million reads of one byte would find nothing more
            size = 90_000
        rooms = target.wanted()
        placed = 0
        for room in rooms:
            with room:
                part = data[placed : placed + min(len(room), size - placed)]
                room[: len(part)] = part
                placed += len(part)
        if placed:
            target.feed_wanted(placed, frames)
        behind = data[placed : placed + (peek if rooms else size)]
        if placed == size or not rooms:
            behind = behind[: max(0, size - placed)]
        target.feed(memoryview(bytearray(behind)), frames)
        data = data[placed + len(behind) :]
    assert target.pending == 0
    assert [frame.kind for frame in frames] == [5, *[3] * 6]
    found = [frame.bodies or codec.split_batch(frame.payload, 0) for frame in frames[1:]]
    assert found == batches * 2


def test_places_are_given_to_the_messages_themselves() -> None:
    """A long message needs no copy once it is read; what stands before them comes apart."""
    batch = [b"a" * 50_000, b"b" * 30_000]
    frame = memoryview(codec.pack_batch(batch, 7))
    frames: list[RawFrame] = []
    target = NativeDeframer(MAX_MESSAGE)
    target.feed(frame[:100], frames)
    rest = frame[100:]
    while rooms := target.wanted():
        with rooms[0] as room:
            part = rest[: len(room)]
            room[: len(part)] = part
        target.feed_wanted(len(part), frames)
        rest = rest[len(part) :]
    assert len(rest) < READ_IN_PLACE
    target.feed(rest, frames)
    assert frames == [RawFrame(FrameType.BATCH, bytes(frame[8:36]), 0, batch)]
    assert target.apart


# -- detection ------------------------------------------------------------------------------


def test_first_byte_tells_native_length_and_text_apart() -> None:
    """89 is native, 00 is length, each of the 254 others is text of which more must come."""
    found = [detect(byte) for byte in range(256)]
    assert found[0x89] == "native"
    assert found[0x00] == "length"
    assert found.count("auto") == 254


@pytest.mark.parametrize("framing", ["native", "nonsense"])
def test_only_foreign_framings_have_a_deframer_of_messages(framing: Any) -> None:
    """Native is frames."""
    with pytest.raises(ValueError, match=f"^{framing} is not a foreign framing$"):
        deframer(framing, MAX_MESSAGE)


@pytest.mark.parametrize(
    ("framing", "kind"),
    [
        ("lines", DelimitedDeframer),
        ("null", DelimitedDeframer),
        ("length", LengthDeframer),
        ("length-le", LengthDeframer),
        ("octet-counted", OctetCountedDeframer),
        ("auto", TextDeframer),
        ("eof", EofDeframer),
    ],
)
def test_each_foreign_framing_has_its_deframer(framing: Framing, kind: type) -> None:
    """A framing's name leads to what understands it."""
    assert type(deframer(framing, MAX_MESSAGE)) is kind


TEXT = st.lists(
    st.sampled_from([b"a", b"\n", b"\r\n", b"\0", b"\0\0\0", b"7", b" ", b"<", b"34", b">"]),
    max_size=20,
).map(b"".join)


@pytest.mark.parametrize("limit", [1, 2, 5, 16, 1000])
@given(
    data=TEXT | st.tuples(st.just(b"7 <34>a"), TEXT).map(b"".join),
    places=st.lists(st.integers(0, 30)),
)
def test_text_means_the_same_however_it_is_cut(limit: int, data: bytes, places: list[int]) -> None:
    """Its framing, messages and errors depend on the bytes alone."""
    results = []
    for pieces in ([data], cut_at(data, places), cut_at(data, range(len(data)))):
        runs: list[Run] = []
        target = TextDeframer(limit)
        failure = ""
        try:
            for piece in length_together(pieces):
                target.feed(memoryview(piece), runs)
            target.finish(runs)
        except RemoteProtocolError as exc:
            failure = str(exc)
        results.append(
            (target.framing, [message for run in runs for message in run.split()], failure)
        )
    assert results[0] == results[1] == results[2]


@given(
    length=st.integers(1, 2**16 - 1) | st.sampled_from([10, 266, *range(2560, 2816)]), data=PLACES
)
def test_little_endian_length_is_refused_before_any_message(length: int, data: list[int]) -> None:
    """Whatever its bytes are, newlines too, and however the rest is cut."""
    stream = length.to_bytes(4, "little") + b"a\n" * 20
    runs: list[Run] = []
    target = TextDeframer(MAX_MESSAGE)
    if length & 0xFF:  # else it is taken for a length, the high byte first
        with pytest.raises(RemoteProtocolError, match="length-le"):
            for piece in length_together(cut_at(stream, data)):
                target.feed(memoryview(piece), runs)
        assert runs == []


@pytest.mark.parametrize("framing", ["lines", "null", "octet-counted"])
def test_text_is_looked_at_only_until_its_framing_is_known(framing: Framing) -> None:
    """What a text deframer finds is what the framing's own would have found."""
    messages = [b"<34>first", b"12 <34>", b"\x89", b"last"]
    data = FOREIGN_FRAMINGS[framing].pack(messages)
    for pieces in ([data], cut_at(data, range(len(data)))):
        target = TextDeframer(MAX_MESSAGE)
        assert feed(target, pieces) == messages
        assert target.framing == framing


# -- there and back -------------------------------------------------------------------------


def framed(framing: Framing, messages: list[bytes]) -> list[bytes]:
    """Return those of the messages that the framing can carry."""
    if framing == "eof":
        return [b"".join(messages)] if any(messages) else []
    if framing == "octet-counted":
        return [message for message in messages if message]
    if framing in ("lines", "null"):
        end = b"\n" if framing == "lines" else b"\0"
        messages = [message.replace(end, b"") for message in messages]
    return [message.rstrip(b"\r") for message in messages] if framing == "lines" else messages


@pytest.mark.parametrize("framing", FOREIGN)
@given(messages=st.lists(st.binary(max_size=300), max_size=20), places=PLACES)
def test_messages_come_back_however_the_bytes_are_cut(
    framing: Framing, messages: list[bytes], places: list[int]
) -> None:
    """What a framing packs, its deframer finds, over any split."""
    messages = framed(framing, messages)
    foreign = FOREIGN_FRAMINGS[framing]
    data = foreign.pack(messages)
    assert feed(deframer(framing, MAX_MESSAGE), cut_at(data, places)) == messages
    if messages:
        assert foreign.split(data) == messages


@given(
    batches=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=5),
    places=PLACES,
)
def test_native_frames_come_back_however_the_bytes_are_cut(
    batches: list[list[bytes]], places: list[int]
) -> None:
    """Frames of every size, none included, are found whole over any split."""
    data = encode(Ack(7)) + b"".join(codec.pack_batch(batch, 0) for batch in batches)
    data += encode(Bye())
    frames: list[RawFrame] = []
    target = NativeDeframer(MAX_MESSAGE)
    for piece in cut_at(data, places):
        buffer = bytearray(piece)
        target.feed(memoryview(buffer), frames)
        buffer[:] = bytes(len(buffer))
    target.finish(frames)
    assert target.pending == 0
    assert [frame.kind for frame in frames] == [5, *[3] * len(batches), 7]
    payloads = [frame.payload + b"".join(frame.bodies or []) for frame in frames[1:-1]]
    assert [codec.split_batch(payload, 0) for payload in payloads] == batches


@given(data=st.text("ab\r\n", max_size=60).map(str.encode), places=PLACES, limit=st.integers(0, 5))
def test_lines_mean_the_same_however_they_are_cut(
    data: bytes, places: list[int], limit: int
) -> None:
    """Messages and errors depend on the bytes alone, carriage returns and limits included."""
    results = []
    for pieces in ([data], cut_at(data, places), cut_at(data, range(len(data)))):
        runs: list[Run] = []
        target = DelimitedDeframer(b"\n", limit)
        failure = ""
        try:
            for piece in pieces:
                target.feed(memoryview(piece), runs)
            target.finish(runs)
        except RemoteProtocolError as exc:
            failure = str(exc)
        results.append(([message for run in runs for message in run.split()], failure))
    assert results[0] == results[1] == results[2]
    messages, failure = results[0]
    assert all(len(message) <= limit for message in messages)
    lines = data.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in lines[:-1]] + [
        line for line in lines[-1:] if line
    ]
    assert messages == lines[: len(messages)]
    assert bool(failure) is (len(messages) < len(lines))


def test_run_of_one_message_knows_its_size() -> None:
    """A message alone makes a run, too."""
    run = single(b"hello")
    assert (run.length, run.nbytes, run.split()) == (1, 5, [b"hello"])


# -- what has begun -------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["lines", "null", "eof"])
def test_begun_message_is_pending_until_the_end(framing: Framing) -> None:
    """What has no end yet is counted, and is a message at the end of the stream."""
    target = deframer(framing, MAX_MESSAGE)
    assert feed(target, [b"ab", b"c"], ends=False) == []
    assert target.pending == 3
    assert feed(target, []) == [b"abc"]
    assert target.pending == 0


def test_begun_length_is_pending() -> None:
    """A length counts among what has begun."""
    target = LengthDeframer("big", MAX_MESSAGE)
    assert feed(target, [b"\0\0\0\1a\0\0", b"\0\5hel"], ends=False) == [b"a"]
    assert target.pending == 7
    with pytest.raises(RemoteProtocolError, match="ended 7 bytes into a message") as caught:
        feed(target, [])
    assert caught.value.code == RejectCode.MALFORMED


def test_begun_frame_is_pending_with_its_header() -> None:
    """A frame that has begun is counted from its header's first byte."""
    data = encode(Ack(7))
    target = NativeDeframer(MAX_MESSAGE)
    frames: list[RawFrame] = []
    for size in range(1, len(data)):
        target.feed(memoryview(data)[size - 1 : size], frames)
        assert target.pending == size
    target.finish(frames)
    assert frames == []


# -- limits ---------------------------------------------------------------------------------


def big_endian(max_message: int) -> Deframer[Run]:
    return deframer("length", max_message)


def counted(max_message: int) -> Deframer[Run]:
    return deframer("octet-counted", max_message)


def test_control_frames_are_small_whatever_the_limit_of_batches() -> None:
    """Only a BATCH may be as large as the largest message."""
    for kind in set(range(256)) - {FrameType.BATCH}:
        header = HEADER.pack(MAX_CONTROL_FRAME + 1, kind, 0, 0)
        with pytest.raises(RemoteProtocolError) as caught:
            NativeDeframer(MAX_MESSAGE).feed(memoryview(header), [])
        assert caught.value.code == RejectCode.TOO_LARGE


@pytest.mark.parametrize(
    ("make", "header"),
    [
        pytest.param(
            NativeDeframer, HEADER.pack(0xFFFF_FFFF, FrameType.BATCH, 0, 0), id="native-batch"
        ),
        pytest.param(
            NativeDeframer, HEADER.pack(0xFFFF_FFFF, FrameType.HELLO, 0, 0), id="native-hello"
        ),
        pytest.param(counted, b"4294967295 ", id="octet-counted"),
        pytest.param(big_endian, b"\xff\xff\xff\xff", id="length"),
    ],
)
def test_declared_4_gib_is_refused_and_allocates_nothing(
    make: Callable[[int], Deframer[object]], header: bytes
) -> None:
    """A length is only a claim: nothing is set aside for it."""
    target = make(MAX_MESSAGE)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError) as caught:
            target.feed(memoryview(header), [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == RejectCode.TOO_LARGE
    assert peak < 64 * 1024


@pytest.mark.parametrize(
    ("make", "header"),
    [
        pytest.param(
            NativeDeframer, HEADER.pack(MAX_MESSAGE, FrameType.BATCH, 0, 0), id="native-batch"
        ),
        pytest.param(counted, b"%d " % MAX_MESSAGE, id="octet-counted"),
        pytest.param(big_endian, MAX_MESSAGE.to_bytes(4, "big"), id="length"),
    ],
)
def test_declared_16_mib_allocates_nothing_before_it_comes(
    make: Callable[[int], Deframer[object]], header: bytes
) -> None:
    """A thousand connections that announce much and send nothing cost nothing."""
    target = make(MAX_MESSAGE)
    tracemalloc.start()
    try:
        target.feed(memoryview(header), [])
        target.feed(memoryview(b"a"), [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


@pytest.mark.parametrize("framing", ["lines", "null", "eof"])
def test_endless_message_is_refused_at_the_limit(framing: Framing) -> None:
    """A message without an end is held up to the limit, and no longer."""
    target = deframer(framing, 1000)
    for _ in range(100):
        target.feed(memoryview(b"a" * 10), [])
    with pytest.raises(RemoteProtocolError, match="more than 1000 bytes") as caught:
        target.feed(memoryview(b"a"), [])
    assert caught.value.code == RejectCode.TOO_LARGE


def test_messages_before_a_too_large_one_are_found() -> None:
    """Where a message is too large, those before it are still good."""
    runs: list[Run] = []
    with pytest.raises(RemoteProtocolError):
        DelimitedDeframer(b"\n", 3).feed(memoryview(b"a\r\n\nlarge\nb\n"), runs)
    assert [run.split() for run in runs] == [[b"a", b""]]
    assert [(run.length, run.nbytes) for run in runs] == [(2, 1)]


def test_large_message_is_scanned_when_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a message that is not whole are not scanned over and over."""
    scan = codec.scan_length
    scanned: list[int] = []

    def count(data: bytes, limit: int, byteorder: ByteOrder) -> tuple[int, int, int]:
        scanned.append(len(data))
        return scan(data, limit, byteorder)

    monkeypatch.setattr(codec, "scan_length", count)
    data = codec.pack_length([b"a" * 1000], "big")
    assert feed(LengthDeframer("big", MAX_MESSAGE), cut_at(data, range(len(data)))) == [b"a" * 1000]
    assert scanned == [4, 1004]


# -- sending --------------------------------------------------------------------------------


def test_only_a_stream_needs_a_connection_a_message() -> None:
    """Nothing but the connection's end marks the end of a stream's message."""
    assert {name for name, foreign in FOREIGN_FRAMINGS.items() if foreign.alone} == {"eof"}
    assert set(FOREIGN_FRAMINGS) == set(FOREIGN)


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"<13>x\0", b"<13>x"),
        (b"<13>x\n", b"<13>x"),
        (b"<13>x\r\n", b"<13>x"),
        (b"<13>x\n\n", b"<13>x\n"),
        (b"<13>x\0\0", b"<13>x\0"),
        (b"<13>x\r", b"<13>x\r"),
        (b"5 <13>x", b"<13>x"),
        (b"6 <13>x\n", b"<13>x\n"),
        (b"4 <13>x", b"4 <13>x"),
        (b"05 <13>x", b"05 <13>x"),
        (b"<1345>x\n", b"<1345>x\n"),
        (b"x\n", b"x\n"),
        (b"\0", b"\0"),
        (b"", b""),
    ],
)
def test_packet_of_syslog_loses_what_is_around_it(packet: bytes, message: bytes) -> None:
    """With auto alone; all else is a message byte for byte."""
    assert messages_in([packet], "auto") == [message]
    assert messages_in([packet], "packet") == [packet]
