"""What a receiver does about peers that ask too much of it, or too little."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack, suppress
from fcntl import ioctl
from pathlib import Path
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr._speedups import codec
from mpsr.limits import MIB
from mpsr.wire.frames import PREFACE, Hello, RejectCode, encode
from tests.eventually import eventually
from tests.process import roles
from tests.process.stamps import stamped
from tests.process.workers import PATIENCE, beside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.process.workers import Start, Worker

IDLE = 0.5  # seconds over which a worker's processor time is measured
HELLO = PREFACE + encode(Hello(bytes(16), 0, "a raw client"))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as clients:
        yield clients


def connect(clients: ExitStack, address: str) -> socket.socket:
    client = clients.enter_context(socket.socket(socket.AF_UNIX))
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


def stats(receiver: Worker) -> dict[str, Any]:
    receiver.signal(signal.SIGUSR1)
    while not isinstance(answer := receiver.hear(), dict):
        assert answer == "receiving"
    return answer


def wait_for(receiver: Worker, **expected: object) -> None:
    """Wait until the receiver's statistics are as expected."""

    def holds() -> bool:
        seen = stats(receiver)
        assert expected.items() <= seen.items(), seen
        return True

    eventually(holds)


def assert_idle(worker: Worker) -> None:
    before = worker.cpu_time()
    time.sleep(IDLE)
    assert worker.cpu_time() - before <= 0.1 * IDLE


def answer_of(client: socket.socket) -> bytes:
    """Return all that the receiver says until it closes."""
    answer = bytearray()
    with suppress(ConnectionResetError):
        while piece := client.recv(4096):
            answer += piece
    return bytes(answer)


@pytest.mark.parametrize(
    "limit", [{"spare_descriptors": 5}, {"max_connections": 5}], ids=["descriptors", "connections"]
)
def test_full_receiver_rests_without_spinning_and_then_goes_on(
    start: Start, address: str, record: Path, clients: ExitStack, limit: dict[str, Any]
) -> None:
    """Without room for more connections it serves those it has; the others wait their turn."""
    receiver = start(roles.receive, address, str(record), framing="lines", **limit)
    assert receiver.hear() == "ready"
    crowd = [connect(clients, address) for _ in range(20)]
    for number, client in enumerate(crowd):
        client.sendall(stamped(number) + b"\n")
    wait_for(receiver, paused=True, messages=5, connections=5)
    assert_idle(receiver)
    for client in crowd[:5]:
        client.close()
    wait_for(receiver, paused=True, messages=10, connections=5)
    for client in crowd[5:]:
        client.close()
    wait_for(receiver, paused=False, messages=20, connections=0)
    assert receiver.complaint().count("stopped accepting for now") == 1


