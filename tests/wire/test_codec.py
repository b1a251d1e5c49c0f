"""Hold every twin of the hot functions to the same values, types and errors."""

from __future__ import annotations

import gc
import struct
import weakref
from array import array
from collections.abc import Callable
from operator import length_hint
from types import ModuleType
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr._speedups import codec as chosen
from mpsr._speedups import codec_py
from mpsr.wire.frames import HEADER

U32_MOST: Final = 0xFFFF_FFFF
SEQ_MOST: Final = 2**63 - 1

Make = Callable[[bytes], object]
Pack = Callable[[ModuleType, list[object]], bytes]
Read = Callable[[ModuleType, object], object]

BUFFERS: Final[list[Make]] = [bytes, bytearray, memoryview, lambda data: array("B", data)]
NO_BUFFERS: Final[list[object]] = ["text", 5, 1.5, None, [1, 2], object()]


class Bytes(bytes):
    """A subclass, which may carry more than its bytes."""


def payload(first_seq: int, count: int, zero: int, offsets: list[int], bodies: bytes) -> bytes:
    return struct.pack(f"<QII{len(offsets)}I", first_seq, count, zero, *offsets) + bodies


# -- to_bytes -------------------------------------------------------------------------------


def test_bytes_are_taken_as_they_are(codec: ModuleType) -> None:
    """A bytes message is not copied: nobody can change it."""
    message = b"hello"
    assert codec.to_bytes(message) is message


@pytest.mark.parametrize("make", [bytearray, memoryview, Bytes, lambda data: array("B", data)])
def test_other_buffers_are_copied_to_bytes(codec: ModuleType, make: Make) -> None:
    """A message that somebody may change is copied, to plain bytes."""
    message = codec.to_bytes(make(b"hello"))
    assert message == b"hello"
    assert type(message) is bytes


def test_wide_items_are_taken_as_their_bytes(codec: ModuleType) -> None:
    """A buffer of numbers is a message of its memory."""
    numbers = array("I", [1, 2])
    assert codec.to_bytes(numbers) == numbers.tobytes()


@pytest.mark.parametrize("message", NO_BUFFERS)
def test_what_is_not_bytes_like_is_refused_with_advice(codec: ModuleType, message: object) -> None:
    """Text and numbers are refused, and the error says what to do."""
    kind = type(message).__name__
    with pytest.raises(TypeError) as caught:
        codec.to_bytes(message)
    assert str(caught.value) == (
        f"a message is bytes-like, not {kind}: encode it, as text.encode() does, or give the "
        "producer an encode= that returns bytes"
    )


@pytest.mark.parametrize("message", NO_BUFFERS)
@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(lambda codec, messages: codec.pack_batch(messages, 0), id="pack_batch"),
        pytest.param(lambda codec, messages: codec.pack_length(messages, "big"), id="pack_length"),
        pytest.param(
            lambda codec, messages: codec.pack_delimited(messages, b"\n"), id="pack_delimited"
        ),
    ],
)
def test_packing_refuses_what_to_bytes_refuses(
    codec: ModuleType, pack: Pack, message: object
) -> None:
    """Every packing function refuses the same messages with the same words."""
    with pytest.raises(TypeError, match=r"^a message is bytes-like, not "):
        pack(codec, [b"good", message])


# -- native ---------------------------------------------------------------------------------


def test_packed_batch_is_laid_out_as_documented(codec: ModuleType) -> None:
    """Header, head, offsets, bodies."""
    frame = codec.pack_batch([b"hello", b"", b"wor"], 7)
    offsets = [0, 5, 5, 8]
    body = payload(7, 3, 0, offsets, b"hellowor")
    assert frame == struct.pack("<IBBH", len(body), 3, 0, 0) + body


@pytest.mark.parametrize("make", BUFFERS)
@pytest.mark.parametrize("container", [list, tuple])
def test_batch_takes_any_buffers_in_any_sequence(
    codec: ModuleType, make: Make, container: type
) -> None:
    """Messages of every accepted type pack alike."""
    expected = codec.pack_batch([b"a", b"bc"], 0)
    assert codec.pack_batch(container([make(b"a"), make(b"bc")]), 0) == expected


