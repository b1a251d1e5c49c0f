"""Who looks into a receiver is answered, also while the consumer stands still, and harms nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import mpsr
from mpsr import observe
from mpsr.front.observing import Observation
from mpsr.limits import (
    MAX_HELD,
    MAX_OBSERVERS_PER_UID,
    MIN_STATUS_INTERVAL,
    OBSERVER_REFUSAL,
    STUCK_AFTER,
)
from mpsr.system import ring
from mpsr.wire.frames import (
    HEADER,
    PREFACE,
    FrameType,
    Hello,
    Observe,
    Reject,
    RejectCode,
    encode,
)
from mpsr.wire.observing import ObservingSession, StatusSeen
from tests.eventually import eventually
from tests.limits import set_limits
from tests.process.programs import run
from tests.process.workers import PATIENCE
from tests.users import let_others_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Limits

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
OTHER: Final = 3000
FEW: Final = 20  # connections
AT_ONCE: Final = 1.0  # seconds within which a receiver answers, whatever its consumer does

LOOKER = """
import os, sys
from mpsr import MpsrError, observe

os.setgid(9)
os.setuid(int(sys.argv[2]))
try:
    print(observe.status(sys.argv[1])["pid"])
except MpsrError as exc:
    print(type(exc).__name__, exc)
"""


def look(address: str) -> observe.Status:
    """Return a status, which comes whatever the consumer does."""
    return observe.status(address, timeout=PATIENCE)


def stuck(address: str) -> observe.Status:
    """Wait until the consumer counts as stuck; return that status."""

    def status() -> observe.Status:
        status = look(address)
        assert status["consumer"]["state"] == "stuck", status["consumer"]
        return status

    return eventually(status)


def connect(clients: ExitStack, address: str) -> socket.socket:
    client = clients.enter_context(socket.socket(socket.AF_UNIX))
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


def samplers(receiver: mpsr.Receiver) -> int:
    """Return how many observers take samples."""
    assert receiver._inbox is not None
    return len(receiver._inbox.observers.samplers)


def serve(receiver: mpsr.Receiver) -> list[bytes]:
    """Take everything until the receiver is stopped."""
    return list(receiver)


@contextmanager
def serving(receiver: mpsr.Receiver) -> Iterator[None]:
    """Take everything, in a thread, until the block ends."""
    thread = threading.Thread(target=serve, args=[receiver])
    thread.start()
    try:
        yield
    finally:
        receiver.stop()
        thread.join(PATIENCE)


# -- what is told ---------------------------------------------------------------------------


def test_receiver_that_waits_is_described(address: str) -> None:
    """The document has who it is, what its caller does, its counters and its producers."""
    with mpsr.Producer(address, label="web") as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"hello")
        assert receiver.receive(PATIENCE) == b"hello"
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        producer.flush(PATIENCE)
        eventually(lambda: look(address)["consumer"]["state"] == "waiting")
        status = look(address)
        receiver.stop()
        thread.join(PATIENCE)
    assert status["pid"] == os.getpid()
    assert status["addresses"] == [address]
    assert set(status["stats"]) == set(mpsr.ReceiverStats._fields)
    assert status["stats"]["messages"] == 1
    assert status["consumer"]["batch"] is None
    (seen,) = status["producers"]
    assert (seen["label"], seen["pid"], seen["messages"]) == ("web", os.getpid(), 1)
    assert (seen["unacknowledged"], seen["framing"], seen["lost"]) == (0, "native", 0)
    assert status["journal"] is None
    assert status["sinks"] == []


def test_observers_are_no_producers(address: str) -> None:
    """They are neither among the connections nor counted as accepted."""
    with mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        statuses = observe.watch(address, interval=0.1)
        with closing(statuses):
            seen = [next(statuses) for _ in range(3)]
        receiver.stop()
        thread.join(PATIENCE)
        stats = receiver.stats()
    assert stats.accepted == stats.connections == stats.rejected == 0
    assert all(not each["producers"] and not each["stats"]["accepted"] for each in seen[1:])


# -- while the consumer stands still --------------------------------------------------------


def test_stuck_consumer_is_told_with_its_batch(address: str) -> None:
    """Nobody calls the receiver, and it says since when it has had which batch."""
    with mpsr.Producer(address, label="web") as producer, mpsr.Receiver(address) as receiver:
        producer.send_many([b"a", b"b", b"c"])
        batch = receiver.receive_batch(PATIENCE)
        while len(batch) < 3:
            batch = receiver.receive_batch(PATIENCE)
        status = stuck(address)
        consumer = status["consumer"]
        assert consumer["seconds"] > STUCK_AFTER
        assert consumer["since"] == pytest.approx(time.time() - consumer["seconds"], abs=5)
        told = consumer["batch"]
        assert told is not None
        assert (told["label"], told["pid"], told["messages"]) == ("web", os.getpid(), 3)
        assert (told["first_seq"], told["bytes"], told["position"]) == (0, 3, None)
        assert status["producers"][0]["unacknowledged"] == 3


def test_watcher_sees_a_consumer_get_stuck_and_go_on(address: str) -> None:
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"x")
        assert receiver.receive(PATIENCE)
        with closing(observe.watch(address, interval=0.1)) as statuses:
            for status in statuses:
                if status["consumer"]["state"] == "stuck":
                    break
            assert receiver.try_receive() is None  # it comes back for more
            for status in statuses:
                if status["consumer"]["state"] == "waiting":
                    break


def test_blocked_event_loop_is_answered_for(address: str) -> None:
    """An async receiver's loop is held up by something else."""

    async def main() -> None:
        with mpsr.Producer(address) as producer:
            async with mpsr.AsyncReceiver(address) as receiver:
                producer.send(b"x")
                assert await receiver.receive(PATIENCE) == b"x"
                assert stuck(address)["consumer"]["batch"] is not None

    asyncio.run(main())


