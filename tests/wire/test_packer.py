"""Gather messages for one frame, from many threads, and lose none."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import tracemalloc
from array import array
from types import ModuleType
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr.wire.frames import HEADER

MOST: Final = 2**32 - 21  # bytes: the largest cost that fits a frame


def opened(codec: ModuleType, limit: int = 1000, max_message: int = 100) -> Any:
    packer = codec.Packer(max_message)
    packer.open(limit)
    return packer


def messages_of(codec: ModuleType, taken: tuple[int, bytes, list[bytes]]) -> list[bytes]:
    count, head, pieces = taken
    bodies = b"".join(pieces)
    if not count:
        return []
    messages: list[bytes] = codec.split_batch((head + bodies)[HEADER.size :], 0)
    assert len(messages) == count
    return messages


# -- taking and giving ----------------------------------------------------------------------


@given(messages=st.lists(st.binary(max_size=300), min_size=1), first_seq=st.integers(0, 2**62))
def test_head_and_bodies_are_the_frame(
    codec: ModuleType, messages: list[bytes], first_seq: int
) -> None:
    """What is taken is what pack_batch makes of the same messages."""
    packer = opened(codec, 10**6, 300)
    assert all(packer.append(message) for message in messages)
    count, head, pieces = packer.take(first_seq)
    assert count == len(messages)
    assert b"".join(pieces) == b"".join(messages)
    assert b"".join([head, *pieces]) == codec.pack_batch(messages, first_seq)
    assert (type(count), type(head), type(pieces)) == (int, bytes, list)
    assert {bytes}.issuperset(map(type, pieces))


def test_messages_of_any_size_make_whole_frames(codec: ModuleType) -> None:
    """A batch may grow and the next one shrink: no byte is lost or left over."""
    packer = codec.Packer(1 << 24)
    for size, count in [(1, 3), (200, 5000), (0, 4), (3, 1), (1 << 20, 3), (1000, 900), (7, 2)]:
        messages = [bytes([number % 256]) * size for number in range(count)]
        packer.open(1 << 24)
        assert packer.extend(messages, 0) == count
        assert packer.cost == (size + 8) * count
        _, head, pieces = packer.take(5)
        assert b"".join([head, *pieces]) == codec.pack_batch(messages, 5)


def test_long_message_is_not_copied(codec: ModuleType) -> None:
    """What is long travels as it is, between what is gathered of the short ones."""
    packer = codec.Packer(1 << 24)
    long, other = bytes(20_000), bytearray(20_000)
    packer.open(1 << 24)
    for message in (b"a", b"b", long, other, long, b"c"):
        assert packer.append(message)
    first, second, third, fourth, last = packer.take(0)[2]
    assert (first, last) == (b"ab", b"c")
    assert second is long
    assert fourth is long
    assert third == other


def test_little_takes_little_memory(codec: ModuleType) -> None:
    """What a batch sets aside is of the order of what it holds."""
    packer = codec.Packer(1 << 24)
    tracemalloc.start()
    try:
        packer.open(1 << 24)
        packer.append(b"a")
        assert tracemalloc.get_traced_memory()[1] < 4_000
        packer.extend([bytes(100)] * 10_000, 0)
        assert tracemalloc.get_traced_memory()[1] < 2_600_000
    finally:
        tracemalloc.stop()


def test_taken_bodies_never_change(codec: ModuleType) -> None:
    """A batch that somebody holds is left alone, however many come after it."""
    packer = codec.Packer(100)
    held: list[tuple[bytes, int, bytes]] = []
    for number in range(300):
        packer.open(60_000)
        message = bytes([number % 256]) * (50 + number % 7)
        assert packer.extend([message] * 2000, 0) < 2000
        held = held[-(number % 20) - 1 :]  # some live long, some not at all
        for piece in packer.take(0)[2]:
            copy = message * (len(piece) // len(message))
            held.append((piece, hash(piece), copy))
            assert hash(piece) == hash(copy)
            assert ctypes.string_at(piece, len(piece) + 1) == copy + b"\0"  # C counts on it
        assert all((piece, hash(piece)) == (copy, old) for piece, old, copy in held)


def test_nothing_taken_is_nothing_at_all(codec: ModuleType) -> None:
    """Of no messages there is no frame."""
    packer = codec.Packer(100)
    assert packer.take(3) == (0, b"", [])
    packer.open(100)
    assert packer.take(3) == (0, b"", [])
    assert packer.append(b"a") is False


@pytest.mark.parametrize("make", [bytearray, memoryview, lambda data: array("B", data)])
def test_message_is_copied_when_it_is_appended(codec: ModuleType, make: Any) -> None:
    """What its owner does to a message afterwards changes nothing, and nothing forbids it."""
    data = bytearray(b"good")
    packer = opened(codec)
    message = make(data)
    assert packer.append(message)
    if isinstance(message, bytearray):
        message += b"?"
    data[:] = b"evil"
    assert packer.take(0)[2] == [b"good"]


# -- what is taken, and what not ------------------------------------------------------------


def test_packer_takes_messages_only_while_it_is_open(codec: ModuleType) -> None:
    """It is closed at first, and again once it was closed or taken from."""
    packer = codec.Packer(100)
    assert packer.append(b"a") is False
    packer.open(100)
    assert packer.append(b"b") is True
    packer.close()
    assert packer.append(b"c") is False
    assert packer.extend([b"d"], 0) == 0
    assert len(packer) == 1
    packer.open(100)
    assert packer.append(b"e") is True
    assert messages_of(codec, packer.take(0)) == [b"b", b"e"]
    assert packer.append(b"f") is False
    assert (len(packer), packer.cost) == (0, 0)


def test_cost_stays_within_the_limit(codec: ModuleType) -> None:
    """A message costs its length and eight; the last one may just fit."""
    packer = opened(codec, 30)
    assert packer.append(b"abc")
    assert (len(packer), packer.cost) == (1, 11)
    assert packer.append(bytes(12)) is False
    assert packer.append(bytes(11)) is True
    assert (len(packer), packer.cost) == (2, 30)
    assert packer.append(b"") is False


def test_message_is_not_larger_than_allowed(codec: ModuleType) -> None:
    """A message too large is not taken, however much room there is."""
    packer = opened(codec, 1000, 5)
    assert packer.append(b"12345")
    assert packer.append(b"123456") is False
    assert packer.append(bytearray(b"123456")) is False
    assert len(packer) == 1


def test_new_limit_replaces_the_old_and_drops_nothing(codec: ModuleType) -> None:
    """A packer that is opened again keeps what it has, even beyond the new limit."""
    packer = opened(codec, 100)
    assert packer.append(b"0123456789")
    packer.open(10)
    assert packer.append(b"") is False
    packer.open(26)
    assert packer.append(b"") is True
    assert messages_of(codec, packer.take(0)) == [b"0123456789", b""]


@pytest.mark.parametrize("limit", [-(2**80), -(2**63), -1, 0, 7])
def test_limit_may_be_too_low_for_any_message(codec: ModuleType, limit: int) -> None:
    """No limit is refused; a low one takes nothing."""
    packer = opened(codec, limit)
    packer.open(100)
    assert packer.append(b"message")
    packer.open(limit)
    assert packer.append(b"") is False
    assert packer.try_extend([b"", b""]) == 0


@pytest.mark.parametrize("limit", [MOST, 2**32, 2**80])
def test_no_limit_lets_more_in_than_a_frame_can_carry(codec: ModuleType, limit: int) -> None:
    """The highest limit is what fits a frame of 4 GiB."""
    packer = opened(codec, limit, 2**80)
    try:
        message = bytes(MOST - 7)  # zeros that nobody touches take no memory
    except MemoryError:
        pytest.skip("the address space is too small for the message")
    taken = packer.append(message)
    assert taken is False
    assert packer.append(b"a") is True


def test_numbers_that_do_not_fit_change_nothing(codec: ModuleType) -> None:
    """A batch whose numbers are wrong stays, and the packer stays open."""
    packer = opened(codec)
    packer.append(b"a")
    for wrong in (-1, 2**63 - 1, 2**63, 2**64 - 1, 2**80):
        with pytest.raises(ValueError, match=r"^the sequence numbers of a batch must fit"):
            packer.take(wrong)
    for stranger in (1.5, None, "1"):
        with pytest.raises(TypeError):
            packer.take(stranger)
        with pytest.raises(TypeError):
            packer.open(stranger)
    assert packer.append(b"b")
    assert messages_of(codec, packer.take(2**63 - 3)) == [b"a", b"b"]


# -- extend ---------------------------------------------------------------------------------


def test_extend_stops_where_the_batch_is_full(codec: ModuleType) -> None:
    """It tells where, so that the rest goes into the next batch."""
    messages = [bytes([number]) for number in range(10)]
    packer = opened(codec, 4 * 9)
    assert packer.extend(messages, 0) == 4
    assert packer.extend(messages, 4) == 4
    assert messages_of(codec, packer.take(0)) == messages[:4]
    packer.open(1000)
    assert packer.extend(tuple(messages), 4) == 10
    assert packer.extend(messages, 10) == 10
    assert messages_of(codec, packer.take(4)) == messages[4:]


def test_extend_stops_before_what_is_too_large(codec: ModuleType) -> None:
    """A message too large is left for append to refuse."""
    packer = opened(codec, 1000, 3)
    assert packer.extend([b"a", b"long", b"b"], 0) == 1
    assert packer.extend([b"a", b"long", b"b"], 1) == 1


def test_extend_raises_only_for_the_message_it_begins_with(codec: ModuleType) -> None:
    """It stops before what is no message; who goes on from there gets the error."""
    messages = [b"a", "text", b"b"]
    packer = opened(codec)
    assert packer.extend(messages, 0) == 1
    with pytest.raises(TypeError, match=r"^a message is bytes-like, not str"):
        packer.extend(messages, 1)
    assert messages_of(codec, packer.take(0)) == [b"a"]


@pytest.mark.parametrize("start", [-1, 3, 2**80, -(2**80)])
def test_extend_begins_within_the_messages(codec: ModuleType, start: int) -> None:
    """A start before the first message or behind the last is refused."""
    packer = opened(codec)
    with pytest.raises(ValueError, match=r"^the start lies outside the messages$"):
        packer.extend([b"a", b"b"], start)
    assert len(packer) == 0


@pytest.mark.parametrize(
    "messages",
    [
        [b"a", b"1234"],  # one is too large
        [b"123"] * 10,  # together they are
        [b"a", bytearray(b"b")],
        [b"a", "text"],
        iter([b"a"]),
        b"ab",
    ],
)
def test_try_extend_takes_all_or_none(codec: ModuleType, messages: Any) -> None:
    """What is not plain bytes in a list or tuple, or does not fit whole, is left for others."""
    packer = opened(codec, 100, 3)
    assert packer.try_extend(messages) == 0
    assert len(packer) == 0
    assert packer.try_extend([b"a", b""]) == packer.try_extend((b"b", b"ccc")) == 2
    assert messages_of(codec, packer.take(0)) == [b"a", b"", b"b", b"ccc"]


# -- many at once ---------------------------------------------------------------------------


def test_threads_lose_and_double_nothing(codec: ModuleType) -> None:
    """Each message that was taken is in one batch, in its thread's order."""
    packer = codec.Packer(100)
    threads, each = 4, 3000
    batches: list[tuple[int, bytes, list[bytes]]] = []
    done = threading.Event()

    def produce(thread: int) -> None:
        messages = [b"%d %d" % (thread, number) for number in range(each)]
        position = 0
        while position < each:
            if thread % 2:
                position = packer.extend(messages, position)
            else:
                position += packer.append(messages[position])

    def collect() -> None:
        while not done.is_set():
            packer.open(10_000)
            batches.append(packer.take(0))

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        producers = [threading.Thread(target=produce, args=(n,)) for n in range(threads)]
        collector = threading.Thread(target=collect)
        for thread in (*producers, collector):
            thread.start()
        for thread in producers:
            thread.join()
        done.set()
        collector.join()
    finally:
        sys.setswitchinterval(switch)
    received: list[list[int]] = [[] for _ in range(threads)]
    for batch in (*batches, packer.take(0)):
        for message in messages_of(codec, batch):
            sender, number = map(int, message.split())
            received[sender].append(number)
    assert received == [list(range(each))] * threads


