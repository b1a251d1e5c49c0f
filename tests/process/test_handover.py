"""A new receiver takes the addresses over from the one that runs; nobody is refused meanwhile."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import mpsr
from mpsr import observe
from mpsr.system.sockets import peer_of
from mpsr.wire.frames import PREFACE, Handover, Offer, encode
from tests.eventually import eventually
from tests.process import roles
from tests.process.programs import begin, run
from tests.process.workers import PATIENCE, beside
from tests.users import let_others_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Limits
    from tests.process.workers import Start


class Load:
    """Native producers, text clients and a loop of new connections, all at once."""

    def __init__(self, address: str, producers: int) -> None:
        self._address = address
        self._producers = producers
        self._stop = False
        self.expected: list[bytes] = []
        self.refused: list[OSError] = []

    def _native(self, index: int) -> None:
        sent = 0
        with mpsr.Producer(self._address) as producer:
            while not self._stop:
                producer.send(b"native %d %d" % (index, sent))
                sent += 1
                time.sleep(0.0005)
            producer.flush(PATIENCE)
        self.expected += [b"native %d %d" % (index, number) for number in range(sent)]

    def _text(self, index: int) -> None:
        sent = 0
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self._address)
            while not self._stop:
                line = b"text %d %d\n" % (index, sent)
                sock.sendall(line[:7])  # half a line may be what is handed over
                time.sleep(0.001)
                sock.sendall(line[7:])
                sent += 1
        self.expected += [b"text %d %d" % (index, number) for number in range(sent)]

    def _connecting(self) -> None:
        sent = 0
        while not self._stop:
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(self._address)
                    sock.sendall(b"connection %d" % sent)
                except OSError as exc:
                    self.refused.append(exc)
                else:
                    sent += 1
            time.sleep(0.001)
        self.expected += [b"connection %d" % number for number in range(sent)]

    def __enter__(self) -> Self:
        works: list[Callable[[], object]] = [self._connecting]
        works += [partial(self._native, index) for index in range(self._producers)]
        works += [partial(self._text, index) for index in range(2)]
        self._threads = ExitStack()
        for work in works:
            self._threads.enter_context(beside(work))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._threads.close()


def received(record: Path) -> Counter[bytes]:
    return Counter(record.read_bytes().splitlines())


@pytest.mark.parametrize(
    ("rounds", "producers"), [(2, 2), pytest.param(200, 8, marks=pytest.mark.soak)]
)
def test_hand_overs_lose_double_and_refuse_nothing(
    start: Start, address: str, tmp_path: Path, rounds: int, producers: int
) -> None:
    """Under producers, text clients in the middle of a line, and new connections all the time."""
    record = tmp_path / "record"
    old = start(roles.hand_over, address, str(record))
    assert old.hear() == "ready"
    with Load(address, producers) as load:
        for _ in range(rounds):
            new = start(roles.hand_over, address, str(record))
            assert new.hear() == "ready"
            old.hear()
            assert old.wait() == 0, old.complaint()
            old = new
    await_all(record, load.expected)
    old.process.terminate()
    old.hear()
    assert old.wait() == 0
    assert load.refused == []
    found = received(record)
    assert set(found) == set(load.expected)
    assert set(found.values()) == {1}


def await_all(record: Path, expected: list[bytes]) -> None:
    eventually(lambda: len(received(record)) >= len(set(expected)), interval=0.02)


def served_within(address: str, seconds: float) -> None:
    """Assert that a new connection is accepted and a message taken within so long."""
    since = time.monotonic()
    with mpsr.Producer[bytes](address) as producer:
        producer.send(b"served")
        producer.flush(PATIENCE)
    assert time.monotonic() - since < seconds


POINTS = [
    *(f"giver before {step}" for step in ("offer", "connections", "state", "done")),
    *(f"giver behind {step}" for step in ("offer", "connections", "state", "done")),
    *(f"giver hears {step}" for step in ("begun", "taken")),
    *(f"taker before {step}" for step in ("ready", "taken")),
    *(f"taker behind {step}" for step in ("ready",)),
    *(f"taker hears {step}" for step in ("offer", "connections", "state")),
]


@pytest.mark.parametrize("point", POINTS)
def test_who_dies_in_a_hand_over_leaves_the_other_the_receiver(
    start: Start, address: str, tmp_path: Path, point: str
) -> None:
    """Killed at any step: all messages arrive, and the path is served long before the time-out."""
    record = tmp_path / "record"
    giver_dies = point.startswith("giver")
    old = start(roles.hand_over, address, str(record), die_at=point if giver_dies else None)
    assert old.hear() == "ready"
    with socket.socket(socket.AF_UNIX) as foreign, mpsr.Producer[bytes](address) as producer:
        foreign.connect(address)
        foreign.sendall(b"half a")
        for number in range(200):
            producer.send(b"native %d" % number)
        new = start(roles.hand_over, address, str(record), die_at=None if giver_dies else point)
        (old if giver_dies else new).process.wait(PATIENCE)
        served_within(address, 10)  # seconds: a lost hand-over takes 30
        for number in range(200, 400):
            producer.send(b"native %d" % number)
        producer.flush(PATIENCE)
        if not giver_dies:
            foreign.sendall(b" line\n")
    living = new if giver_dies else old
    expected = [b"native %d" % number for number in range(400)]
    expected += [] if giver_dies else [b"half a line"]
    await_all(record, [*expected, b"served"])
    found = received(record)
    assert set(expected) <= set(found)
    living.process.terminate()
    assert living.wait() == 0, living.complaint()
    if not giver_dies:
        assert set(found.values()) == {1}
    assert not os.path.lexists(address)


def test_native_messages_in_hand_are_acknowledged_first(address: str) -> None:
    """The old receiver's handler ends its batch; the new one begins behind it."""
    with mpsr.Producer[bytes](address) as producer:
        old = mpsr.Receiver(address)
        producer.send_many([b"one", b"two"])
        taken: list[mpsr.Receiver] = []
        batch = old.receive_batch(PATIENCE)
        producer.send(b"three")
        (connection,) = old._inbox._connections.open  # type: ignore[union-attr]
        eventually(connection.unread)  # else the hand-over may end before the message arrives
        taker = threading.Thread(target=lambda: taken.append(mpsr.Receiver(address, handover=True)))
        taker.start()
        more = eventually(old.try_receive_batch)  # it is still the receiver
        assert more is not None
        with pytest.raises(mpsr.Closed):
            while True:
                old.receive_batch(PATIENCE)
        old.close()
        taker.join(PATIENCE)
        assert [*batch, *more] == [b"one", b"two", b"three"]
        (new,) = taken
        with new:
            producer.send(b"four")
            assert new.receive(PATIENCE) == b"four"
            assert new.stats().messages == 1
            new.acknowledge()