WAYS: Final[dict[str, dict[str, Any]]] = {
    "native": {},
    "lines": {"framing": "lines"},
    "packets": {"type": "seqpacket"},
    "foreign packets": {"type": "seqpacket", "framing": "packet"},
    "datagrams": {"type": "dgram"},
    "in a ring": {},
}


@pytest.mark.parametrize("way", WAYS)
def test_receiver_that_has_drained_all_is_stuck_only_once_a_message_waits(
    address: str, way: str
) -> None:
    """Its program does something else for a while, which is no fault of it."""
    kind = WAYS[way].get("type", "stream")
    other = mpsr.Endpoint(f"{address}-other")  # a receiver of datagrams alone cannot be asked
    addresses: list[Any] = [mpsr.Endpoint(address, type=kind), other]
    at = address if kind != "dgram" else str(other.address)
    message = bytes(100_000) if way == "in a ring" else b"x"
    with mpsr.Receiver(addresses) as receiver, mpsr.Producer(address, **WAYS[way]) as producer:
        for _ in range(100 if way == "in a ring" else 3):
            producer.send(message)
            assert receiver.receive(PATIENCE) == message
        assert receiver.try_receive() is None
        if way == "in a ring":
            assert look(at)["producers"][0]["ring"] == ring.AVAILABLE
        for _ in range(2):
            consumer = look(at)["consumer"]
            assert (consumer["state"], consumer["batch"]) == ("waiting", None)
        with closing(observe.watch(at, interval=0.1, timeout=PATIENCE)) as statuses:
            assert {next(statuses)["consumer"]["state"] for _ in range(3)} == {"waiting"}
            producer.send(message)
            while (status := next(statuses))["consumer"]["state"] == "waiting":
                pass
            assert (status["consumer"]["state"], status["consumer"]["batch"]) == ("stuck", None)
            assert status["consumer"]["seconds"] < PATIENCE
        assert look(at)["consumer"]["state"] == "stuck"
        assert receiver.receive(PATIENCE) == message
        assert receiver.try_receive() is None
        assert look(at)["consumer"]["state"] == "waiting"


@pytest.mark.parametrize("framing", ["native", "lines"])
def test_receiver_whose_producers_have_gone_is_not_stuck(address: str, framing: Any) -> None:
    """The end of a connection, and its closing message, are no messages."""
    with mpsr.Receiver(address) as receiver:
        with mpsr.Producer(address, framing=framing) as producer:
            producer.send(b"x")
            assert receiver.receive(PATIENCE) == b"x"
            assert receiver.try_receive() is None
            producer.flush(PATIENCE)
        assert look(address)["consumer"]["state"] == "waiting"


