"""Open files go from a producer to a receiver, and nobody's descriptors are lost by it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr._speedups import codec
from mpsr.engine.receiving import files as reading
from mpsr.limits import KIB, MAX_FILES, MIB
from mpsr.system import passing
from mpsr.wire.frames import (
    HEADER,
    PREFACE,
    FrameType,
    Hello,
    RejectCode,
    Welcome,
    encode,
    encode_file,
)
from tests.process import roles, test_passing
from tests.process.workers import PATIENCE, beside, receive_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpsr.system.address import SocketType
    from tests.process.workers import Start

kernel = test_passing.kernel
lingering = test_passing.lingering


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
    return len(os.listdir(f"/proc/{pid}/fd"))


def holders_of(descriptor: int) -> int:
    """Return how many of our descriptors are of the same file."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the directory itself
            found += os.path.samestat(os.fstat(int(each)), os.fstat(descriptor))
    return found


def send_files(producer: mpsr.Producer, path: Path, count: int) -> None:
    for _ in range(count):
        producer.send_file(path)


def until(what: Callable[[], Any]) -> None:
    """Wait until it is so: what is closed apart is closed a moment later."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
    until(lambda: closes(pipe[0]))
    until(lambda: descriptors() <= before - 1)


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
        until(lambda: descriptors() == before[0])
        until(lambda: descriptors(receiver.pid) == before[1] - 1)  # which has read /proc itself


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
    until(lambda: descriptors() <= before)


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
    until(lambda: descriptors() <= before)


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
            until(lambda: _taken(producer, path))
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
    until(lambda: descriptors() <= before)


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


# -- hostile peers --------------------------------------------------------------------------


def introduced(address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a connection that has said that it sends files, and was welcomed."""
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.connect(address)
    sock.settimeout(PATIENCE)
    sock.sendall(PREFACE + encode(Hello(os.urandom(16), 0, "hostile", sends_files=True)))
    return sock


def file(seq: int, message: bytes = b"") -> bytes:
    return b"".join(encode_file(seq, message))


def rejected(sock: socket.socket) -> int:
    """Return the code of the REJECT that is read."""
    data = b""
    while piece := sock.recv(64 * KIB):
        data += piece
    while data:
        length, kind, _, _ = HEADER.unpack_from(data)
        if kind == FrameType.REJECT:
            return int.from_bytes(data[HEADER.size :][:4], "little")
        data = data[HEADER.size + length :]
    return 0


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (file(0), 0),
        (file(0), 2),
        (file(0), 253),
        (codec.pack_batch([b"message"], 0), 1),
        (codec.pack_batch([b"message"], 0)[:-1], 1),
        (file(0) + codec.pack_batch([b"message"], 1), 3),
        (file(1), 1),
        (encode(Hello(bytes(16), 0, "")), 1),
    ],
)
@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_who_passes_descriptors_against_the_rules_is_sent_away(
    address: str, kind: SocketType, pipe: tuple[int, int], data: bytes, count: int
) -> None:
    """With REJECT; an honest producer is served meanwhile, and nothing stays open."""
    number = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET
    with (
        mpsr.Receiver(address, type=kind, accept_files=True) as receiver,
        mpsr.Producer(address, type=kind) as producer,
        beside(lambda: [*receiver]),
    ):
        with introduced(address, number) as hostile:
            hostile.recv(KIB)
            socket.send_fds(hostile, [data], [pipe[1]] * count)
            os.close(pipe[1])
            assert rejected(hostile) in {RejectCode.UNEXPECTED, RejectCode.GAP}
            producer.send(b"honest")
            producer.flush(PATIENCE)
        until(lambda: closes(pipe[0]))
        assert receiver.stats().rejected == 1
        receiver.stop()


