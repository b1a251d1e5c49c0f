"""Writing a short message straight to the socket, in one step."""

from __future__ import annotations

import socket
import threading
from math import inf
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr._speedups import IN_C, codec
from mpsr._speedups import direct as chosen
from mpsr._speedups.direct_py import DirectWriter as NoDirectWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]
DirectWriter = chosen.DirectWriter
in_c = pytest.mark.skipif(not IN_C, reason="it takes C")


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


@in_c
def test_message_goes_as_a_frame_of_its_own(pair: Pair) -> None:
    """What is written is a batch of one, numbered on from the first."""
    direct = DirectWriter(0, 1)
    direct.open(pair[0].fileno(), 7, 3, 100)
    messages = [b"a", b"", bytes(100)]
    assert all(direct.write(message) for message in messages)
    frames = [codec.pack_batch([message], seq) for seq, message in enumerate(messages, 7)]
    assert pair[1].recv(1000) == b"".join(frames)
    assert direct.close() == (7, frames)
    assert direct.close() == (7, frames)  # nothing is forgotten before it is opened again


@in_c
def test_other_messages_are_left_alone(pair: Pair) -> None:
    """Long ones, what is not bytes, one too many, and any while it is closed."""
    direct = DirectWriter(0, 1)
    assert not direct.write(b"closed")
    direct.open(pair[0].fileno(), 0, 1, 10)
    assert not direct.write(bytes(11))
    assert not direct.write(bytearray(1))
    assert not direct.write("text")
    assert direct.write(bytes(10))
    assert not direct.write(b"one too many")
    direct.open(pair[0].fileno(), 1, 1, 10)
    direct.close()
    assert not direct.write(b"closed")
    assert direct.close() == (1, [])


@in_c
def test_few_messages_leave_at_once_in_quick_succession(pair: Pair) -> None:
    """A turn is had back in its time."""
    direct = DirectWriter(1000, 3)
    direct.open(pair[0].fileno(), 0, 10, 10)
    assert [direct.write(b"m") for _ in range(5)] == [True, True, True, False, False]
    direct.full_at = 0.0
    assert direct.write(b"m")
    direct.full_at = inf
    assert not direct.write(b"m")


@in_c
def test_full_socket_takes_nothing(pair: Pair) -> None:
    """What does not go is not remembered, and nothing more is tried."""
    direct = DirectWriter(0, 1)
    direct.open(pair[0].fileno(), 0, 100_000, 4000)
    written = 0
    while direct.write(bytes(4000)):
        written += 1
    assert len(direct.close()[1]) == written
    pair[1].recv(1 << 20)
    assert not direct.write(b"m")


@in_c
def test_lost_connection_takes_nothing(pair: Pair) -> None:
    """That the other end is gone is no error here: whoever writes the other way will tell."""
    direct = DirectWriter(0, 1)
    direct.open(pair[0].fileno(), 0, 10, 10)
    pair[1].close()
    assert not direct.write(b"m")
    assert direct.close() == (0, [])


@in_c
def test_sequence_numbers_have_to_fit(pair: Pair) -> None:
    """Numbers beyond the wire's are refused, as are bad arguments."""
    direct = DirectWriter(0, 1)
    with pytest.raises(ValueError, match="64 bits"):
        direct.open(pair[0].fileno(), 2**63 - 1, 1, 10)
    with pytest.raises(ValueError, match="64 bits"):
        direct.open(pair[0].fileno(), 0, -1, 10)
    with pytest.raises(TypeError):
        direct.open("socket", 0, 1, 10)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        DirectWriter("soon", 1)  # type: ignore[arg-type]


def test_speedups_have_it_too() -> None:
    """Where the codec is in C, this is too."""
    assert (DirectWriter.__module__ != NoDirectWriter.__module__) == IN_C


def test_without_c_all_goes_the_other_way() -> None:
    """Its stand-in writes nothing, and has nothing written."""
    direct = NoDirectWriter(0.1, 3)
    direct.open(0, 5, 10, 100)
    assert not direct.write(b"m")
    assert direct.close() == (0, [])


@in_c
def test_idle_producer_writes_directly(address: str) -> None:
    """A message at a time takes the one step, and is accepted, resent and counted as all are."""
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address, linger=0) as producer:
        producer.send(b"first")
        assert receiver.receive(5) == b"first"
        receiver.acknowledge()
        producer.flush(5)
        direct = 0
        for number in range(100):
            message = b"%d" % number
            if producer._write_direct(message):
                direct += 1
            else:
                producer.send(message)
            assert receiver.receive(5) == message
        assert direct > 50
        receiver.acknowledge()
        flushing = threading.Thread(target=producer.flush, args=(5,))
        flushing.start()
        flushing.join()
        assert producer.stats().accepted == 101
        assert producer.stats().buffered_bytes == 0


@in_c
def test_directly_written_messages_survive_their_receiver(address: str) -> None:
    """What the next receiver has not accepted, written directly or not, it gets in order."""
    with mpsr.Producer[bytes](address, linger=0) as producer:
        with mpsr.Receiver(address) as receiver:
            producer.send(b"first")
            assert receiver.receive(5) == b"first"
            receiver.acknowledge()
            producer.flush(5)
            for number in range(5):
                producer.send(b"%d" % number)
        with mpsr.Receiver(address) as receiver:
            assert [receiver.receive(5) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
