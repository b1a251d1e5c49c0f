"""Open files go from a producer to a receiver, and nobody's descriptors are lost by it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.engine.sending.states import Carrier
from mpsr.limits import KIB, MAX_FILES, MIB
from mpsr.system import passing
from mpsr.system.descriptors import registry
from mpsr.wire.frames import Ack, Welcome, encode
from tests.eventually import eventually
from tests.process import roles, test_passing
from tests.process.workers import PATIENCE, beside, receive_beside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.system.address import SocketType
    from tests.process.workers import Start, Worker

kernel = test_passing.kernel


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("what it holds")
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give the read end of a pipe, and its write end, which the test closes."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def descriptors(pid: int | str = "self") -> int:
    registry()  # the process keeps its descriptors, so that they exist before the first count
    return len(os.listdir(f"/proc/{pid}/fd"))


def send_files(producer: mpsr.Producer, path: Path, count: int) -> None:
    for _ in range(count):
        producer.send_file(path)


def closes(reader: int) -> bool:
    """Tell whether nobody has the write end of a pipe any more."""
    os.set_blocking(reader, False)
    try:
        return not os.read(reader, 1)
    except BlockingIOError:
        return False


@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_files_arrive_in_order_each_with_its_message(
    address: str, kind: SocketType, kernel: str, path: Path, pipe: tuple[int, int]
) -> None:
    """A descriptor, an open file and a path; and none of them is inherited."""
    del kernel
    received: list[tuple[bytes, int]] = []

    def take(batch: mpsr.Batch) -> None:
        assert len(batch) == 1 or not batch.files
        assert not any(os.get_inheritable(each) for each in batch.files)
        for each in batch.files:
            if batch[0] == b"a pipe":
                os.write(each, b"came through")
            else:
                received.append((os.read(each, 100), -1))
        received.extend((message, len(batch.files)) for message in batch)

    before = descriptors()
    with (
        mpsr.Receiver(address, type=kind, accept_files=True) as receiver,
        mpsr.Producer(address, type=kind) as producer,
        path.open("rb") as opened,
    ):
        opened.seek(5)

        def send() -> None:
            producer.send(b"first")
            producer.send_file(pipe[1], b"a pipe")
            os.close(pipe[1])
            producer.send_file(opened)
            producer.send_many([b"between"] * 3)
            producer.send_file(path, b"x" * 100)
            producer.send(b"last")
            producer.flush(PATIENCE)

        receive_beside(receiver, take, send)
        assert receiver.stats().rejected == 0
    assert received == [
        (b"first", 0),
        (b"a pipe", 1),
        (b"it holds", -1),  # the position is shared
        (b"", 1),
        *[(b"between", 0)] * 3,
        (b"what it holds", -1),
        (b"x" * 100, 1),
        (b"last", 0),
    ]
    assert os.read(pipe[0], 100) == b"came through"
    eventually(lambda: closes(pipe[0]))
    eventually(lambda: descriptors() <= before - 1)


def test_killed_receivers_files_come_again(start: Start, address: str, path: Path) -> None:
    """Also though the producer's own were closed and removed meanwhile."""
    with mpsr.Producer(address) as producer:
        first = start(roles.receive_files, address)
        assert first.hear() == "ready"
        with path.open() as opened:
            for name in (b"one", b"two"):
                producer.send_file(opened, name)
        path.unlink()
        assert first.hear()[:2] == ["one", ["what it holds"]]
        first.kill()
        second = start(roles.receive_files, address)
        assert second.hear() == "ready"
        assert second.hear()[:2] == ["one", ["what it holds"]]
        assert second.ask()[:2] == ["two", ["what it holds"]]
        second.tell()
        producer.flush(PATIENCE)


@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_descriptors_of_both_processes_return_to_where_they_were(
    start: Start, address: str, path: Path, kind: SocketType
) -> None:
    """After more files than either may hold at a time."""
    receiver = start(roles.receive_files, address, type=kind)
    receiver.hear()
    with mpsr.Producer(address, type=kind) as producer:
        producer.send(b"first")
        before = descriptors(), receiver.hear()[2]
        for number in range(3):
            with beside(lambda: send_files(producer, path, MAX_FILES)):
                most = max(receiver.ask()[2] for _ in range(MAX_FILES))
            assert most <= before[1] + MAX_FILES, number  # a thread closes them, in its time
        receiver.tell()
        producer.flush(PATIENCE)
        eventually(lambda: descriptors() <= before[0])
        eventually(
            lambda: descriptors(receiver.pid) == before[1] - 1
        )  # which has read /proc itself