@pytest.mark.parametrize(
    ("messages", "first_seq", "text"),
    [
        ([], 0, "a batch holds at least one message"),
        ([b"a"], -1, "the sequence numbers of a batch must fit in signed 64 bits"),
        ([b"a"], SEQ_MOST, "the sequence numbers of a batch must fit in signed 64 bits"),
        ([b"a", b"b"], SEQ_MOST - 1, "the sequence numbers of a batch must fit in signed 64 bits"),
        ([b"a"], 1 << 80, "the sequence numbers of a batch must fit in signed 64 bits"),
        ([bytes(1 << 24)] * 256, 0, "a batch must be shorter than 4 GiB"),
    ],
)
def test_impossible_batches_are_refused(
    codec: ModuleType, messages: list[bytes], first_seq: int, text: str
) -> None:
    """What no frame can carry is refused before anything is packed."""
    with pytest.raises(ValueError) as caught:
        codec.pack_batch(messages, first_seq)
    assert str(caught.value) == text


@pytest.mark.parametrize("messages", [5, None])
def test_batch_of_no_sequence_is_refused(codec: ModuleType, messages: object) -> None:
    """Messages come in a sequence."""
    with pytest.raises(TypeError):
        codec.pack_batch(messages, 0)


def test_largest_numbers_pack(codec: ModuleType) -> None:
    """The last number a message can have is 2**63 - 2."""
    frame = codec.pack_batch([b"a"], SEQ_MOST - 1)
    assert codec.scan_batch(frame[HEADER.size :]) == (SEQ_MOST - 1, 1, 1)


def test_batches_that_follow_on_each_other_are_found(codec: ModuleType) -> None:
    """Whole frames are found up to the first that is not whole, or not the next."""
    first, second = codec.pack_batch([b"a", b"bc"], 5), codec.pack_batch([bytes(4000)], 7)
    found = [(5, 2, 3, first[8:]), (7, 1, 4000, second[8:])]
    everything = len(first) + len(second)
    assert codec.scan_batches(first + second, 5, 10_000) == (everything, found)
    assert codec.scan_batches(first + second[:-1], 5, 10_000) == (len(first), found[:1])
    assert codec.scan_batches(first + second, 5, 100) == (len(first), found[:1])
    assert codec.scan_batches(first + first, 5, 10_000) == (len(first), found[:1])
    assert codec.scan_batches(first, 4, 10_000) == (0, [])
    assert codec.scan_batches(first, -1, 10_000) == (0, [])
    assert codec.scan_batches(b"", 0, 10_000) == (0, [])
    last = codec.pack_batch([b"z"], SEQ_MOST - 1)
    assert codec.scan_batches(last * 2, SEQ_MOST - 1, 100)[0] == len(last)


@pytest.mark.parametrize(("at", "value"), [(4, 2), (5, 1), (6, 1), (8 + 12, 1), (8 + 16, 1)])
def test_other_frames_and_faults_are_left_alone(codec: ModuleType, at: int, value: int) -> None:
    """What is no good batch ends the search; whoever asked looks at it in his own way."""
    good, spoiled = codec.pack_batch([b"a"], 0), bytearray(codec.pack_batch([b"b"], 1))
    spoiled[at] = value
    assert codec.scan_batches(good + spoiled, 0, 100) == (len(good), [(0, 1, 1, good[8:])])


def test_large_batches_share_the_memory_they_were_found_in(codec: ModuleType) -> None:
    """A long payload is a view, unless it would keep much more alive than itself."""
    large, small = codec.pack_batch([bytes(20_000)], 0), codec.pack_batch([bytes(2000)], 1)
    data = large + small
    _, [(*_, shared), (*_, copied)] = codec.scan_batches(data, 0, 1 << 20)
    assert isinstance(shared, memoryview)
    assert shared.obj is data
    assert type(copied) is bytes
    assert type(codec.scan_batches(codec.pack_batch([b"a"], 0), 0, 100)[1][0][3]) is bytes