def test_close_in_a_hand_over_passes_the_addresses(address: str) -> None:
    """A receiver that is closed while another waits is not awaited for long."""
    taken: list[mpsr.Receiver] = []
    with mpsr.Receiver(address) as old:
        taker = threading.Thread(target=lambda: taken.append(mpsr.Receiver(address, handover=True)))
        taker.start()
        while old._inbox.handover.giver is None:  # type: ignore[union-attr]
            assert old.try_receive_batch() is None
    taker.join(PATIENCE)
    with taken[0], mpsr.Producer(address) as producer:
        producer.send(b"x")
        assert taken[0].receive(PATIENCE) == b"x"
        taken[0].acknowledge()


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_journal_goes_on_at_the_new_receiver(
    start: Start, address: str, tmp_path: Path, rounds: int
) -> None:
    """It continues after the last message that the old receiver handled; none is duplicated."""
    record, journal = tmp_path / "record", str(tmp_path / "events.journal")
    old = start(roles.hand_over, address, str(record), journal=journal)
    assert old.hear() == "ready"
    with Load(address, 2) as load:
        for _ in range(rounds):
            new = start(roles.hand_over, address, str(record), journal=journal)
            assert new.hear() == "ready"
            old.hear()
            assert old.wait() == 0, old.complaint()
            old = new
    await_all(record, load.expected)
    old.process.terminate()
    assert old.wait() == 0
    assert load.refused == []
    found = received(record)
    assert set(found) == set(load.expected)
    assert set(found.values()) == {1}


