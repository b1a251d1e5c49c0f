"""The ring of shared memory that carries bulk beside the socket."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

import pytest

import mpsr
from mpsr._speedups import codec
from mpsr.engine.sending.outbox import Outbox
from mpsr.engine.sending.states import Carrier, WriteState
from mpsr.limits import MIB, RING_AFTER, RING_SIZE
from mpsr.system import passing, ring
from mpsr.system.address import parse_address
from mpsr.wire.frames import PREFACE, Hello, Move, Ring, encode
from tests.eventually import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpsr._speedups._c import Reader, Writer
    from tests.conftest import Limits

pytestmark = pytest.mark.skipif(not ring.AVAILABLE, reason="it takes Linux and C")

HEAD, TAIL, SIZE = 0, 64, 4096


@pytest.fixture
def memory() -> Iterator[tuple[Writer, Reader, mmap.mmap]]:
    """Return both ends of a small ring, and its memory."""
    from mpsr._speedups import _c

    descriptor = os.memfd_create("test")
    os.truncate(descriptor, _c.CONTROL + SIZE)
    writer, reader = _c.Writer(descriptor, SIZE), _c.Reader(descriptor, SIZE)
    with mmap.mmap(descriptor, _c.CONTROL) as control:
        yield writer, reader, control
    writer.close()
    reader.close()
    os.close(descriptor)


Memory = tuple["Writer", "Reader", mmap.mmap]


def test_bytes_come_out_as_they_went_in(memory: Memory) -> None:
    """Whatever the pieces, and however often it went round."""
    writer, reader, _ = memory
    rng = random.Random(1)
    sent, got = b"", b""
    for _ in range(2000):
        pieces = [rng.randbytes(rng.randrange(900)) for _ in range(rng.randrange(1, 4))]
        skip = rng.randrange(sum(map(len, pieces)) + 1)
        went = writer.write(pieces, skip)
        sent += b"".join(pieces)[skip : skip + went]
        if rng.random() < 0.5:
            rooms = [bytearray(rng.randrange(1, 900)) for _ in range(2)]
            try:
                size = reader.recv_into(rooms)
            except BlockingIOError:
                assert len(got) == len(sent)
                continue
            got += b"".join(rooms)[: min(size, len(rooms[0]))]
            got += bytes(rooms[1][: max(0, size - len(rooms[0]))])
        elif len(got) < len(sent):
            got += reader.recv(rng.randrange(1, 3000))
        assert reader.filled() == len(sent) - len(got)
    assert len(sent) > 20 * SIZE
    assert sent.startswith(got)


@pytest.mark.parametrize("page", [4096, 16 * 1024, 64 * 1024])
def test_data_begins_behind_one_page_of_whatever_size(page: int) -> None:
    """Both ends map the control page and the data where they lie with pages of that size."""
    from mpsr._speedups import _c

    size = 2 * page
    descriptor = os.memfd_create("test")
    os.truncate(descriptor, page + size)
    writer, reader = _c.Writer(descriptor, size, page), _c.Reader(descriptor, size, page)
    with mmap.mmap(descriptor, page + size) as memory:
        for at in range(0, 3 * size, size // 2):  # round and round
            written = bytes([at * 2 // size + 1]) * (size // 2)
            assert writer.write([written], 0) == len(written)
            assert memory[HEAD : HEAD + 8] == struct.pack("=Q", at + len(written))
            begin = page + at % size
            assert memory[begin : begin + len(written)] == written
            assert reader.recv(size) == written
        assert not any(memory[TAIL + 192 : page])
    writer.close()
    reader.close()
    os.close(descriptor)


@pytest.mark.parametrize("page", [4096, 16 * 1024, 64 * 1024])
def test_ring_smaller_than_a_page_is_left_alone(page: int) -> None:
    """It cannot be mapped twice in a row."""
    from mpsr._speedups import _c

    descriptor = os.memfd_create("test")
    os.truncate(descriptor, 2 * page)
    with pytest.raises(ValueError, match=f"a ring cannot have {page // 2} bytes"):
        _c.Writer(descriptor, page // 2, page)
    os.close(descriptor)


def test_pages_are_the_systems_unless_told_otherwise() -> None:
    """What a receiver makes is a ring for any page size up to 64 KiB."""
    from mpsr._speedups import _c

    assert os.sysconf("SC_PAGESIZE") == _c.CONTROL
    assert RING_SIZE % (64 * 1024) == 0


def test_full_ring_takes_no_more(memory: Memory) -> None:
    """What there is no room for stays with the writer."""
    writer, reader, _ = memory
    assert writer.write([bytes(SIZE - 1), b"ab"], 0) == SIZE
    assert writer.write([b"b"], 0) == 0
    assert not writer.wait_for_room(0)
    assert reader.recv(SIZE) == bytes(SIZE - 1) + b"a"
    with pytest.raises(BlockingIOError):
        reader.recv(1)


def test_each_end_wakes_the_other_that_sleeps(memory: Memory) -> None:
    """Who found nothing to do is woken once, and who did not sleep is not."""
    writer, reader, _ = memory
    assert writer.write([b"a"], 0) == 1
    assert not writer.reader_sleeps()
    reader.recv(10)
    with pytest.raises(BlockingIOError):
        reader.recv(10)
    writer.write([b"b"], 0)
    assert writer.reader_sleeps()
    assert not writer.reader_sleeps()
    writer.write([bytes(SIZE)], 0)
    assert writer.announce_room()
    reader.recv(10)
    assert not reader.wake_writer()  # so little room is not worth it
    reader.recv(SIZE)
    assert reader.wake_writer()
    assert not reader.wake_writer()
    assert not writer.announce_room()  # there is room already


def test_sleep_ends_with_room_and_with_an_interruption(memory: Memory) -> None:
    """A thread that waits for room is woken by the reader, or by another thread."""
    writer, reader, _ = memory

    def make_room() -> None:
        if reader.filled():
            reader.recv(SIZE)
        reader.wake_writer()

    for wake, awake in (
        (make_room, True),
        (writer.interrupt, False),
    ):
        while writer.write([bytes(SIZE)], 0):
            pass
        result: list[bool] = []
        sleeper = threading.Thread(
            target=lambda found=result: found.append(writer.wait_for_room(30))
        )
        sleeper.start()
        while sleeper.is_alive():
            wake()
            sleeper.join(0.001)
        assert result == [awake]


@pytest.mark.parametrize("value", [SIZE + 2, 2**63, 2**64 - 1])
def test_impossible_counters_are_refused(memory: Memory, value: int) -> None:
    """Whatever the other end writes, nothing outside the ring is read or written."""
    writer, reader, control = memory
    writer.write([b"abc"], 0)
    reader.recv(1)
    control[HEAD : HEAD + 8] = struct.pack("<Q", value)
    for call in (lambda: reader.recv(10), lambda: reader.recv_into([bytearray(9)]), reader.filled):
        with pytest.raises(ValueError, match="counters"):
            call()
    control[TAIL : TAIL + 8] = struct.pack("<Q", value)
    for call in (
        lambda: writer.write([b"x"], 0),
        writer.announce_room,
        lambda: writer.wait_for_room(0),
    ):
        with pytest.raises(ValueError, match="counters"):
            call()


def test_closed_ring_is_not_touched(memory: Memory) -> None:
    """Behind its end every call says so."""
    writer, reader, _ = memory
    writer.close()
    writer.close()
    reader.close()
    calls: list[Callable[[], object]] = [
        lambda: writer.write([b"x"], 0),
        writer.reader_sleeps,
        lambda: reader.recv(1),
        reader.filled,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_only_a_safe_ring_is_taken() -> None:
    """One that could be cut short, or is no ring at all, is left alone."""
    descriptor, reader = ring.make()
    writer = ring.attach(descriptor, RING_SIZE)
    assert writer is not None
    writer.close()
    assert ring.attach(descriptor, 2 * RING_SIZE) is None  # it is smaller than that
    assert ring.attach(descriptor, RING_SIZE - 1) is None
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 0)
    reader.close()
    os.close(descriptor)
    unsealed = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.truncate(unsealed, 2 * RING_SIZE)
    assert ring.attach(unsealed, RING_SIZE) is None
    fcntl.fcntl(unsealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert ring.attach(unsealed, RING_SIZE) is None  # its pages are not there
    os.close(unsealed)
    with open(os.devnull) as file:
        assert ring.attach(file.fileno(), RING_SIZE) is None


def page_as(size: int, byteorder: Literal["big", "little"] = sys.byteorder) -> bytes:
    return size.to_bytes(4, byteorder)


OTHER: Final[Literal["big", "little"]] = "big" if sys.byteorder == "little" else "little"


@pytest.mark.parametrize(
    "layout", [page_as(mmap.PAGESIZE, OTHER), page_as(16 * mmap.PAGESIZE), page_as(1024), bytes(4)]
)
def test_ring_of_another_machine_is_left_alone(
    address: str, monkeypatch: pytest.MonkeyPatch, layout: bytes
) -> None:
    """An emulated program has other pages, or another byte order: it sends through the socket."""
    make = ring.make
    made: list[int] = []

    def other() -> tuple[int, Reader]:
        descriptor, reader = make()
        assert os.pwrite(descriptor, layout, 256) == 4
        made.append(descriptor)
        return descriptor, reader

    monkeypatch.setattr(ring, "make", other)
    with mpsr.Receiver[bytes](address) as receiver, mpsr.Producer[bytes](address) as producer:
        for number in range(100):  # more than after which a ring is given
            producer.send(b"%d " % number + bytes(MIB // 8))
            assert receiver.receive(PATIENCE).startswith(b"%d " % number)
        assert made
        assert not any(each.in_ring for each in receiver._inbox._connections.open)  # type: ignore[union-attr]
        receiver.acknowledge()
        producer.flush(PATIENCE)


# -- between two processes --------------------------------------------------------------------


def test_two_processes_miss_no_wake_up() -> None:
    """Whoever is faster waits for the other; each byte arrives, in order."""
    total = 30 * MIB
    descriptor, reader = ring.make()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            writer = ring.attach(descriptor, RING_SIZE)
            assert writer is not None
            write_counted(writer, theirs, total)
            os._exit(0)
        finally:
            os._exit(1)
    got, rng = 0, random.Random(2)
    while got < total:
        try:
            data = reader.recv(rng.choice([100, 5000, 300_000]))
        except BlockingIOError:
            assert select.select([ours], [], [], 20)[0], "a doorbell was missed"
            ours.recv(100)
            continue
        assert data == counted(got, len(data))
        got += len(data)
        if reader.wake_writer():
            ours.send(b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    reader.close()
    os.close(descriptor)
    ours.close()
    theirs.close()


PATTERN = random.Random(3).randbytes(MIB)


def counted(start: int, size: int) -> bytes:
    """Return a part of an endless stream in which no two places look alike."""
    start %= len(PATTERN)
    return (
        (PATTERN[start:] + PATTERN)[:size]
        if start + size > len(PATTERN)
        else PATTERN[start : start + size]
    )


def write_counted(writer: Writer, sock: socket.socket, total: int) -> None:
    sent, rng = 0, random.Random(4)
    while sent < total:
        size = min(rng.choice([1, 700, 60_000, 900_000]), total - sent)
        data, done = counted(sent, size), 0
        while done < size:
            done += (went := writer.write([data], done))
            if writer.reader_sleeps():
                sock.send(b"!")
            if not went:
                if rng.random() < 0.5:
                    assert writer.wait_for_room(20), "a wake-up was missed"
                elif writer.announce_room():
                    assert select.select([sock], [], [], 20)[0], "a wake-up was missed"
                    sock.recv(100)
        sent += size


# -- through producer and receiver ------------------------------------------------------------


def is_in_ring(outbox: Outbox) -> bool:
    connection = outbox._connection
    return connection is not None and connection.carrier is Carrier.RING


def in_ring(producer: mpsr.Producer[bytes]) -> bool:
    return is_in_ring(producer._outbox)


def send_often(producer: mpsr.Producer[bytes], messages: list[bytes], rounds: int) -> None:
    for _ in range(rounds):
        producer.send_many(messages)


def send_frames(sock: socket.socket, count: int) -> None:
    for seq in range(count):
        sock.sendall(codec.pack_batch([bytes(MIB)], seq))


def produce(address: str, messages: list[bytes], rounds: int) -> threading.Thread:
    """Send them so many times, in a thread that ends once all are accepted."""

    def send() -> None:
        with mpsr.Producer[bytes](address) as producer:
            for _ in range(rounds):
                producer.send_many(messages)
            for message in messages[:10]:
                producer.send(message)
            producer.flush()
            assert in_ring(producer)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [100, 5000, 100_000, 3_000_000])
def test_bulk_moves_to_a_ring(address: str, size: int) -> None:
    """All messages arrive once and in order, before the move and behind it."""
    messages = [
        number.to_bytes(4, "big") * (size // 4) for number in range(max(12, 200_000 // size))
    ]
    rounds = 1 + 24 * MIB // (size * len(messages))
    with mpsr.Receiver(address) as receiver:
        sending = produce(address, messages, rounds)
        for _ in range(rounds):
            for message in messages:
                assert receiver.receive(20) == message
        for message in messages[:10]:
            assert receiver.receive(20) == message
        receiver.acknowledge()
        assert receiver._inbox is not None
        assert receiver._inbox._connections.rings._given == 1  # type: ignore[union-attr]
        while receiver.stats().connections:
            assert receiver.try_receive_batch() is None
        sending.join()
        assert receiver._inbox._connections.rings._given == 0  # type: ignore[union-attr]


def test_receiver_gives_at_most_so_many_rings(address: str, limits: Limits) -> None:
    """Without a ring, a producer keeps using its socket; it can get a ring later."""
    limits(MAX_RINGS=0)
    messages = [bytes(1000)] * 1000
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address) as producer:

        def pass_through(count: int) -> None:
            sending = threading.Thread(target=send_often, args=(producer, messages, count))
            sending.start()
            got = 0
            while got < count * len(messages):
                got += len(receiver.receive_batch(20))
            sending.join()
            receiver.acknowledge()

        pass_through(3 * RING_AFTER // MIB)
        assert not in_ring(producer)
        limits(MAX_RINGS=1)
        pass_through(3 * RING_AFTER // MIB)
        assert in_ring(producer)


def test_stalled_receiver_fills_the_ring_and_goes_on(address: str) -> None:
    """A full ring holds a producer up, and room in it wakes it."""
    messages = [bytes(1000)] * 1000
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[bytes](address, buffer=4 * MIB) as producer,
    ):
        sending = threading.Thread(target=send_often, args=(producer, messages, 40))
        sending.start()
        got = 0
        while got < 20_000:
            got += len(receiver.receive_batch(20))
        sending.join(1)  # the receiver reads nothing meanwhile
        assert sending.is_alive()
        assert in_ring(producer)
        while got < 40_000:
            got += len(receiver.receive_batch(20))
        sending.join()
        receiver.acknowledge()


def test_any_news_wakes_who_waits_for_room(address: str) -> None:
    """Whoever reads the acknowledgement that is to wake a producer, it goes on writing."""
    outbox = Outbox(parse_address(address))

    def send(now: float) -> None:
        outbox.service(now)
        assert outbox.window.offer(bytes(100_000), now)
        while write := outbox.begin_write(now):
            outbox.end_write(write, write(), now)

    with mpsr.Receiver(address) as receiver:
        while not is_in_ring(outbox):
            send(monotonic())
            receiver.try_receive_batch()
        while outbox.state is not WriteState.FULL:
            send(monotonic())
        assert not outbox.ready()

        def wakes() -> bool:
            receiver.try_receive_batch()  # it may acknowledge later than it hands out
            while outbox.read(monotonic()):
                pass  # as after a write, and not through the selector
            return outbox.ready()

        eventually(wakes)
    outbox.close()


def child(address: str, body: Callable[[mpsr.Producer[bytes]], None]) -> int:
    """Start a process that sends, until it is killed or done; return its number."""
    pid = os.fork()
    if pid == 0:
        try:
            with mpsr.Producer[bytes](address) as producer:
                body(producer)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def numbered(producer: mpsr.Producer[bytes], total: int) -> None:
    for start in range(0, total, 500):
        producer.send_many(
            [number.to_bytes(4, "big") * 500 for number in range(start, start + 500)]
        )


def test_killed_producer_leaves_whole_messages(address: str) -> None:
    """What it had put into the ring arrives, in order and up to a point; others go on."""
    with mpsr.Receiver(address) as receiver:
        pid = child(address, lambda producer: numbered(producer, 10**9))
        expected = 0
        while expected < 40_000:
            for message in receiver.receive_batch(20):
                assert message == expected.to_bytes(4, "big") * 500
                expected += 1
        assert receiver._inbox is not None
        assert receiver._inbox._connections.rings._given == 1  # type: ignore[union-attr]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while receiver.stats().connections:
            batch = receiver.try_receive_batch()
            for message in batch or ():
                assert message == expected.to_bytes(4, "big") * 500
                expected += 1
        assert receiver._inbox._connections.rings._given == 0  # type: ignore[union-attr]


def test_next_receiver_gets_what_the_ring_held(address: str) -> None:
    """Of a receiver that ends in the middle nothing is lost, and only its last batch is doubled."""
    total = 60_000
    pid = 0
    expected = 0
    for stop_at in (20_000, 40_000, total):
        with mpsr.Receiver(address) as receiver:
            pid = pid or child(address, lambda producer: numbered(producer, total))
            while expected < stop_at:
                message = receiver.receive(20)
                number = int.from_bytes(message[:4], "big")
                assert message == number.to_bytes(4, "big") * 500
                assert number <= expected
                expected = max(expected, number + 1)
            if stop_at == total:
                receiver.acknowledge()
                while receiver.stats().connections:
                    receiver.try_receive_batch()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_stop_hands_out_what_the_ring_holds(address: str) -> None:
    """An orderly end takes all that had come by then."""
    with mpsr.Receiver(address) as receiver:
        with mpsr.Producer[bytes](address) as producer:
            sending = threading.Thread(target=numbered, args=(producer, 30_000))
            sending.start()
            got = 0
            while got < 30_000:
                got += len(receiver.receive_batch(20))
            sending.join()
            receiver.acknowledge()
            assert in_ring(producer)
            producer.send_many([b"last"] * 3)
            flushed = threading.Thread(target=producer.flush)
            flushed.start()
            while not in_ring(producer) or producer._window.unsent or producer._window.gathering:
                pass
            receiver.stop()
            assert [list(batch) for batch in receiver.batches()] == [[b"last"] * 3]
            receiver.acknowledge()
            flushed.join()


# -- hostile ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("head", [2**40, RING_SIZE + 1])
def test_hostile_producer_harms_only_itself(address: str, head: int) -> None:
    """Who scribbles over the control page is cut off; what came before it stands."""
    with mpsr.Receiver(address) as receiver, socket.socket(socket.AF_UNIX) as hostile:
        hostile.connect(address)
        hostile.sendall(PREFACE + encode(Hello(bytes(16), 0, "hostile", takes_ring=True)))
        messages = RING_AFTER // MIB + 1
        sending = threading.Thread(target=send_frames, args=(hostile, messages))
        sending.start()
        for _ in range(messages):
            assert len(receiver.receive(20)) == MIB
        sending.join()
        data = b""
        descriptors: list[int] = []
        while not descriptors:
            more, descriptors = passing.receive(hostile, 4096)
            data += more
        assert encode(Ring(RING_SIZE)) in data
        with mmap.mmap(descriptors[0], 4096) as control:
            control[HEAD : HEAD + 8] = struct.pack("<Q", head)
            control[192:196] = struct.pack("<I", 1)
            hostile.sendall(encode(Move()))
            while receiver.stats().connections:
                assert receiver.try_receive_batch() is None
        os.close(descriptors[0])
        assert receiver.stats().rejected == 1
        with mpsr.Producer[bytes](address) as producer:
            producer.send(b"well")
            assert receiver.receive(20) == b"well"
            receiver.acknowledge()


def test_producer_that_offers_nothing_gets_no_ring(address: str) -> None:
    """A foreign producer never sees a frame that it does not know."""
    with mpsr.Receiver(address) as receiver, socket.socket(socket.AF_UNIX) as foreign:
        foreign.connect(address)
        foreign.sendall(PREFACE + encode(Hello(bytes(16), 0, "foreign")))
        messages = 3 * RING_AFTER // MIB
        sending = threading.Thread(target=send_frames, args=(foreign, messages))
        sending.start()
        for _ in range(messages):
            assert len(receiver.receive(20)) == MIB
        sending.join()
        receiver.acknowledge()
        assert encode(Ring(RING_SIZE)) not in foreign.recv(1 << 16)


@pytest.mark.parametrize("frame", [encode(Move()), encode(Move()) * 2])
def test_move_without_a_ring_is_refused(address: str, frame: bytes) -> None:
    """Who moves to where nothing is has broken the rules."""
    with mpsr.Receiver(address) as receiver, socket.socket(socket.AF_UNIX) as hostile:
        hostile.connect(address)
        hostile.sendall(PREFACE + encode(Hello(bytes(16), 0, "")) + frame)
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(0.01)
        while not receiver.stats().rejected:
            receiver.try_receive_batch()
