"""Who is silent or slow holds nobody up: connections and unfinished bytes are shared."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.engine.receiving.shares import gives_way, holds_most
from mpsr.limits import KIB, MIB, SILENCE, SILENT_START
from mpsr.wire.frames import HEADER, PREFACE, FrameType, Hello, encode
from tests.eventually import eventually
from tests.process.programs import begin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Limits

PATIENCE = 20.0  # seconds in which a newcomer is served, even on a busy machine
ME, OTHER = 1000, 2000


def holder(
    uid: int, heard_at: float, *, heard: bool = False, native: bool = False, unfinished: int = 0
) -> Any:
    return SimpleNamespace(
        uid=uid, heard_at=heard_at, heard=heard, native=native, unfinished=unfinished
    )


@pytest.mark.parametrize(
    ("holders", "newcomer", "chosen"),
    [
        ([], ME, None),
        ([holder(ME, 99.9)], ME, None),  # it has just come
        ([holder(ME, 90.0), holder(ME, 80.0)], ME, 1),
        ([holder(ME, 90.0, heard=True), holder(ME, 99.0 - SILENCE, heard=True)], ME, 0),
        ([holder(ME, 98.0, heard=True)], ME, None),  # somebody types
        ([holder(ME, 10.0, heard=True, native=True)], ME, None),  # an idle producer
        ([holder(OTHER, 10.0, heard=True, native=True)] * 2, ME, 0),
        ([holder(OTHER, 10.0, heard=True, native=True)], ME, None),  # as many as he would have
        ([holder(OTHER, 10.0), holder(ME, 90.0), holder(ME, 20.0)], OTHER, 2),
        ([holder(ME, 99.9), holder(ME, 99.8)], OTHER, 1),
        ([holder(ME, 99.9, heard=True), holder(ME, 99.8, heard=True)], OTHER, None),
        ([holder(OTHER, 10.0), holder(ME, 99.9), holder(ME, 99.9)], ME, None),
    ],
)
def test_longest_silent_connection_of_the_user_who_has_most_gives_way(
    holders: list[Any], newcomer: int, chosen: int | None
) -> None:
    found = gives_way(holders, newcomer, 100.0)
    assert found is (None if chosen is None else holders[chosen])


def test_largest_unfinished_message_of_the_user_who_has_most_gives_way() -> None:
    large, small = holder(OTHER, 0.0, unfinished=50), holder(ME, 0.0, unfinished=40)
    assert holds_most([large, small, holder(ME, 0.0, unfinished=30)]) is small


@pytest.fixture
def limited(address: str) -> Iterator[mpsr.Receiver[bytes]]:
    """Give a receiver of eight connections, which a thread iterates."""
    with mpsr.Receiver(address, max_connections=8) as receiver:
        thread = threading.Thread(target=lambda: list(receiver))
        thread.start()
        yield receiver
        receiver.stop()
        thread.join(20)


def serve(address: str) -> None:
    """Return when a new honest producer's message is accepted."""
    with mpsr.Producer[bytes](address) as producer:
        producer.send(b"honest")
        producer.flush(PATIENCE)


SILENT = """
import os, socket, sys, time

uid, first = int(sys.argv[2]), sys.argv[3].encode()
if uid:
    os.setuid(uid)
held = []
for _ in range(40):
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(sys.argv[1])
        sock.sendall(first)
    except OSError:
        pass
    held.append(sock)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("first", ["", "half a line"])
@pytest.mark.parametrize("uid", [0, 3000])
def test_connections_that_say_nothing_whole_hold_no_place(
    address: str, limited: mpsr.Receiver[bytes], uid: int, first: str
) -> None:
    """However many there are, a newcomer is served, and a known producer keeps its connection."""
    if uid and os.geteuid() != 0:
        pytest.skip("takes the right to be another user")
    with mpsr.Producer[bytes](address) as known:
        known.send(b"known")
        known.flush(20)
        os.chmod(address, 0o666)
        for path in (os.path.dirname(address),):
            os.chmod(path, 0o755)
        with begin(SILENT, address, str(uid), first) as crowd:
            assert crowd.stdout
            assert crowd.stdout.readline() == "ready\n"
            known.send(b"honest")
            known.flush(PATIENCE)
            assert known.stats().connects == 1
            serve(address)
            assert crowd.stdin
            crowd.stdin.close()
        assert limited.stats().connections <= 8


def test_nobody_is_sent_away_without_need(address: str, limited: mpsr.Receiver[bytes]) -> None:
    """A silent connection stays as long as there is room."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(address)
        end = time.monotonic() + SILENT_START + 0.5
        while time.monotonic() < end:
            serve(address)
        silent.sendall(b"hello\n")
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)
    assert limited.stats().rejected == 0


@pytest.mark.parametrize("heard", [False, True], ids=["first", "next"])
def test_message_that_waits_in_the_socket_is_read_before_its_sender_counts_as_silent(
    address: str, limits: Limits, heard: bool
) -> None:
    """A receiver that reads late evicts no connection for its own delay."""
    limits(SILENT_START=0.0, SILENCE=0.0)
    sock = partial(socket.socket, socket.AF_UNIX)
    with mpsr.Receiver(address, max_connections=1) as receiver, sock() as speaker, sock() as next_:
        speaker.connect(address)
        if heard:
            speaker.sendall(b"before\n")
            assert receiver.receive(PATIENCE) == b"before"
        assert receiver.try_receive() is None  # it has the only place
        next_.connect(address)
        next_.sendall(b"next\n")
        speaker.sendall(b"late\n")
        assert [receiver.receive(PATIENCE) for _ in range(2)] == [b"late", b"next"]
        assert receiver.stats().rejected == 1  # then it gave way
        with sock() as endless:
            endless.connect(address)
            next_.sendall(b"a line that does not end")
            eventually(lambda: receiver.try_receive() is None and receiver.stats().rejected == 2)