@pytest.mark.parametrize("kind", ["seqpacket", "several"])
def test_packets_and_several_addresses_are_handed_over(
    start: Start, address: str, tmp_path: Path, kind: str
) -> None:
    record = tmp_path / "record"
    options: dict[str, Any] = {"type": "seqpacket"} if kind == "seqpacket" else {}
    where: Any = (
        address
        if kind == "seqpacket"
        else [address, f"@mpsr-test-{os.getpid()}-{os.urandom(4).hex()}"]
    )
    old = start(roles.hand_over, where, str(record), **options)
    assert old.hear() == "ready"
    number = socket.SOCK_SEQPACKET if kind == "seqpacket" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, number) as sock:
        sock.connect(address if kind == "seqpacket" else where[1].replace("@", "\0"))
        sock.sendall(b"before\n" if kind == "several" else b"before")
        await_all(record, [b"before"])
        new = start(roles.hand_over, where, str(record), **options)
        assert new.hear() == "ready"
        assert old.wait() == 0
        sock.sendall(b"behind\n" if kind == "several" else b"behind")
        await_all(record, [b"before", b"behind"])
    new.process.terminate()
    assert new.wait() == 0
    assert received(record) == {b"before": 1, b"behind": 1}


# -- who is refused ---------------------------------------------------------------------------

ASKING = """
import os, socket, sys
from mpsr.wire.frames import PREFACE, Handover, encode
sock = socket.socket(socket.AF_UNIX)
os.setgroups([]); os.setgid(3000); os.setuid(3000)
sock.connect(sys.argv[1])
sock.sendall(PREFACE + encode(Handover()))
print(sock.recv(1000)[12:].decode(), end="")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
def test_other_users_get_nothing_and_are_counted(address: str) -> None:
    os.chmod(os.path.dirname(address), 0o755)
    with mpsr.Receiver(address, mode=0o666) as receiver:
        with beside(lambda: list(receiver)):
            assert (
                run(ASKING, address).output == "it asked for a hand-over, and may not receive here"
            )
            assert receiver.stats().refused_by_uid == {3000: 1}
            receiver.stop()


ACROSS = """
import os, sys, mpsr
import mpsr.front.takeover
mpsr.Receiver(f"@{os.getpid()}").close()  # imports all as root
os.setuid(3000)
address, way = sys.argv[1:]
try:
    with mpsr.Receiver(address, mode=0o666, handover=way == "asks") as receiver:
        print("ready", flush=True)
        print(list(receiver))
except mpsr.AddressError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
@pytest.mark.parametrize("abstract", [False, True])
def test_only_the_same_user_can_take_over(address: str, *, abstract: bool) -> None:
    """Another user cannot take over from root, and root cannot take over from another user."""
    directory = os.path.dirname(address)
    let_others_in(Path(directory))
    os.chmod(directory, 0o777)
    address = f"@{address}" if abstract else address
    error = mpsr.AddressInUse if abstract else mpsr.AddressOccupied
    options: dict[str, Any] = {} if abstract else {"mode": 0o666}
    across = ACROSS.replace("mode=0o666, ", "") if abstract else ACROSS
    with mpsr.Receiver(address, **options) as receiver, beside(lambda: list(receiver)):
        assert run(across, address, "asks").output == f"{error.__name__}\n"
        receiver.stop()
    if not abstract:
        os.unlink(f"{address}.lock")  # which is root's
    with begin(across, address, "runs") as other:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(error):
            mpsr.Receiver(address, handover=True)
        other.kill()


