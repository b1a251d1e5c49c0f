"""What one user may have of a receiver: whoever is at a limit waits, and holds up nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr._speedups import IN_C_ON_LINUX
from mpsr.limits import MIB
from mpsr.system import ring
from tests.eventually import eventually
from tests.process.programs import begin
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
MINE, OTHER = os.geteuid(), 3000

START = """
import os, socket, sys, threading, time
from mpsr import Producer

address, uid = sys.argv[1], int(sys.argv[2])
if uid != os.geteuid():
    os.setuid(uid)

def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock

def say(word):
    print(word, flush=True)

def hear():
    sys.stdin.readline()

"""


@contextmanager
def program(text: str, address: str, uid: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program as a user; it is killed at the end of the block."""
    with begin(START + text, address, str(uid), *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    word = process.stdout.readline().strip()
    if not word:
        assert process.stderr
        pytest.fail(process.stderr.read())
    return word


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


class Receiving:
    """A receiver that a thread iterates."""

    def __init__(self, receiver: mpsr.Receiver[bytes]) -> None:
        self.receiver = receiver
        self.messages: list[bytes] = []
        self.nbytes = Counter[int | None]()

    def run(self) -> None:
        for batch in self.receiver.batches():
            self.messages += [each[:20] for each in batch]
            self.nbytes[batch.peer.uid] += batch.nbytes

    def served_within(self, address: str) -> float:
        """Return the seconds until a message of this process is accepted."""
        since = time.monotonic()
        with mpsr.Producer[bytes](address, receiver_uid="any") as producer:
            producer.send(b"mine")
            producer.flush(20)
        return time.monotonic() - since

    def wait_until_limited(self, wanted: bool = True) -> None:
        eventually(lambda: self.receiver.stats().limited is wanted)


@contextmanager
def receiving(address: str, **options: Any) -> Iterator[Receiving]:
    """Receive in a thread, where all users may connect."""
    os.chmod(os.path.dirname(address), 0o755)
    with mpsr.Receiver[bytes](address, mode=0o666, **options) as receiver:
        running = Receiving(receiver)
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            yield running
        finally:
            receiver.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture(params=[False, True], ids=["memory", "journal"])
def journal(request: pytest.FixtureRequest, tmp_path: Any) -> dict[str, Any]:
    """Give the argument for a journal, or none."""
    return {"journal": tmp_path / "journal"} if request.param else {}


# -- messages a second --------------------------------------------------------------------------

STEADY = """
since = time.monotonic()
with Producer(address, receiver_uid="any") as producer:
    for first in range(0, 1000, 40):
        producer.send_many([b"%d" % n for n in range(first, first + 40)])
        producer.flush(30)
        if first == 520:
            say("half")
say(time.monotonic() - since)
"""


@as_root
def test_rate_of_a_user_is_limited_and_nothing_is_lost(
    address: str, journal: dict[str, Any]
) -> None:
    """Those of one second arrive at once, the others at the rate; another user does not wait."""
    with receiving(address, max_rate_per_uid=400, **journal) as running:
        with program(STEADY, address, OTHER) as sender:
            assert heard(sender) == "half"
            running.wait_until_limited()
            assert running.served_within(address) < 1
            took = float(heard(sender))
        running.wait_until_limited(False)
    assert 0.9 * (1000 - 400 - 40) / 400 < took < 2 * (1000 - 400) / 400 + 0.5
    running.messages.remove(b"mine")
    assert running.messages == [b"%d" % n for n in range(1000)]


@as_root
def test_command_limits_the_rate_of_a_user(address: str) -> None:
    os.chmod(os.path.dirname(address), 0o755)
    command = [sys.executable, "-m", "mpsr", "recv", address, "--mode", "666"]
    command += ["--max-rate-per-user", "400", "--max-bytes-per-user", "1M"]
    command += ["--max-connections-per-user", "5"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as receiver:
        assert receiver.stderr
        assert "listening" in receiver.stderr.readline()
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.extend(receiver.stdout or ()))
        reading.start()
        with program(STEADY, address, OTHER) as sender:
            assert heard(sender) == "half"
            assert float(heard(sender)) > 0.9 * (1000 - 400 - 40) / 400
        receiver.terminate()
        reading.join(PATIENCE)
    assert lines == [f"{n}\n" for n in range(1000)]


@pytest.mark.skipif(not IN_C_ON_LINUX, reason="it takes Linux and C")
def test_watcher_of_the_descriptor_hears_when_there_are_tokens(address: str) -> None:
    """Whoever waits for ``fileno`` in a loop of their own need not ask at times."""
    import select

    with (
        mpsr.Receiver(address, max_rate_per_uid=20) as receiver,
        mpsr.Producer[bytes](address) as producer,
    ):
        watch = select.poll()
        watch.register(receiver.fileno(), select.POLLIN)
        got: list[bytes] = []
        for number in range(30):
            producer.send(b"%d" % number)
            while len(got) <= number:
                assert watch.poll(PATIENCE * 1000)
                for batch in iter(receiver.try_receive_batch, None):
                    got += batch
        assert got == [b"%d" % number for number in range(30)]


# -- bytes in flight ----------------------------------------------------------------------------

BEGIN = """
socks = [connect() for _ in range(12)]
whole = (1 << 20).to_bytes(4, "big") + b"0" * (1 << 20)
left = {}

def write(number, most):
    data = left.setdefault(number, memoryview(b"%s%02d" % (whole[:4], number) + whole[6:]))
    while most > 0 and data:
        size = socks[number].send(data[:most])
        most -= size
        data = left[number] = data[size:]

def begin(number):
    write(number, 600_000)

threads = [threading.Thread(target=begin, args=(number,)) for number in range(12)]
for each in threads:
    each.start()
hear()
def end(number):
    threads[number].join()
    write(number, 1 << 30)
ends = [threading.Thread(target=end, args=(number,)) for number in range(12)]
for each in ends:
    each.start()
for each in ends:
    each.join()
for each in socks:
    each.close()
say("ended")
hear()
"""


@as_root
def test_bytes_in_flight_of_a_user_are_limited(address: str, journal: dict[str, Any]) -> None:
    """Messages that are begun on many connections take no more than the limit, and one message."""
    options = {"framing": "auto", "max_bytes_per_uid": 2 * MIB, **journal}
    with receiving(address, **options) as running:
        engine: Any = running.receiver._inbox
        inbox = getattr(engine, "_inbox", engine)
        with program(BEGIN, address, OTHER) as sender:
            running.wait_until_limited()
            assert running.served_within(address) < 10
            begun = [each.session.pending for each in tuple(inbox._connections.open)]
            assert MIB < sum(begun) <= 3 * MIB
            tell(sender)
            assert heard(sender) == "ended"
        eventually(lambda: not running.receiver.stats().connections)
        running.wait_until_limited(False)
    expected = [b"%02d" % number + b"0" * 18 for number in range(12)]
    assert sorted(running.messages) == sorted([*expected, b"mine"])


# -- connections --------------------------------------------------------------------------------

CROWD = """
socks = []
for number in range(30):
    sock = connect()
    sock.sendall(b"%d\\n" % number)
    socks.append(sock)
say("connected")
hear()
for sock in socks:
    sock.close()
say("closed")
hear()
"""


@as_root
def test_connections_beyond_a_users_limit_hold_up_nobody_else(
    address: str, journal: dict[str, Any]
) -> None:
    """They wait, and are read once others of the user have gone."""
    with receiving(address, max_connections_per_uid=3, **journal) as running:
        with program(CROWD, address, OTHER) as crowd:
            assert heard(crowd) == "connected"
            running.wait_until_limited()
            eventually(lambda: len(running.messages) >= 3)
            assert running.served_within(address) < 10
            stats = running.receiver.stats()
            assert stats.connections <= 4
            assert (stats.accepted, stats.paused, stats.limited) == (31, False, True)
            # a journal hands out later than it accepts
            eventually(lambda: len(running.messages) >= 4)
            assert len(running.messages) == 4
            tell(crowd)
            assert heard(crowd) == "closed"
            eventually(lambda: len(running.messages) >= 31)
    expected = [*(b"%d" % number for number in range(30)), b"mine"]
    assert sorted(running.messages) == sorted(expected)


# It sends nothing: the receiver may close a connection before a line is sent.
SILENT = """
socks = [connect() for _ in range(50)]
hear()
"""


def test_user_alone_cannot_fill_the_backlog_at_its_limit(address: str) -> None:
    """Where all places are waited for, the next ones of that user are closed."""
    with receiving(address, max_connections=10, max_connections_per_uid=3) as running:
        with program(SILENT, address, MINE) as crowd:
            eventually(lambda: running.receiver.stats().accepted >= 50)
            eventually(lambda: running.receiver.stats().rejected)
            # One that is evicted is closed just before the next one gets its place.
            eventually(lambda: running.receiver.stats().connections == 3)
            crowd.kill()


# -- rings ----------------------------------------------------------------------------------------

BULK = """
with Producer(address, receiver_uid="any") as producer:
    for _ in range(12):
        producer.send_many([bytes(1000)] * 1000)
    producer.flush(30)
    say("sent")
    hear()
"""


@as_root
@pytest.mark.skipif(not ring.AVAILABLE, reason="it takes Linux and C")
def test_rings_of_a_user_are_limited(address: str) -> None:
    """Who gets none goes on with its socket; another user gets one."""
    with receiving(address, max_rings_per_uid=1) as running:
        engine: Any = running.receiver._inbox
        given = engine._connections.rings._given_to
        with program(BULK, address, OTHER) as first, program(BULK, address, OTHER) as second:
            assert [heard(each) for each in (first, second)] == ["sent", "sent"]
            assert given == {OTHER: 1}
            with program(BULK, address, 2000) as third:
                assert heard(third) == "sent"
                assert given == {OTHER: 1, 2000: 1}
        eventually(lambda: not given)
        eventually(lambda: not running.receiver.stats().connections)
    assert running.nbytes == {OTHER: 24_000_000, 2000: 12_000_000}


@pytest.mark.skipif(not ring.AVAILABLE, reason="it takes Linux and C")
def test_ring_of_a_user_at_its_limit_is_read_in_time(address: str) -> None:
    """No doorbell rings for what the ring held already; and who waits for room in it is woken."""
    with receiving(address, max_rate_per_uid=8000) as running:
        engine: Any = running.receiver._inbox
        with program(BULK, address, MINE) as sender:
            running.wait_until_limited()
            assert heard(sender) == "sent"
            assert engine._connections.rings._given == 1
    assert running.nbytes == {MINE: 12_000_000}


# -- shares ---------------------------------------------------------------------------------------

FLOOD = """
def flood():
    sock = connect()
    data = (b"x" * 99_999 + b"\\n") * 3
    while True:
        sock.sendall(data)

for _ in range(int(sys.argv[3])):
    threading.Thread(target=flood, daemon=True).start()
say("flooding")
hear()
"""

PACED = """
with Producer(address, receiver_uid="any") as producer:
    for number in range(150):
        producer.send(b"y" * 50_000)
        producer.flush(30)
say("sent")
"""


@as_root
@pytest.mark.timing
def test_flood_of_one_user_leaves_another_its_share(address: str) -> None:
    """What waits for each acceptance gets on beside twenty connections that never wait."""
    with receiving(address) as running:
        with program(PACED, address, 2000) as alone:
            assert heard(alone) == "sent"
        with program(FLOOD, address, OTHER, "20") as flood:
            assert heard(flood) == "flooding"
            eventually(lambda: running.nbytes[OTHER])
            with program(PACED, address, 2000) as paced:
                assert heard(paced) == "sent"
            assert running.nbytes[2000] == 2 * 150 * 50_000
            with program(FLOOD, address, 2000, "1") as single:
                assert heard(single) == "flooding"
                before = running.nbytes.copy()
                eventually(lambda: running.nbytes[OTHER] >= before[OTHER] + 256 * MIB)
                got = running.nbytes - before
    assert got[2000] > 0.5 * got.total() / 2