def test_connection_that_waits_makes_a_receiver_stuck(address: str) -> None:
    """Only observers are answered while the program does not call the receiver."""
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        assert receiver.try_receive() is None
        assert look(address)["consumer"]["state"] == "waiting"
        connect(clients, address).sendall(b"hello\n")
        assert stuck(address)["consumer"]["batch"] is None
        assert receiver.receive(PATIENCE) == b"hello"


def test_caller_that_does_not_come_back_is_stuck_without_a_batch(address: str) -> None:
    """It has acknowledged the message that it had, and another one waits."""
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"x")
        assert receiver.receive_batch(PATIENCE)
        receiver.acknowledge()
        assert look(address)["consumer"]["state"] == "waiting"
        producer.send(b"y")
        assert stuck(address)["consumer"]["batch"] is None
        assert receiver.receive(PATIENCE) == b"y"


def test_stuck_consumer_of_a_journal_is_told_with_its_lag(address: str, tmp_path: Path) -> None:
    """What comes meanwhile is accepted, and the cursor's lag grows."""
    with mpsr.Receiver(address, journal=tmp_path / "journal") as receiver:
        with mpsr.Producer(address) as producer:
            producer.send(b"first")
            producer.flush(PATIENCE)
            assert receiver.receive(PATIENCE) == b"first"
            for _ in range(9):
                producer.send(b"more")
            producer.flush(PATIENCE)
            status = stuck(address)
    assert status["consumer"]["batch"] is not None
    assert status["consumer"]["batch"]["position"] == 1
    journal = status["journal"]
    assert journal is not None
    assert (journal["first"], journal["next"], journal["full"]) == (1, 11, False)
    assert journal["directory"] == str(tmp_path / "journal")
    assert journal["cursors"] == [{"name": "main", "position": 0, "lag": 10}]


def test_packets_are_observed_too(address: str) -> None:
    with mpsr.Producer(address, type="seqpacket") as producer:
        with mpsr.Receiver(address, type="seqpacket") as receiver:
            producer.send(b"x")
            assert receiver.receive(PATIENCE) == b"x"
            assert stuck(address)["consumer"]["batch"] is not None


def test_receiver_of_datagrams_alone_cannot_be_asked(address: str) -> None:
    with mpsr.Receiver(address, type="dgram"), pytest.raises(mpsr.WrongSocketType) as caught:
        observe.status(address)
    assert "second address" in str(caught.value)


def test_those_who_connect_while_it_stands_still_are_served_in_order(address: str) -> None:
    """A thousand producers of the system's own come, and an observer behind them."""
    count = 1000
    with ExitStack() as clients, mpsr.Receiver(address, max_connections=1100) as receiver:
        first = connect(clients, address)
        first.sendall(b"first\n")
        assert receiver.receive(PATIENCE) == b"first"
        for number in range(count):
            connect(clients, address).sendall(b"%d\n" % number)
            if number == count // 2:
                stuck(address)
        assert stuck(address)["stats"]["accepted"] == 1
        received = [receiver.receive(PATIENCE) for _ in range(count)]
        assert receiver.stats().accepted == count + 1
    assert sorted(received, key=int) == [b"%d" % number for number in range(count)]


def test_newer_connection_of_a_producer_counts_however_both_were_accepted(address: str) -> None:
    """The older one was accepted by the thread, and is placed first."""
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        first = connect(clients, address)
        first.sendall(b"first\n")
        assert receiver.receive(PATIENCE) == b"first"
        older = connect(clients, address)
        stuck(address)  # so that the older one is held
        newer = connect(clients, address)
        newer.sendall(PREFACE + encode(Hello(bytes(16), 0, "")))
        assert receiver.try_receive() is None
        eventually(lambda: receiver.try_receive() is None and receiver.stats().connections == 3)
        older.sendall(PREFACE + encode(Hello(bytes(16), 0, "")))
        eventually(lambda: receiver.try_receive() is None and receiver.stats().rejected == 1)
        answer = older.recv(4096)
        assert answer[4] == FrameType.REJECT
        assert answer[8] == RejectCode.FENCED