@pytest.mark.parametrize("make", BUFFERS)
def test_scan_and_split_take_any_buffer(codec: ModuleType, make: Make) -> None:
    """A payload may be any buffer; messages are always bytes of their own."""
    good = make(payload(3, 2, 0, [0, 1, 3], b"abb"))
    assert codec.scan_batch(good) == (3, 2, 3)
    messages = codec.split_batch(good, 0)
    assert messages == [b"a", b"bb"]
    assert all(type(message) is bytes for message in messages)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_split_begins_where_asked(codec: ModuleType, start: int) -> None:
    """The messages before the start are left out, all of them if need be."""
    messages = [b"a", b"", b"cc"]
    frame = codec.pack_batch(messages, 0)
    assert codec.split_batch(frame[HEADER.size :], start) == messages[start:]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the batch is shorter than its head"),
        (bytes(15), "the batch is shorter than its head"),
        (payload(0, 1, 1, [0, 1], b"a"), "the batch's reserved field is not zero"),
        (payload(0, 0, 9, [0], b""), "the batch's reserved field is not zero"),
        (payload(0, 0, 0, [0], b""), "the batch is empty"),
        (payload(0, 0, 0, [], b""), "the batch is empty"),
        (
            payload(SEQ_MOST, 1, 0, [0, 1], b"a"),
            "the batch's sequence numbers do not fit in signed 64 bits",
        ),
        (
            payload(SEQ_MOST, 1, 0, [], b""),
            "the batch's sequence numbers do not fit in signed 64 bits",
        ),
        (payload(0, 1, 0, [0], b""), "the batch is shorter than its offsets"),
        (payload(0, 1, 0, [0], b"abc"), "the batch is shorter than its offsets"),
        (payload(0, U32_MOST, 0, [0, 1], b"a"), "the batch is shorter than its offsets"),
        (payload(0, 1, 0, [1, 1], b"a"), "the batch's offsets do not run from 0 to its end"),
        (payload(0, 1, 0, [0, 0], b"a"), "the batch's offsets do not run from 0 to its end"),
        (payload(0, 1, 0, [0, 2], b"a"), "the batch's offsets do not run from 0 to its end"),
        (payload(0, 2, 0, [0, 2, 1], b"a"), "the batch's offsets do not run from 0 to its end"),
        (payload(0, 3, 0, [0, 1, 0, 1], b"a"), "the batch's offsets do not run from 0 to its end"),
        (
            payload(0, 2, 0, [0, U32_MOST, 1], b"a"),
            "the batch's offsets do not run from 0 to its end",
        ),
    ],
)
def test_malformed_batches_are_refused(codec: ModuleType, data: bytes, text: str) -> None:
    """Each fault of a payload has its own words, and the first one found is told."""
    with pytest.raises(ValueError) as caught:
        codec.scan_batch(data)
    assert str(caught.value) == text
    with pytest.raises(ValueError, match=f"^{text}$"):
        codec.scan_batch(memoryview(data))


@pytest.mark.parametrize("data", NO_BUFFERS)
@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda codec, data: codec.scan_batch(data), id="scan_batch"),
        pytest.param(lambda codec, data: codec.split_batch(data, 0), id="split_batch"),
        pytest.param(lambda codec, data: codec.scan_delimited(data, b"\n"), id="scan_delimited"),
        pytest.param(lambda codec, data: codec.split_delimited(data, b"\n"), id="split_delimited"),
        pytest.param(lambda codec, data: codec.scan_length(data, 9, "big"), id="scan_length"),
        pytest.param(lambda codec, data: codec.split_length(data, "big"), id="split_length"),
    ],
)
def test_reading_refuses_what_is_no_buffer(codec: ModuleType, read: Read, data: object) -> None:
    """Data is a buffer: a number is not so many zeros, nor text its bytes."""
    with pytest.raises(TypeError):
        read(codec, data)


@given(messages=st.lists(st.binary(max_size=40), min_size=1), first_seq=st.integers(0, 2**62))
def test_batches_come_back_as_they_were(
    codec: ModuleType, messages: list[bytes], first_seq: int
) -> None:
    """What is packed is scanned and split into the same messages."""
    frame = codec.pack_batch(messages, first_seq)
    length, kind, flags, zero = HEADER.unpack_from(frame)
    body = frame[HEADER.size :]
    assert (length, kind, flags, zero) == (len(body), 3, 0, 0)
    assert codec.scan_batch(body) == (first_seq, len(messages), sum(map(len, messages)))
    assert codec.split_batch(body, 0) == messages


