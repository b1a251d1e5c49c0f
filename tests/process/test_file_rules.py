"""Who passes files, or what is none, against the rules; what forks and handlers do to them."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr._speedups import codec
from mpsr.limits import KIB, MIB
from mpsr.wire.frames import HEADER, PREFACE, FrameType, Hello, RejectCode, encode, encode_file
from tests.eventually import eventually
from tests.process import test_files, test_passing
from tests.process.test_files import closes
from tests.process.workers import PATIENCE, beside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpsr.system.address import SocketType
    from tests.conftest import Limits

kernel = test_passing.kernel
lingering = test_passing.lingering
path = test_files.path
pipe = test_files.pipe


def holders_of(descriptor: int) -> int:
    """Return how many of our descriptors are of the same file."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the directory itself
            found += os.path.samestat(os.fstat(int(each)), os.fstat(descriptor))
    return found


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
@pytest.mark.usefixtures("kernel")
def test_who_passes_descriptors_against_the_rules_is_sent_away(
    address: str,
    kind: SocketType,
    pipe: tuple[int, int],
    data: bytes,
    count: int,
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
        eventually(lambda: closes(pipe[0]))
        assert receiver.stats().rejected == 1
        receiver.stop()


def test_files_under_way_are_bounded(address: str, pipe: tuple[int, int], limits: Limits) -> None:
    """While a user has begun as many FILE frames as it may, its next ones are not read."""
    limits(MAX_FILES=3)
    with mpsr.Receiver(address, accept_files=True) as receiver, beside(lambda: [*receiver]):
        held = [introduced(address) for _ in range(4)]
        for sock in held:
            sock.recv(KIB)
            socket.send_fds(sock, [file(0)], [pipe[1]])
        eventually(lambda: receiver.stats().messages == 4)
        for sock in held:
            socket.send_fds(sock, [file(1)[:-1]], [pipe[1]])
        os.close(pipe[1])
        eventually(lambda: receiver.stats().limited)
        for sock in held:
            sock.sendall(file(1)[-1:])
        eventually(lambda: receiver.stats().messages == 8)
        eventually(lambda: not receiver.stats().limited)
        assert receiver.stats().rejected == 0
        for sock in held:
            sock.close()
        eventually(lambda: closes(pipe[0]))
        receiver.stop()


class Lingering:
    """A socket that holds one that lingers: its last close sleeps until the test ends that."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with socket.create_connection(server.getsockname()) as inner:
                self._peer, _ = server.accept()
                inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
                inner.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        inner.send(bytes(64 * KIB))
                self.outer, sender = socket.socketpair(socket.AF_UNIX)
                with sender:
                    socket.send_fds(sender, [b"x"], [inner.fileno()])

    def let(self) -> None:
        """End the sleep."""
        self._peer.close()


def test_files_that_are_not_closed_yet_are_bounded(
    address: str, path: Path, limits: Limits
) -> None:
    """While a close sleeps, the senders of files wait; no connection is closed, nothing is lost."""
    limits(MAX_FILES=4)
    lingering = Lingering()
    with (
        mpsr.Receiver(address, accept_files=True) as receiver,
        mpsr.Producer(address) as other,
        introduced(address) as hostile,
    ):
        eventually(lambda: receiver.try_receive_batch() or select.select([hostile], [], [], 0)[0])
        with lingering.outer, path.open() as opened:
            for number in range(9):
                passed = opened if number else lingering.outer
                socket.send_fds(hostile, [file(number)], [passed.fileno()])
        with beside(lambda: [*receiver]):
            eventually(lambda: receiver.stats().limited)
            assert receiver.stats().messages < 9
            other.send(b"without a file")
            other.flush(PATIENCE)
            assert receiver.stats().rejected == 0
            lingering.let()
            eventually(lambda: receiver.stats().messages == 10)
            assert receiver.stats().rejected == 0
            receiver.stop()


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