def test_second_new_receiver_waits_for_the_first(address: str) -> None:
    """If the first one dies, all is offered to the second, which has asked meanwhile."""
    with mpsr.Receiver(address) as receiver:
        with beside(lambda: list(receiver)):
            with ExitStack() as sockets:
                askers = [sockets.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
                for asker in askers:
                    asker.settimeout(PATIENCE)
                    asker.connect(address)
                    asker.sendall(PREFACE + encode(Handover()))
                    with mpsr.Producer(address) as producer:  # the receiver continues
                        producer.send(b"x")
                        producer.flush(PATIENCE)
                for asker in askers[:2]:
                    data, descriptors, _, _ = socket.recv_fds(asker, 1000, 1)
                    assert data == encode(Offer())
                    os.close(descriptors[0])
            receiver.stop()


def test_simultaneous_hand_overs_queue(start: Start, address: str, tmp_path: Path) -> None:
    """Of ten that start at once, each becomes the receiver, one after the other."""
    record = tmp_path / "record"
    receivers = [start(roles.hand_over, address, str(record))]
    assert receivers[0].hear() == "ready"
    with Load(address, producers=1) as load:
        receivers += [start(roles.hand_over, address, str(record)) for _ in range(10)]
        for each in receivers[1:]:
            assert each.hear() == "ready", each.complaint()
        eventually(lambda: sum(each.said() for each in receivers) == 10)
    await_all(record, load.expected)
    (last,) = (each for each in receivers if not each.said())
    last.process.terminate()
    for each in receivers:
        each.hear()
        assert each.wait() == 0, each.complaint()
    assert load.refused == []
    assert received(record) == Counter(load.expected)


@pytest.mark.parametrize("abstract", [False, True])
def test_kernel_names_the_new_receiver(
    start: Start, address: str, tmp_path: Path, *, abstract: bool
) -> None:
    """``AddressInUse`` and the status name a living process; the backlog is as requested."""
    address = f"@{address}" if abstract else address
    old = start(roles.hand_over, address, str(tmp_path / "record"))
    assert old.hear() == "ready"
    target = f"\0{address[1:]}" if abstract else address
    with mpsr.Receiver(address, handover=True, backlog=3) as receiver, ExitStack() as waiting:
        old.hear()
        assert old.wait() == 0
        with beside(lambda: list(receiver)):
            assert observe.status(address)["pid"] == os.getpid()
            receiver.stop()
        with pytest.raises(mpsr.AddressInUse) as refused:
            mpsr.Receiver(address)
        assert refused.value.pid == os.getpid()
        with pytest.raises(BlockingIOError):
            for _ in range(10):
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(target)
                assert peer_of(client).pid == os.getpid()


def test_without_handover_the_address_is_in_use(address: str) -> None:
    with mpsr.Receiver(address), pytest.raises(mpsr.AddressInUse):
        mpsr.Receiver(address)


def test_other_addresses_are_refused_and_nothing_changes(address: str) -> None:
    with mpsr.Receiver([address, f"{address}.2"]) as receiver:
        with beside(lambda: list(receiver)):
            with pytest.raises(
                mpsr.ConfigurationError, match="takes all of its addresses, in order"
            ):
                mpsr.Receiver(address, handover=True)
            with mpsr.Producer(address) as producer:
                producer.send(b"x")
                producer.flush(PATIENCE)
            receiver.stop()


def test_datagrams_alone_are_not_handed_over(address: str) -> None:
    with mpsr.Receiver(address, type="dgram"):
        with pytest.raises(mpsr.ConfigurationError, match="type stream or seqpacket"):
            mpsr.Receiver(address, type="dgram", handover=True)


def test_with_nobody_there_the_address_is_claimed(address: str) -> None:
    with mpsr.Receiver(address, handover=True) as receiver, mpsr.Producer(address) as producer:
        producer.send(b"x")
        assert receiver.receive(PATIENCE) == b"x"
        receiver.acknowledge()


def test_server_that_does_not_answer_keeps_its_address(address: str, limits: Limits) -> None:
    """A foreign server hands nothing over. The new receiver reports that, and removes nothing."""
    limits(HANDOVER_TIMEOUT=0.2)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        with pytest.raises(mpsr.AddressInUse, match=r"it did not hand over within 0\.2 s"):
            mpsr.Receiver(address, handover=True)
    assert os.path.lexists(address)