@given(data=st.binary(max_size=60))
def test_scan_never_fails_but_with_value_error(codec: ModuleType, data: bytes) -> None:
    """Any payload is either good, and splits, or a ValueError."""
    try:
        _, count, nbytes = codec.scan_batch(data)
    except ValueError:
        return
    messages = codec.split_batch(data, 0)
    assert (len(messages), sum(map(len, messages))) == (count, nbytes)


@given(
    offsets=st.lists(st.integers(0, 12), min_size=2, max_size=6),
    bodies=st.binary(max_size=12),
    count=st.integers(0, 6),
)
def test_only_offsets_that_rise_to_the_end_are_good(
    codec: ModuleType, offsets: list[int], bodies: bytes, count: int
) -> None:
    """A batch is good exactly if count + 1 offsets rise from 0 to the end of the bodies."""
    good = (
        count == len(offsets) - 1
        and offsets[0] == 0
        and offsets[-1] == len(bodies)
        and offsets == sorted(offsets)
    )
    data = payload(0, count, 0, offsets, bodies)
    if good:
        assert codec.scan_batch(data) == (0, count, len(bodies))
    elif count == len(offsets) - 1:
        with pytest.raises(ValueError, match="offsets do not run"):
            codec.scan_batch(data)


# -- lines and null -------------------------------------------------------------------------


def test_packed_lines_end_with_newlines(codec: ModuleType) -> None:
    """Each message is followed by its delimiter, the last one too."""
    assert codec.pack_delimited([b"a", b"", b"b"], b"\n") == b"a\n\nb\n"
    assert codec.pack_delimited([b"a\n", b"\r"], b"\0") == b"a\n\0\r\0"
    assert codec.pack_delimited([], b"\n") == b""


@pytest.mark.parametrize("make", BUFFERS)
def test_packing_takes_any_buffers(codec: ModuleType, make: Make) -> None:
    """Foreign framings take the same messages as native."""
    assert codec.pack_delimited([make(b"a"), make(b"b")], b"\n") == b"a\nb\n"
    assert codec.pack_length([make(b"a"), make(b"b")], "big") == b"\0\0\0\1a\0\0\0\1b"


@pytest.mark.parametrize(
    ("message", "delimiter", "text"),
    [
        (b"a\nb", b"\n", r"the message holds the delimiter b'\n'"),
        (b"\n", b"\n", r"the message holds the delimiter b'\n'"),
        (b"a\r\n", b"\n", r"the message holds the delimiter b'\n'"),
        (b"\0", b"\0", r"the message holds the delimiter b'\x00'"),
        (b"a\r", b"\n", "the message ends in a carriage return, which lines do not keep"),
        (b"\r", b"\n", "the message ends in a carriage return, which lines do not keep"),
    ],
)
def test_messages_that_lines_do_not_keep_are_refused(
    codec: ModuleType, message: bytes, delimiter: bytes, text: str
) -> None:
    """A message that would come back changed, or as two, is refused."""
    with pytest.raises(ValueError) as caught:
        codec.pack_delimited([b"good", message], delimiter)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb\n", [b"a", b"b"]),
        (b"\r\n\r\n", [b"", b""]),
        (b"a\r\r\n", [b"a\r"]),
        (b"\ra\rb\n", [b"\ra\rb"]),
        (b"\n\r\n", [b"", b""]),
    ],
)
@pytest.mark.parametrize("make", BUFFERS)
def test_lines_lose_one_carriage_return(
    codec: ModuleType, make: Make, data: bytes, messages: list[bytes]
) -> None:
    """One carriage return before a newline goes with it; any other stays."""
    assert codec.split_delimited(make(data), b"\n") == messages
    assert codec.scan_delimited(make(data), b"\n") == (len(messages), sum(map(len, messages)))