def test_files_under_way_are_bounded(
    address: str, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many who begin a FILE and do not end it, some are to come again later."""
    monkeypatch.setattr(reading, "MAX_FILES", 3)
    with mpsr.Receiver(address, accept_files=True) as receiver, beside(lambda: [*receiver]):
        held = [introduced(address) for _ in range(4)]
        for sock in held:
            sock.recv(KIB)
            socket.send_fds(sock, [file(0)[:-1]], [pipe[1]])
        os.close(pipe[1])
        until(lambda: receiver.stats().rejected == 1)
        codes = [rejected(sock) for sock in held[3:]]
        assert codes == [RejectCode.BUSY]
        for sock in held:
            sock.close()
        until(lambda: closes(pipe[0]))
        receiver.stop()


def test_files_that_are_not_closed_yet_are_bounded(
    address: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where to close one takes for ever, no more are let in; and the receiver goes on."""
    with mpsr.Receiver(address, accept_files=True) as receiver, mpsr.Producer(address) as producer:
        producer.send(b"first")
        assert receiver.receive(PATIENCE) == b"first"
        with monkeypatch.context() as stuck:
            stuck.setattr(passing, "unclosed", lambda: MAX_FILES + 1)
            producer.send_file(path, b"file")
            with pytest.raises(mpsr.TimedOut):
                receiver.receive_batch(0.1)
            assert receiver.stats().rejected >= 1
        assert receiver.receive_batch(PATIENCE).files
        with beside(lambda: producer.flush(PATIENCE)):
            receiver.acknowledge()


def test_file_that_lingers_holds_up_no_receiver(
    address: str, lingering: Callable[[], socket.socket]
) -> None:
    """Nobody takes it, so that the receiver closes it, and it is the last."""
    with mpsr.Receiver(address, accept_files=True) as receiver:
        hostile = mpsr.Producer[bytes](address)
        with lingering() as sock:
            hostile.send_file(sock, b"lingers")
        with mpsr.Producer[bytes](address) as producer:
            assert test_passing.served_within(receiver, producer, 0.1) < test_passing.PATIENCE
            with beside(lambda: hostile.close(PATIENCE)):
                assert test_passing.served_within(receiver, producer, 0.1) < test_passing.PATIENCE
                receiver.acknowledge()
            with beside(lambda: producer.flush(PATIENCE)):
                receiver.acknowledge()


# -- forks and signal handlers --------------------------------------------------------------


def test_forked_child_leaves_files_to_its_parent(
    address: str, path: Path, pipe: tuple[int, int]
) -> None:
    """It closes its copies of what waits, and the parent's connection goes on to carry files."""
    with mpsr.Receiver(address, accept_files=True) as receiver, mpsr.Producer(address) as producer:
        producer.send_file(path, b"one")
        handed = receiver.receive_batch(PATIENCE)
        producer.send_file(pipe[1], b"two")
        os.close(pipe[1])
        child = os.fork()
        if not child:
            os._exit(holders_of(pipe[0]) != 1 or os.pread(handed.files[0], 4, 0) != b"what")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert receiver.receive_batch(PATIENCE)[0] == b"two"
        producer.send_file(path, b"three")
        assert receiver.receive_batch(PATIENCE).files
        with beside(lambda: producer.flush(PATIENCE)):
            receiver.acknowledge()
        assert producer.stats().connects == 1


def test_signal_handler_that_would_wait_is_refused(address: str, path: Path) -> None:
    """A handler in the middle of another call of the producer gets ReentrantCall."""
    met: list[BaseException] = []
    with mpsr.Receiver(address, accept_files=True), mpsr.Producer(address) as producer:

        def handle(*_: object) -> None:
            try:
                producer.send_file(path)
            except mpsr.ReentrantCall as exc:
                met.append(exc)

        before = signal.signal(signal.SIGUSR1, handle)
        with producer._lock:
            signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
    assert len(met) == 1


# -- arguments ------------------------------------------------------------------------------


def test_what_carries_no_files_says_so(address: str, tmp_path: Path, path: Path) -> None:
    """At the call of a producer, and when a receiver is made."""
    for options in (
        {"framing": "lines"},
        {"type": "dgram"},
        {"type": "seqpacket", "framing": "packet"},
        {"spool": tmp_path / "spool"},
    ):
        with mpsr.Producer(address, **options) as producer:
            with pytest.raises(mpsr.ConfigurationError, match="cannot send files"):
                producer.send_file(path)
    for options in (
        {"framing": "lines"},
        {"type": "dgram"},
        {"journal": tmp_path / "journal"},
    ):
        with pytest.raises(mpsr.ConfigurationError, match="accept_files=True"):
            mpsr.Receiver(address, accept_files=True, **options)


def test_what_is_no_file_is_refused_as_it_is(address: str, tmp_path: Path) -> None:
    """The system's own errors, and ours for a wrong type."""
    with mpsr.Producer(address) as producer:
        with pytest.raises(FileNotFoundError):
            producer.send_file(tmp_path / "missing")
        with pytest.raises(OSError, match="Bad file descriptor"):
            producer.send_file(10**6)
        for wrong in (None, True, 1.5, object()):
            with pytest.raises(mpsr.WrongType, match="pass a descriptor"):
                producer.send_file(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            producer.send_file(0, "text")  # type: ignore[arg-type]
        with pytest.raises(mpsr.MessageTooLarge):
            producer.send_file(0, bytes(17 * MIB))
    with pytest.raises(mpsr.Closed):
        producer.send_file(0)


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