@pytest.mark.timing
def test_observer_that_was_accepted_and_not_read_is_answered_at_once(address: str) -> None:
    """The receiver accepts it beside a producer whose batch its caller then keeps."""
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        connect(clients, address).sendall(b"kept in hand\n")
        asking = clients.enter_context(closing(Observation(address, ObservingSession(), PATIENCE)))
        assert list(receiver.receive_batch(PATIENCE)) == [b"kept in hand"]
        begin = time.monotonic()
        (seen,) = asking.read()
        assert time.monotonic() - begin < AT_ONCE
        assert isinstance(seen, StatusSeen)
        assert seen.document["consumer"]["batch"]["messages"] == 1


HOLDER = """
import os, resource, select, socket, sys

address, count, says = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[4]))
poll, held = select.poll(), {}

def hold():
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect(address)
        client.send(says)
    except OSError:  # the backlog is full
        client.close()
        return
    held[client.fileno()] = client
    poll.register(client, select.POLLRDHUP)

for _ in range(count):
    hold()
print("holding", flush=True)
while True:
    for descriptor, _ in poll.poll(1 if len(held) < count else 1000):
        poll.unregister(descriptor)
        held.pop(descriptor).close()
    for _ in range(count - len(held)):
        hold()
"""


@as_root
@pytest.mark.parametrize("says", ["", "x", "\x89"])
def test_connections_of_one_user_keep_no_observer_from_an_answer(address: str, says: str) -> None:
    """The user holds more than the receiver accepts apart, and connects again when closed."""
    with (
        ExitStack() as after,
        mpsr.Producer(address) as producer,
        mpsr.Receiver(address, mode=0o666) as receiver,
    ):
        let_others_in(Path(address).parent)
        producer.send(b"x")
        assert receiver.receive(PATIENCE)
        command = [sys.executable, "-c", HOLDER, address, str(MAX_HELD + 200), says, str(OTHER)]
        holder = after.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        after.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        for _ in range(3):
            assert look(address)["consumer"]["state"] in ("handling", "stuck")