@pytest.mark.parametrize("make", BUFFERS)
def test_null_keeps_carriage_returns(codec: ModuleType, make: Make) -> None:
    """Between zero bytes, newlines and carriage returns are a message's own."""
    data = make(b"a\r\n\0\r\0\0")
    assert codec.split_delimited(data, b"\0") == [b"a\r\n", b"\r", b""]
    assert codec.scan_delimited(data, b"\0") == (3, 4)


@given(
    messages=st.lists(st.text("ab\r\n\0", max_size=6).map(str.encode)),
    delimiter=st.sampled_from([b"\n", b"\0"]),
)
def test_delimited_messages_come_back_or_are_refused(
    codec: ModuleType, messages: list[bytes], delimiter: bytes
) -> None:
    """Nothing is packed that would not come back as it was."""
    try:
        data = codec.pack_delimited(messages, delimiter)
    except ValueError:
        assert any(
            delimiter in message or (delimiter == b"\n" and message.endswith(b"\r"))
            for message in messages
        )
        return
    assert codec.split_delimited(data, delimiter) == messages
    assert codec.scan_delimited(data, delimiter) == (len(messages), sum(map(len, messages)))


# -- length ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("byteorder", "length"), [("big", b"\0\0\1\2"), ("little", b"\2\1\0\0")])
def test_packed_lengths_are_in_the_byte_order_that_is_asked_for(
    codec: ModuleType, byteorder: str, length: bytes
) -> None:
    """Each message stands behind its length."""
    messages = [b"a" * 258, b""]
    data = length + b"a" * 258 + b"\0\0\0\0"
    assert codec.pack_length(messages, byteorder) == data
    assert codec.pack_length([], byteorder) == b""
    assert codec.scan_length(data, 300, byteorder) == (2, 266, 258)
    assert codec.split_length(data, byteorder) == messages


def test_no_other_byte_order_is_known(codec: ModuleType) -> None:
    """It is a word, as int.to_bytes has it."""
    for byteorder in ("native", None, b"big"):
        refused = pytest.raises(ValueError, match=r"^a byte order is 'big' or 'little'$")
        with refused:
            codec.pack_length([b"a"], byteorder)
        with refused:
            codec.scan_length(b"", 9, byteorder)
        with refused:
            codec.split_length(b"", byteorder)


def test_message_of_4_gib_has_no_length(codec: ModuleType) -> None:
    """A length is 32 bits wide."""
    try:
        message = bytes(U32_MOST + 1)  # zeros that nobody touches take no memory
    except MemoryError:
        pytest.skip("the address space is too small for the message")
    with pytest.raises(
        ValueError, match=r"^a length-delimited message must be shorter than 4 GiB$"
    ):
        codec.pack_length([message], "big")