def test_file_goes_with_a_message_that_takes_many_writes(address: str, path: Path) -> None:
    """It is passed once, and again where the connection ends in the middle."""
    message = os.urandom(3 * MIB)
    with mpsr.Producer(address) as producer, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        producer.send_file(path, message)
        half, _ = listener.accept()
        with half:
            half.recv(KIB)
            half.sendall(encode(Welcome(1, 0, 9 * MIB, accepts_files=True)))
            data, passed = b"", []
            while len(data) < MIB:
                piece, found, _, _ = socket.recv_fds(half, 64 * KIB, 8)
                data += piece
                passed += found
            assert len(passed) == 1
            os.close(passed[0])
        listener.close()
        os.unlink(address)
        with mpsr.Receiver(address, accept_files=True) as receiver:
            batch = receiver.receive_batch(PATIENCE)
            assert batch[0] == message
            assert os.pread(batch.files[0], 100, 0) == b"what it holds"
            with beside(lambda: producer.flush(PATIENCE)):
                receiver.acknowledge()
    assert producer.stats().lost == 0


def test_taken_file_is_the_handlers(address: str, path: Path) -> None:
    """What nobody takes is closed once the receiver goes on, or ends."""
    before = descriptors()
    with mpsr.Receiver(address, accept_files=True) as receiver:
        with mpsr.Producer(address) as producer:
            for _ in range(4):
                producer.send_file(path)
            taken = receiver.receive_batch(PATIENCE).take_files()
            batch = receiver.receive_batch(PATIENCE)
            duplicate = os.dup(batch.files[0])
            last = receiver.receive_batch(PATIENCE)
            assert batch.files == ()
            assert batch.take_files() == ()
            assert os.pread(last.files[0], 100, 0) == b"what it holds"
            receiver.acknowledge()
            assert last.files == ()
            receiver.receive_batch(PATIENCE)
            with beside(lambda: producer.flush(PATIENCE)):
                receiver.acknowledge()
        assert [os.pread(each, 100, 0) for each in (*taken, duplicate)] == [b"what it holds"] * 2
        for each in (*taken, duplicate):
            os.close(each)
    eventually(lambda: descriptors() <= before)


def test_flags_of_an_open_file_come_along(address: str) -> None:
    """It is the same open file, not another one."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with mpsr.Receiver(address, accept_files=True) as receiver, mpsr.Producer(address) as producer:
        producer.send_file(reader)
        (received,) = receiver.receive_batch(PATIENCE).take_files()
        assert fcntl.fcntl(received, fcntl.F_GETFL) & os.O_NONBLOCK
        with beside(lambda: producer.flush(PATIENCE)):
            receiver.acknowledge()
    for each in (reader, writer, received):
        os.close(each)


def test_many_threads_send_files(address: str, path: Path) -> None:
    """Every message with a file has one, and keeps its thread's order."""
    got: dict[bytes, list[int]] = {}

    def take(batch: mpsr.Batch) -> None:
        for message in batch:
            thread, number = message.split()
            assert bool(batch.files) == (int(number) % 5 == 0)
            got.setdefault(thread, []).append(int(number))

    with mpsr.Receiver(address, accept_files=True) as receiver, mpsr.Producer(address) as producer:

        def send(name: int) -> None:
            for number in range(100):
                message = b"%d %d" % (name, number)
                if number % 5:
                    producer.send(message)
                else:
                    producer.send_file(path, message)

        def work() -> None:
            threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            producer.flush(PATIENCE)

        receive_beside(receiver, take, work)
    assert got == {b"%d" % name: list(range(100)) for name in range(4)}


def test_receiver_of_files_gives_no_ring(address: str, path: Path) -> None:
    """A ring carries none; what is long arrives all the same."""
    received: list[int] = []

    def take(batch: mpsr.Batch) -> None:
        received.extend(len(message) for message in batch)

    def send(producer: mpsr.Producer) -> None:
        producer.send_many([bytes(64 * KIB)] * 100)
        producer.send_file(path, bytes(MIB))
        producer.send(bytes(MIB))
        producer.flush(PATIENCE)
        connection = producer._outbox._connection
        assert connection is not None
        assert connection.carrier is Carrier.SOCKET

    with mpsr.Receiver(address, accept_files=True) as receiver, mpsr.Producer(address) as producer:
        receive_beside(receiver, take, lambda: send(producer))
    assert received == [64 * KIB] * 100 + [MIB] * 2