def test_foreign_data_of_the_receivers_own_user_is_kept(address: str) -> None:
    """However many connections wait until the receiver accepts, each line arrives."""
    with (
        ExitStack() as clients,
        mpsr.Producer(address) as producer,
        mpsr.Receiver(address) as receiver,
    ):
        old = set_limits(MAX_HELD=FEW, MAX_HELD_PER_UID=FEW // 2)
        clients.callback(set_limits, **old)
        producer.send(b"x")
        assert receiver.receive(PATIENCE)
        silent = [connect(clients, address) for _ in range(FEW // 2)]
        for number in range(FEW):
            connect(clients, address).send(b"%d\n" % number)
        assert silent[0].recv(1) == b""  # a silent connection was evicted
        lines = {receiver.receive(PATIENCE) for _ in range(FEW)}
    assert lines == {b"%d" % number for number in range(FEW)}


def test_requests_in_quick_succession_share_documents(address: str) -> None:
    """The receiver makes one document in an interval, after it was asked, for all observers."""
    with mpsr.Receiver(address) as receiver, serving(receiver):
        begin = time.monotonic()
        statuses = [look(address) for _ in range(4)]
        elapsed = time.monotonic() - begin
        documents = {each["now"] for each in statuses}
        # Two requests that are served in one step of the observers' thread share a document.
        assert len(documents) > 1
        assert elapsed >= (len(documents) - 1) * MIN_STATUS_INTERVAL
        with ExitStack() as stack:
            watching = [
                stack.enter_context(closing(observe.watch(address, interval=MIN_STATUS_INTERVAL)))
                for _ in range(MAX_OBSERVERS_PER_UID)
            ]
            for each in watching:
                next(each)
            *others, last = watching
            wanted = {next(last)["now"] for _ in range(4)}
            for other in others:
                seen: set[float] = set()
                while max(seen, default=0) < max(wanted):
                    seen.add(next(other)["now"])
                assert wanted <= seen


def test_frozen_process_is_named(address: str) -> None:
    """Nothing of it runs, and the message says why."""
    program = "import mpsr, sys; r = mpsr.Receiver(sys.argv[1]); print(flush=True); next(r)"
    with subprocess.Popen(
        [sys.executable, "-c", program, address], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            with pytest.raises(mpsr.TimedOut) as caught:
                observe.status(address, timeout=0.3)
        finally:
            process.kill()
    assert f"process {process.pid} is stopped" in str(caught.value)


# -- who may look ---------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("busy", [True, False], ids=["stuck", "waiting"])
def test_nobody_else_may_look_unless_named(address: str, *, busy: bool) -> None:
    """The engine and its thread refuse alike."""
    os.chmod(os.path.dirname(address), 0o755)
    for observers, expected in (None, "AddressDenied"), ([OTHER], str(os.getpid())):
        with mpsr.Producer(address) as producer:
            with mpsr.Receiver(address, mode=0o666, observers=observers) as receiver:
                producer.send(b"x")
                assert receiver.receive(PATIENCE) == b"x"
                thread = threading.Thread(target=serve, args=[receiver])
                if not busy:
                    thread.start()
                assert run(LOOKER, address, str(OTHER)).output.startswith(expected)
                receiver.stop()
                if not busy:
                    thread.join(PATIENCE)


def test_our_own_user_may_look_though_it_may_not_send(address: str) -> None:
    """Who may send is another question; nobody is counted as refused."""
    with mpsr.Receiver(address, allow_uids=[OTHER]) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        assert look(address)["pid"] == os.getpid()
        assert receiver.stats().refused == 0
        with pytest.raises(mpsr.Undelivered), mpsr.Producer(address) as producer:
            producer.send(b"x")
        eventually(lambda: receiver.stats().refused == 1)
        with ExitStack() as clients:
            client = connect(clients, address)
            client.sendall(b"text\n")
            assert client.recv(1) == b""
        assert receiver.stats().refused == 2
        receiver.stop()
        thread.join(PATIENCE)


# -- hostile observers ----------------------------------------------------------------------


def test_observer_that_reads_nothing_is_closed_and_holds_up_nobody(
    address: str, limits: Limits
) -> None:
    """It gets no more than its socket holds, and its place is free after the deadline."""
    limits(OBSERVER_DEADLINE=0.5)
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        mute = connect(clients, address)
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mute.sendall(PREFACE + encode(Observe(100, 1000, 65_536)))
        with mpsr.Producer(address) as producer:
            eventually(lambda: samplers(receiver))
            deadline = time.monotonic() + PATIENCE
            while samplers(receiver):
                assert time.monotonic() < deadline
                producer.send(bytes(50_000))
            producer.flush(PATIENCE)
            look(address)
        receiver.stop()
        thread.join(PATIENCE)


def test_number_of_observers_is_bounded(address: str) -> None:
    """One more than a user may have is told so, and another has its place once it is free."""
    with ExitStack() as stack, mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        watchers = []
        for _ in range(MAX_OBSERVERS_PER_UID):
            watcher = stack.enter_context(closing(observe.watch(address)))
            next(watcher)
            watchers.append(watcher)
        with pytest.raises(mpsr.ReceiverBusy):
            observe.status(address)
        watchers[0].close()
        eventually(lambda: _answers(address))
        receiver.stop()
        thread.join(PATIENCE)


def test_loop_of_requests_waits_for_each_rejection(address: str) -> None:
    """Of a crowd of one user, those without a place are rejected late, and then leave nothing."""
    crowd, asking = 3 * MAX_OBSERVERS_PER_UID, PREFACE + encode(Observe(1000, 0, 0))
    with mpsr.Receiver(address) as receiver, ExitStack() as stack:
        stack.enter_context(serving(receiver))
        since = time.monotonic()
        sockets = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(crowd)]
        for sock in sockets:
            sock.settimeout(PATIENCE)
            sock.connect(address)
            sock.sendall(asking)
        answers: list[tuple[int, float]] = []
        for sock in sockets:
            kind = HEADER.unpack(sock.recv(HEADER.size, socket.MSG_WAITALL))[1]
            answers.append((kind, time.monotonic() - since))
        rejected = [took for kind, took in answers if kind == FrameType.REJECT]
        assert len(rejected) == crowd - MAX_OBSERVERS_PER_UID
        assert min(rejected) >= 0.9 * OBSERVER_REFUSAL  # its clock is read once per round
        eventually(lambda: receiver.stats().connections == 0)


def _answers(address: str) -> bool:
    try:
        observe.status(address)
    except mpsr.ReceiverBusy:
        return False
    return True


@pytest.mark.parametrize(
    "garbage",
    [
        PREFACE + b"\x0c\x00\x00\x00\x25\x01\x00\x00" + bytes(12),
        PREFACE + b"\x0d\x00\x00\x00\x25\x00\x00\x00" + bytes(13),
        PREFACE + b"\x00\x00\x00\x00\x26\x00\x00\x00",
    ],
    ids=["flags", "size", "status"],
)
@pytest.mark.parametrize("busy", [True, False], ids=["stuck", "waiting"])
def test_broken_requests_are_refused_and_harm_nothing(
    address: str, garbage: bytes, *, busy: bool
) -> None:
    """What is no request is left to the engine, which refuses it; others are answered."""
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        first = connect(clients, address)
        first.sendall(b"first\n")
        assert receiver.receive(PATIENCE) == b"first"
        broken = connect(clients, address)
        broken.sendall(garbage)
        if busy:
            stuck(address)
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        answer = b""
        while piece := broken.recv(65_536):
            answer += piece
        assert FrameType.REJECT in answer
        look(address)
        receiver.stop()
        thread.join(PATIENCE)


@pytest.mark.parametrize("busy", [True, False], ids=["stuck", "waiting"])
def test_observer_that_goes_on_to_talk_is_sent_away(address: str, *, busy: bool) -> None:
    with ExitStack() as clients, mpsr.Receiver(address) as receiver:
        first = connect(clients, address)
        first.sendall(b"first\n")
        assert receiver.receive(PATIENCE) == b"first"
        thread = threading.Thread(target=serve, args=[receiver])
        if not busy:
            thread.start()
        talker = connect(clients, address)
        talker.sendall(PREFACE + encode(Observe(60_000, 0, 0)))
        session = ObservingSession()
        session.receive_data(talker.recv(65_536))
        assert isinstance(session.events_received()[0], StatusSeen)
        talker.sendall(b"!")
        session.receive_data(talker.recv(65_536))
        (rejected,) = session.events_received()
        assert isinstance(rejected, Reject)
        assert rejected.code == RejectCode.UNEXPECTED
        receiver.stop()
        if not busy:
            thread.join(PATIENCE)


# -- the end --------------------------------------------------------------------------------


def test_watcher_hears_of_the_end(address: str) -> None:
    """A close ends it, and leaves no descriptor and no thread."""

    def there() -> set[str]:
        return {
            f"{each}/{name}" for each in ("fd", "task") for name in os.listdir(f"/proc/self/{each}")
        }

    gc.collect()
    before = there()
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"x")
        assert receiver.receive(PATIENCE) == b"x"
        statuses = observe.watch(address, interval=0.1)
        next(statuses)
    with pytest.raises(mpsr.Closed):
        for _ in statuses:
            pass
    del statuses
    eventually(lambda: there() <= before)  # a thread of an earlier test may have ended meanwhile


def test_handover_ends_observers_and_goes_on_with_what_was_held(address: str) -> None:
    """The new receiver has the connections that the old one's thread had accepted."""
    with ExitStack() as clients:
        old = clients.enter_context(mpsr.Receiver(address))
        first = connect(clients, address)
        first.sendall(b"first\n")
        assert old.receive(PATIENCE) == b"first"
        statuses = clients.enter_context(closing(observe.watch(address)))
        next(statuses)
        late = connect(clients, address)
        late.sendall(b"late\n")
        stuck(address)
        received: list[bytes] = []
        thread = threading.Thread(target=lambda: received.extend(old))
        opening = threading.Thread(
            target=lambda: taken.append(mpsr.Receiver(address, handover=True))
        )
        taken: list[mpsr.Receiver] = []
        opening.start()
        thread.start()
        opening.join(PATIENCE)
        thread.join(PATIENCE)
        old.close()
        with pytest.raises(mpsr.Closed):
            for _ in statuses:
                pass
        (new,) = taken
        with new:
            late.sendall(b"later\n")
            while b"later" not in received:
                received.append(new.receive(PATIENCE))
            look(address)
    assert received == [b"late", b"later"]


def test_forked_child_leaves_observers_to_its_parent(address: str) -> None:
    """The child closes its copies; the parent goes on to answer."""
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"x")
        assert receiver.receive(PATIENCE) == b"x"
        with closing(observe.watch(address, interval=0.1)) as statuses:
            next(statuses)
            child = os.fork()
            if not child:
                os._exit(0 if receiver._inbox is not None and receiver._inbox.closed else 1)
            _, status = os.waitpid(child, 0)
            assert status == 0
            for _ in range(3):
                next(statuses)
            assert look(address)["pid"] == os.getpid()


def test_address_of_another_program_is_told(address: str) -> None:
    """Somebody else listens there, and answers in its own words, or not at all."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()

        def answer() -> None:
            client, _ = listener.accept()
            client.recv(100)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(mpsr.AddressOccupied):
            observe.status(address)
        thread.join(PATIENCE)


# -- samples --------------------------------------------------------------------------------


def test_tap_shows_messages_that_pass(address: str) -> None:
    """Where few pass it shows them all, with who sent them, and cuts long ones."""
    with mpsr.Producer(address, label="web") as producer, mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        seen: list[observe.Sample] = []
        with observe.tap(address, clip=10) as samples:
            for sample in samples:
                if sample is not None:
                    seen.append(sample)
                    if len(seen) == 5:
                        break
                if len(seen) < 5:
                    producer.send(b"%d" % len(seen) * 20)
        receiver.stop()
        thread.join(PATIENCE)
    assert [each.body for each in seen] == [b"%d" % number * 10 for number in range(5)]
    assert all(each.size == 20 and each.skipped == 0 for each in seen)
    assert seen[0].producer is not None
    assert seen[0].producer.label == "web"
    assert [each.seq for each in seen] == list(range(5))
    assert seen[0].peer.pid == os.getpid()


def test_tap_says_what_it_skipped(address: str) -> None:
    """Samples and what was skipped between them add up to what has passed."""
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        with observe.tap(address, rate=50) as samples:
            iterator = iter(samples)
            assert next(iterator) is None
            shown = skipped = 0
            for sample in iterator:
                if sample is not None:
                    shown, skipped = shown + 1, skipped + sample.skipped
                    assert sample.seq + 1 == shown + skipped
                if shown >= 120:
                    break
                producer.send_many([b"message"] * 100)
        producer.flush(PATIENCE)
        receiver.stop()
        thread.join(PATIENCE)
    assert skipped > 0


# -- the commands ---------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpsr", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_command_tells_of_a_stuck_consumer(address: str) -> None:
    with mpsr.Producer(address, label="web\x1b[2J") as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"x")
        assert receiver.receive(PATIENCE) == b"x"
        stuck(address)
        text, as_json = command("status", address), command("status", address, "-o", "json")
        tapped = command("tap", address, "--limit", "1", "--match", "(")
    assert text.returncode == as_json.returncode == 0
    assert "consumer   stuck for " in text.stdout
    assert f' on message 0 of producer "web\\x1b[2J" (pid {os.getpid()})' in text.stdout
    assert "\x1b" not in text.stdout
    assert json.loads(as_json.stdout)["consumer"]["state"] == "stuck"
    assert tapped.returncode == 2
    assert "no regular expression" in tapped.stderr


def test_command_shows_samples_that_match(address: str) -> None:
    with mpsr.Producer(address, label="web") as producer, mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=serve, args=[receiver])
        thread.start()
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(0.01):
                producer.send(b"good")
                producer.send(b"an error")

        sender = threading.Thread(target=send)
        sender.start()
        try:
            found = command("tap", address, "--limit", "2", "--match", "err.r", "-o", "json")
            plain = command("tap", address, "--limit", "1", "--match", "^good$")
        finally:
            ended.set()
            sender.join(PATIENCE)
            receiver.stop()
            thread.join(PATIENCE)
    lines: list[dict[str, Any]] = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line["body"] for line in lines] == ["an error"] * 2
    assert lines[0]["producer"]["label"] == "web"
    assert "showed 2 of " in found.stderr
    assert plain.stdout.endswith(" web: good\n")


def test_command_says_that_nobody_is_there(address: str) -> None:
    found = command("status", address)
    assert found.returncode == 69
    assert "nothing is there" in found.stderr