def test_signal_handlers_may_use_it(codec: ModuleType) -> None:
    """A handler that breaks into its own thread's call neither waits for it nor harms it."""
    packer = codec.Packer(100)
    handled: list[bool] = []
    batches: list[tuple[int, bytes, list[bytes]]] = []
    sent = 0

    def handle(_number: int, _frame: object) -> None:
        handled.append(packer.append(b"handler"))
        if len(handled) % 5 == 0:
            batches.append(packer.take(0))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while sum(handled) < 200:
            packer.open(2000)
            while packer.append(b"thread"):
                sent += 1
            batches.append(packer.take(0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    messages = [message for batch in batches for message in messages_of(codec, batch)]
    assert (messages.count(b"thread"), messages.count(b"handler")) == (sent, sum(handled))
    assert (len(packer), packer.cost) == (0, 0)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes have buffers since Python 3.12")
def test_message_may_change_everything_when_asked_for_its_bytes(codec: ModuleType) -> None:
    """Foreign code that runs in the middle of a call finds and leaves a sound packer."""
    packer = opened(codec, 10**6)

    class Meddler:
        def __buffer__(self, _flags: int) -> memoryview:
            packer.append(b"meddled")
            packer.take(0)
            packer.open(10**6)
            packer.extend([b"x" * 90] * 1000, 0)
            messages.clear()
            return memoryview(b"meddler")

    messages: list[Any] = [b"first", Meddler(), b"last"]
    assert packer.extend(messages, 0) == 2
    assert messages_of(codec, packer.take(0)) == [b"x" * 90] * 1000 + [b"meddler"]
    messages[:] = [b"first", Meddler(), b"last"]
    packer.close()
    assert codec.pack_length(messages, "big") == b"\0\0\0\5first\0\0\0\7meddler"