@pytest.mark.parametrize("framing", ["lines", "null", "eof"])
def test_unfinished_messages_stay_within_one_bound(
    address: str, framing: Any, limits: Limits
) -> None:
    """Connections that begin messages and never end them use bounded memory; others are served."""
    limits(MAX_UNFINISHED=4 * MIB)
    with (
        mpsr.Receiver(address, framing=framing, max_message=MIB) as receiver,
        ExitStack() as stack,
    ):
        thread = threading.Thread(target=lambda: list(receiver))
        thread.start()
        honest = stack.enter_context(socket.socket(socket.AF_UNIX))
        honest.connect(address)
        honest.sendall(b"beginning")
        for _ in range(24):
            hostile = stack.enter_context(socket.socket(socket.AF_UNIX))
            hostile.connect(address)
            hostile.settimeout(10)
            try:
                for _ in range(15):
                    hostile.sendall(bytes([120]) * 64 * KIB)
            except OSError:
                pass  # it was closed
        eventually(lambda: receiver.stats().rejected)
        engine: Any = receiver._inbox
        assert engine._connections._unfinished._sum <= 4 * MIB
        assert receiver.stats().rejected >= 24 - 5
        honest.settimeout(0.05)
        with pytest.raises(TimeoutError):
            honest.recv(1)
        receiver.stop()
        thread.join(20)


def begin_frames(address: str, stack: ExitStack, count: int, size: int) -> list[socket.socket]:
    """Send all but the last byte of large native frames, as far as the receiver reads."""
    frame = HEADER.pack(size, FrameType.BATCH, 0, 0) + bytes(size - 1)
    left: list[tuple[socket.socket, memoryview]] = []
    for _ in range(count):
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(address)
        sock.sendall(PREFACE + encode(Hello(os.urandom(16), 0, "hostile")))
        sock.setblocking(False)
        left.append((sock, memoryview(frame)))
    end = time.monotonic() + 0.5
    while left and time.monotonic() < end:
        again: list[tuple[socket.socket, memoryview]] = []
        for sock, data in left:
            try:
                rest = data[sock.send(data) :]
            except BlockingIOError:
                rest = data
            except OSError:  # it was closed
                continue
            if rest:
                again.append((sock, rest))
        left = again
    return [sock for sock, _ in left]


def test_unfinished_native_frames_stay_within_one_bound(address: str, limits: Limits) -> None:
    """They share the bound of foreign messages; an honest producer is served meanwhile."""
    # The frames that never end stay for longer than the honest producer waits.
    limits(MAX_UNFINISHED=8 * MIB, FRAME_DEADLINE=4 * PATIENCE)
    most = 0
    with mpsr.Receiver(address, max_message=2 * MIB) as receiver, ExitStack() as stack:
        engine: Any = receiver._inbox
        unfinished = engine._connections._unfinished
        thread = threading.Thread(target=lambda: list(receiver))
        thread.start()
        begin_frames(address, stack, 24, 2 * MIB)
        most = sum(each.unfinished for each in tuple(engine._connections.open))
        assert most == unfinished._sum
        assert 4 * MIB < most <= 8 * MIB
        for size in (100, 64 * KIB, 2 * MIB):
            with mpsr.Producer[bytes](address) as producer:
                producer.send(bytes(size))
                producer.flush(PATIENCE)
        receiver.stop()
        thread.join(20)


def test_honest_producers_of_the_longest_messages_all_finish(address: str, limits: Limits) -> None:
    """Where more of them send at a time than the bound holds, they wait, and none is closed."""
    limits(MAX_UNFINISHED=8 * MIB)
    count = 12
    with mpsr.Receiver(address, max_message=2 * MIB) as receiver:
        received: list[int] = []

        def receive() -> None:
            received.extend(map(len, receiver))

        thread = threading.Thread(target=receive)
        thread.start()

        def send() -> None:
            with mpsr.Producer[bytes](address) as producer:
                for _ in range(4):
                    producer.send(bytes(2 * MIB))
                producer.flush(20)

        senders = [threading.Thread(target=send) for _ in range(count)]
        for each in senders:
            each.start()
        for each in senders:
            each.join(30)
        receiver.stop()
        thread.join(20)
        assert received == [2 * MIB] * 4 * count
        assert receiver.stats().rejected == 0


def test_receiver_that_was_stopped_does_not_rest(address: str) -> None:
    """``paused`` tells of a limit, not of the end."""
    with mpsr.Receiver(address) as receiver:
        receiver.stop()
        assert list(receiver) == []
        assert not receiver.stats().paused


def test_one_connection_is_told_as_one(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with mpsr.Receiver(address, max_connections=1) as receiver, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(address)
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(0.1)
    assert "stopped accepting for now: 1 connection is open, the most allowed" in caplog.text


def test_producers_that_come_and_go_without_a_word_leave_nothing_behind(address: str) -> None:
    """Their number locks nobody out."""
    with mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=lambda: list(receiver))
        thread.start()
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as passing:
                passing.connect(address)
                passing.sendall(PREFACE + encode(Hello(os.urandom(16), 0, "passing")))
        serve(address)
        engine: Any = receiver._inbox
        eventually(lambda: not receiver.stats().connections)
        assert len(engine.ledger) == 0
        receiver.stop()
        thread.join(20)