def test_peer_that_reads_no_acknowledgements_is_closed_and_stops_nobody(
    start: Start, address: str, record: Path, clients: ExitStack
) -> None:
    """Its connection ends after the deadline; another producer is served all along."""
    receiver = start(roles.receive, address, str(record), limits={"REPLY_DEADLINE": 0.5})
    assert receiver.hear() == "ready"
    client = connect(clients, address)
    client.sendall(HELLO)
    numbers = iter(range(10**6))
    slowest = 0.0
    with mpsr.Producer(address) as other, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for number in numbers:
            client.sendall(codec.pack_batch([stamped(number)], number))
            eventually(lambda: not unread_by_peer(client), interval=0.0001)
            if number % 50 == 0:
                before = time.monotonic()
                other.send(stamped(number // 50))
                other.flush(timeout=PATIENCE)
                slowest = max(slowest, time.monotonic() - before)
    assert slowest < 5
    wait_for(receiver, rejected=1, connections=0)
    assert "it does not read its acknowledgements" in receiver.complaint()


def unread_by_peer(client: socket.socket) -> int:
    size = bytearray(4)
    ioctl(client, TIOCOUTQ, size)
    return int.from_bytes(size, "little")


@pytest.mark.parametrize(
    ("opening", "limit"),
    [
        (PREFACE[:-1], "HELLO_DEADLINE"),
        (HELLO[:-1], "HELLO_DEADLINE"),
        (HELLO + codec.pack_batch([bytes(1000)], 0)[:-1], "FRAME_DEADLINE"),
        (b"\0\0\1\0" + bytes(255), "FRAME_DEADLINE"),
    ],
    ids=["preface", "hello", "batch", "length"],
)
def test_slow_peer_is_closed_at_the_deadline_however_it_trickles(
    start: Start, address: str, record: Path, opening: bytes, limit: str
) -> None:
    """Bytes that trickle in do not put off the deadline of what they are part of."""
    others = {"HELLO_DEADLINE": 60.0, "FRAME_DEADLINE": 60.0}
    receiver = start(roles.receive, address, str(record), limits={**others, limit: 0.3})
    assert receiver.hear() == "ready"
    with ExitStack() as clients:
        trickle(connect(clients, address), opening)
    wait_for(receiver, rejected=1, connections=0)


def trickle(client: socket.socket, opening: bytes) -> None:
    """Send an opening, the last bytes slowly; assert that the receiver closes in time."""
    begun = time.monotonic()
    client.sendall(opening[:-6])
    with suppress(BrokenPipeError):
        for byte in opening[-6:]:
            time.sleep(0.1)
            client.sendall(bytes([byte]))
    answer_of(client)
    assert 0.3 <= time.monotonic() - begun < 10


def test_slow_peer_is_told_why_it_is_closed(
    start: Start, address: str, record: Path, clients: ExitStack
) -> None:
    """A native producer gets the code that tells it to try again."""
    receiver = start(roles.receive, address, str(record), limits={"FRAME_DEADLINE": 0.2})
    assert receiver.hear() == "ready"
    client = connect(clients, address)
    client.sendall(HELLO + codec.pack_batch([bytes(1000)], 0)[:-1])
    assert bytes([RejectCode.DEADLINE]) + b"\0\0\0its frame did not come" in answer_of(client)


def test_silent_connections_cost_nothing_and_are_kept(
    start: Start, address: str, record: Path, clients: ExitStack
) -> None:
    """A foreign client may say nothing for long; what it says then is heard."""
    limits = {"HELLO_DEADLINE": 0.1, "FRAME_DEADLINE": 0.1, "REPLY_DEADLINE": 0.1}
    receiver = start(roles.receive, address, str(record), limits=limits)
    assert receiver.hear() == "ready"
    crowd = [connect(clients, address) for _ in range(100)]
    crowd[0].sendall(b"half a li")
    wait_for(receiver, connections=100)
    assert_idle(receiver)
    for number, client in enumerate(crowd[1:]):
        client.sendall(stamped(number) + b"\n")
    wait_for(receiver, messages=99, connections=100)


def test_producers_are_not_blamed_for_a_slow_handler(address: str, start: Start) -> None:
    """No producer is closed for bytes that did not arrive while the receiver read nothing."""
    limits = {"HELLO_DEADLINE": 0.2, "FRAME_DEADLINE": 0.2, "REPLY_DEADLINE": 0.2}
    receiver = start(roles.receive_slowly, address, 0.5, limits=limits)
    assert receiver.hear() == "ready"
    senders = [start(roles.send, address, 1, size=3 * MIB) for _ in range(2)]
    for sender in senders:
        assert sender.hear()["connects"] == 1
        assert sender.wait() == 0
    receiver.process.terminate()
    seen = receiver.hear()
    assert (seen["messages"], seen["accepted"], seen["rejected"]) == (2, 2, 0)


def test_peers_are_not_blamed_for_a_receiver_that_stood_still(
    start: Start, address: str, record: Path, clients: ExitStack
) -> None:
    """No peer is closed for bytes that it could not send, even if the receiver was stopped."""
    receiver = start(roles.receive, address, str(record), limits={"FRAME_DEADLINE": 0.5})
    assert receiver.hear() == "ready"
    body = stamped(0, size=2 * MIB)
    client = connect(clients, address)
    client.sendall(len(body).to_bytes(4, "big") + body[:MIB])
    eventually(lambda: not unread_by_peer(client))
    receiver.freeze()
    with beside(lambda: client.sendall(body[MIB:])):  # more than the kernel holds
        time.sleep(1)  # longer than the deadline
        receiver.thaw()
    wait_for(receiver, messages=1, rejected=0)


@pytest.mark.parametrize("native", [False, True], ids=["lines", "native"])
def test_ten_thousand_tiny_writes_are_put_together(
    start: Start, address: str, record: Path, clients: ExitStack, native: bool
) -> None:
    """Bytes that come one by one make the messages they were meant to be."""
    receiver = start(roles.receive, address, str(record))
    assert receiver.hear() == "ready"
    client = connect(clients, address)
    if native:
        bodies = [stamped(number, size=8) for number in range(200)]
        stream = HELLO + b"".join(codec.pack_batch([body], seq) for seq, body in enumerate(bodies))
    else:
        bodies = [stamped(number) for number in range(800)]
        stream = b"".join(body + b"\n" for body in bodies)
    assert len(stream) > 10_000
    for byte in stream:
        client.sendall(bytes([byte]))
    client.close()
    wait_for(receiver, messages=len(bodies), connections=0)
    noted = roles.Record.events(record)
    assert [event["first"] for event in noted] == sorted(event["first"] for event in noted)
    assert sum(event["count"] for event in noted) == len(bodies)