def test_stopped_receiver_hands_out_the_files_that_have_arrived(address: str, path: Path) -> None:
    """A message that the producer has taken but not written yet has not arrived."""
    with mpsr.Receiver(address, accept_files=True) as receiver, mpsr.Producer(address) as producer:
        producer.send_file(path)
        assert receiver.receive_batch(PATIENCE).files
        for _ in range(5):
            producer.send_file(path)
        window = producer._outbox.window
        eventually(lambda: not (window.unsent or window.gathering))
        receiver.stop()
        assert [len(batch.files) for batch in receiver.batches()] == [1] * 5
        with beside(lambda: producer.flush(PATIENCE)):
            receiver.acknowledge()


# -- who takes none -------------------------------------------------------------------------


def test_receiver_that_takes_no_files_is_told_of_by_flush_and_then_at_once(
    address: str, path: Path
) -> None:
    """What else was sent arrives; what was dropped counts as lost, at both ends."""
    before = descriptors()
    with mpsr.Producer(address) as producer:
        producer.send(b"one")
        producer.send_file(path, b"dropped")
        producer.send(b"two")
        received: list[bytes] = []
        with mpsr.Receiver(address) as receiver:

            def flush() -> None:
                with pytest.raises(mpsr.FilesRefused, match="accept_files=True") as caught:
                    producer.flush(PATIENCE)
                assert caught.value.messages == [b"dropped"]
                producer.flush(PATIENCE)
                with pytest.raises(mpsr.FilesRefused, match="takes no files"):
                    producer.send_file(path)
                with pytest.raises(mpsr.FilesRefused, match="takes no files"):
                    producer.try_send_file(path)

            receive_beside(receiver, received.extend, flush)
            assert received == [b"one", b"two"]
            assert receiver.stats().lost == producer.stats().lost == 1
            assert receiver.stats().rejected == 0
    eventually(lambda: descriptors() <= before)


def test_close_gives_back_what_was_dropped(address: str, path: Path) -> None:
    producer: mpsr.Producer = mpsr.Producer(address)
    producer.send_file(path, b"dropped")
    with mpsr.Receiver(address) as receiver, beside(lambda: [*receiver]):
        with pytest.raises(mpsr.Undelivered, match="accept_files=True") as caught:
            producer.close()
        assert caught.value.messages == [b"dropped"]
        receiver.stop()


def test_next_receiver_may_take_files(address: str, path: Path) -> None:
    """What one has refused is no word of another's."""
    with mpsr.Producer(address) as producer:
        with mpsr.Receiver(address) as receiver:
            producer.send(b"one")
            receiver.receive(PATIENCE)
            with pytest.raises(mpsr.FilesRefused):
                producer.send_file(path)
        with mpsr.Receiver(address, accept_files=True) as receiver:
            eventually(lambda: _taken(producer, path))
            assert receiver.receive_batch(PATIENCE).files
            with beside(lambda: producer.flush(PATIENCE)):
                receiver.acknowledge()


def _taken(producer: mpsr.Producer, path: Path) -> bool:
    try:
        return producer.try_send_file(path)
    except mpsr.FilesRefused:
        return False


def test_file_that_the_program_has_closed_is_dropped(address: str, path: Path) -> None:
    """Another file that has its number by then is not sent in its place."""
    with mpsr.Producer(address) as producer:
        producer.send_file(path, b"closed")
        (batch,) = producer._outbox.window._unsent
        assert batch.file is not None
        number = batch.file.descriptor
        other = os.open("/dev/null", os.O_RDONLY)
        os.dup2(other, number)
        with mpsr.Receiver(address, accept_files=True) as receiver, beside(lambda: [*receiver]):
            with pytest.raises(mpsr.FilesRefused, match="does not pass such a file"):
                producer.flush(PATIENCE)
            receiver.stop()
        del batch
        os.fstat(number)  # nor closed
        os.close(number)
        os.close(other)


# -- receivers that are slow, or replaced ----------------------------------------------------


def counted(log: Path) -> tuple[Counter[str], Counter[str]]:
    """Return how often each message came, and how often it came to the same process."""
    lines = [line.split() for line in log.read_text().splitlines()]
    assert {files for _, files, *_ in lines} == {"1"}
    return (
        Counter(" ".join(message) for _, _, *message in lines),
        Counter(" ".join((pid, *message)) for pid, _, *message in lines),
    )


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.soak)])
@pytest.mark.timeout(300)
def test_receiver_slows_the_senders_of_files_and_disconnects_none(
    start: Start, address: str, tmp_path: Path, path: Path, count: int
) -> None:
    """Though it closes files more slowly than eight producers send them."""
    log = tmp_path / "log"
    receiver = start(roles.receive_many_files, address, str(log))
    assert receiver.hear() == "ready"
    producers = [
        start(roles.send_many_files, address, str(path), f"p{each}", count) for each in range(8)
    ]
    assert [each.hear(280) for each in producers] == [[1, 0]] * 8
    receiver.process.terminate()
    assert receiver.hear() == 0
    overall, _ = counted(log)
    assert len(overall) == overall.total() == 8 * count