@pytest.mark.parametrize(
    ("data", "limit", "found"),
    [
        (b"", 9, (0, 0, 0)),
        (b"\0\0\0", 9, (0, 0, 0)),
        (b"\0\0\0\0", 9, (1, 4, 0)),
        (b"\0\0\0\0", 0, (1, 4, 0)),
        (b"\0\0\0\1", 9, (0, 0, 0)),
        (b"\0\0\0\1a", 9, (1, 5, 1)),
        (b"\0\0\0\1a\0\0\0\2bb", 9, (2, 11, 3)),
        (b"\0\0\0\1a\0\0\0\2b", 9, (1, 5, 1)),
        (b"\0\0\0\1a\0\0", 9, (1, 5, 1)),
        (b"\0\0\0\1a\0\0\0\2bb", 1, (1, 5, 1)),
        (b"\0\0\0\2bb\0\0\0\1a", 1, (0, 0, 0)),
        (b"\xff\xff\xff\xffaaaa", 9, (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("make", BUFFERS)
def test_scan_finds_whole_messages_up_to_the_limit(
    codec: ModuleType, make: Make, data: bytes, limit: int, found: tuple[int, int, int]
) -> None:
    """The scan stops at what is not whole, or larger than the limit."""
    assert codec.scan_length(make(data), limit, "big") == found


@pytest.mark.parametrize("make", BUFFERS)
def test_split_length_gives_the_messages(codec: ModuleType, make: Make) -> None:
    """Messages are bytes of their own, whatever the buffer was."""
    messages = codec.split_length(make(b"\0\0\0\1a\0\0\0\0\0\0\0\2bb"), "big")
    assert messages == [b"a", b"", b"bb"]
    assert all(type(message) is bytes for message in messages)
    assert codec.split_length(make(b""), "big") == []


@pytest.mark.parametrize("byteorder", ["big", "little"])
@given(messages=st.lists(st.binary(max_size=300)), tail=st.binary(max_size=3))
def test_length_delimited_messages_come_back(
    codec: ModuleType, byteorder: str, messages: list[bytes], tail: bytes
) -> None:
    """What is packed is found whole, with a begun length behind it or none."""
    data = codec.pack_length(messages, byteorder)
    nbytes = sum(map(len, messages))
    assert codec.scan_length(data + tail, 300, byteorder) == (len(messages), len(data), nbytes)
    assert codec.split_length(data, byteorder) == messages


NAMES = [
    name
    for name, value in vars(codec_py).items()
    if getattr(value, "__module__", None) == codec_py.__name__ and not name.startswith("_")
]


# -- the choice -----------------------------------------------------------------------------


def test_every_twin_has_every_function(codec: ModuleType) -> None:
    """Either twin can be chosen for everything."""
    assert all(callable(getattr(codec, name)) for name in NAMES)


def test_functions_are_chosen_from_one_twin() -> None:
    """The chosen functions belong together."""
    assert len({getattr(chosen, name).__module__ for name in NAMES}) == 1


@pytest.mark.parametrize(
    ("messages", "expected"),
    [([], 0), ([b"", b"abc", b"x"], 3), ((bytearray(5), memoryview(b"1234")), 5)],
)
def test_longest_is_the_length_of_the_longest(
    codec: ModuleType, messages: object, expected: int
) -> None:
    """It counts bytes, of anything bytes-like."""
    assert codec.longest(messages) == expected


@pytest.mark.parametrize("messages", [["text"], [b"a", 5], [None]])
def test_longest_refuses_what_is_not_bytes_like(codec: ModuleType, messages: list[object]) -> None:
    """The error is that of to_bytes, which says what to do."""
    with pytest.raises(TypeError, match="bytes-like"):
        codec.longest(messages)


def test_head_tells_the_sizes_of_what_comes(codec: ModuleType) -> None:
    """A batch's messages are known before they have come."""
    payload = codec.pack_batch([b"abc", b"", bytes(50_000)], 7)[8:]
    assert codec.scan_head(payload[:32], len(payload)) == (7, [3, 0, 50_000])
    assert codec.scan_head(payload, len(payload)) == (7, [3, 0, 50_000])
    with pytest.raises(ValueError, match="shorter than its offsets"):
        codec.scan_head(payload[:31], len(payload))
    with pytest.raises(ValueError, match="do not run from 0 to its end"):
        codec.scan_head(payload[:32], len(payload) - 1)


def test_messages_are_made_one_by_one(codec: ModuleType) -> None:
    """An iterator over a batch says how many are left, and needs no copy of a view of bytes."""
    frame = codec.pack_batch([b"a", b"", b"ccc"], 0)
    messages = codec.iter_batch(memoryview(frame)[8:], 1)
    assert length_hint(messages) == 2
    assert next(messages) == b""
    assert length_hint(messages) == 1
    assert list(messages) == [b"ccc"]
    assert list(messages) == []
    with pytest.raises(ValueError, match="outside the messages"):
        codec.iter_batch(frame[8:], 4)
    with pytest.raises(ValueError, match="shorter than its head"):
        codec.iter_batch(b"", 0)


def test_messages_and_their_view_are_collected_together(codec: ModuleType) -> None:
    """The collector releases the view in a cycle although an iterator has not ended."""

    class Cycle:
        pass

    view = memoryview(codec.pack_batch([b"a", b"b"], 0))[8:]
    messages = codec.iter_batch(view, 0)
    assert next(messages) == b"a"
    cycle = Cycle()  # made last: the collector clears the oldest object first
    cycle.__dict__.update(view=view, messages=messages, cycle=cycle)
    gone = weakref.ref(cycle)
    del cycle, view, messages
    gc.collect()
    assert gone() is None