@pytest.mark.parametrize("way", ["kill", "stop", "hand over"])
@pytest.mark.parametrize("count", [75, pytest.param(3000, marks=pytest.mark.soak)])
@pytest.mark.timeout(300)
def test_replaced_receivers_lose_no_file(
    start: Start, address: str, path: Path, way: str, count: int
) -> None:
    """Each arrives, and arrives once at the same receiver."""
    log = path.with_name("log")
    log.touch()
    receiver = start(roles.receive_many_files, address, str(log))
    assert receiver.hear() == "ready"
    producers = [
        start(roles.send_many_files, address, str(path), f"p{each}", count) for each in range(4)
    ]
    replaced = 0
    while not all(each.said() for each in producers) and replaced < 100:
        before = log.stat().st_size
        eventually(partial(_goes_on, log, before, producers))
        old, options = receiver, {}
        if way == "hand over":
            options = {"handover": True}
        else:
            os.kill(old.pid, signal.SIGKILL if way == "kill" else signal.SIGTERM)
            old.process.wait()
        receiver = start(roles.receive_many_files, address, str(log), **options)
        assert receiver.hear() == "ready"
        replaced += 1
    assert replaced
    assert [each.hear(280)[1] for each in producers] == [0] * 4
    overall, each_process = counted(log)
    assert len(overall) == 4 * count
    assert max(each_process.values()) == 1
    if way != "kill":
        assert max(overall.values()) == 1


def _goes_on(log: Path, before: int, producers: list[Worker]) -> bool:
    """Return whether about 150 more messages have come, or all producers have ended."""
    return log.stat().st_size > before + 150 * 15 or all(each.said() for each in producers)


def test_file_that_a_closing_receiver_refuses_is_sent_to_the_next(address: str, path: Path) -> None:
    """The kernel tells the sender EPERM, which says nothing of the file."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        with mpsr.Producer(address) as producer:
            connection, _ = server.accept()
            with connection:
                if not passing.refuse(connection):
                    pytest.skip("this kernel refuses no descriptors")
                connection.sendall(encode(Welcome(1, 0, MIB, accepts_files=True)) + encode(Ack(0)))
                producer.send_file(path, b"file")
                eventually(lambda: producer.stats().lost or not producer.stats().connected)
            server.close()
            os.unlink(address)
            assert producer.stats().lost == 0
            with mpsr.Receiver(address, accept_files=True) as receiver:
                batch = receiver.receive_batch(PATIENCE)
                assert [*batch] == [b"file"]
                assert len(batch.files) == 1
                with beside(lambda: producer.flush(PATIENCE)):
                    receiver.acknowledge()


# -- limits ---------------------------------------------------------------------------------


def test_files_that_wait_are_bounded(address: str, path: Path) -> None:
    """The next one waits for room, or is refused or dropped, as any message; its file is closed."""
    before = descriptors()
    with pytest.raises(mpsr.Undelivered), mpsr.Producer(address) as producer:
        for _ in range(MAX_FILES):
            assert producer.try_send_file(path)
        assert not producer.try_send_file(path)
        with pytest.raises(mpsr.SendTimedOut) as caught:
            producer.send_file(path, b"late", timeout=0.01)
        assert caught.value.messages == [b"late"]
        producer.close(0)
    with pytest.raises(mpsr.Undelivered), mpsr.Producer(address, on_full="raise") as producer:
        for _ in range(MAX_FILES):
            producer.send_file(path)
        with pytest.raises(mpsr.BufferFull):
            producer.send_file(path)
        producer.close(0)
    for policy in ("drop_newest", "drop_oldest"):
        with pytest.raises(mpsr.Undelivered):
            with mpsr.Producer(address, on_full=policy) as producer:
                for _ in range(MAX_FILES + 3):
                    producer.send_file(path)
                assert producer.stats().lost == 3
                producer.close(0)
    eventually(lambda: descriptors() <= before)


def test_receiver_without_a_descriptor_to_spare_gets_the_file_later(
    start: Start, address: str, path: Path
) -> None:
    """The connection is closed for now, and nothing is lost."""
    receiver = start(roles.receive_files, address, full=True)
    receiver.hear()
    with mpsr.Producer(address) as producer:
        producer.send(b"first")
        assert receiver.hear() == "full"
        producer.send_file(path, b"file")
        assert receiver.hear() >= 1
        assert receiver.hear()[:2] == ["file", ["what it holds"]]
        receiver.tell()
        producer.flush(PATIENCE)
        assert producer.stats().lost == 0
