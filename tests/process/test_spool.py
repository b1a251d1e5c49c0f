"""What a spool keeps, whoever is killed, and to whom it belongs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import anyio
import pytest

import mpsr
from mpsr.engine.sending.spool import Spool
from mpsr.limits import CLOSE_TIMEOUT
from mpsr.store import files
from mpsr.store.journal import Journal
from tests.process import points

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = """
import os, random, signal, sys, time
import mpsr, mpsr.sync.producer
from tests.process import points

address, spool, name, point, left = *sys.argv[1:5], int(sys.argv[5])

producer = mpsr.Producer(address, spool=spool, buffer=256 << 20)
if point:
    points.die(point, left)
mpsr.sync.producer.SPOOL_SETTLE = 0.1
chance = random.Random(name)
sent = 0
os.write(1, b"0\\n")
while True:
    size = chance.choice([0, 100, 20_000, 300_000]) if point else 50
    for _ in range(chance.randrange(1, 200 if size < 1000 else 10)):
        producer.send(b"%s:%d:%s" % (name.encode(), sent, bytes(size)))
        sent += 1
    producer.flush(timeout=30, spooled=True)
    os.write(1, b"%d\\n" % sent)
"""


@pytest.fixture
def spool(tmp_path: Path) -> str:
    """Give a path for a spool."""
    return str(tmp_path / "worker.spool")


@contextmanager
def receiving(address: str) -> Iterator[list[bytes]]:
    """Receive beside the block into a list, which is complete at the block's end."""
    received: list[bytes] = []
    with mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=lambda: received.extend(receiver))
        thread.start()
        try:
            yield received
        finally:
            receiver.stop()
            thread.join()


def deliver(address: str, spool: str) -> None:
    """Open what is left, and close it once all is accepted."""
    with mpsr.Producer(address, spool=spool) as producer:
        producer.flush(timeout=30)


def run_until_killed(
    address: str, spool: str, name: str, *, after: float = 0, point: str = "", hit: int = 0
) -> int:
    """Run a worker that is killed, there or then; return how many it was told are safe."""
    command = [sys.executable, "-c", WORKER, address, spool, name, point, str(hit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as worker:
        assert worker.stdout is not None
        said = worker.stdout.readline()
        if not point:
            sleep(after)
            worker.kill()
        said += worker.stdout.read()
    assert worker.returncode == -signal.SIGKILL
    return int(said[: said.rindex(b"\n")].split()[-1])


def check_runs(received: list[bytes], confirmed: dict[str, int]) -> None:
    """Of each run, all that was confirmed is there, once, in order, and nothing is missing."""
    runs: dict[str, int] = dict.fromkeys(confirmed, 0)
    order: list[str] = []
    for message in received:
        name, number, _ = message.split(b":", 2)
        run = name.decode()
        assert int(number) == runs[run]
        runs[run] += 1
        if run not in order:
            order.append(run)
    assert all(runs[run] >= confirmed[run] for run in confirmed), (runs, confirmed)
    assert order == [run for run in confirmed if runs[run]]


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_producers_spool_reaches_the_receiver_exactly_once(
    address: str, spool: str, kills: int
) -> None:
    """Killed while no receiver is there, at any moment; all that flush confirmed arrives."""
    chance = random.Random(4)
    confirmed = {
        f"run-{number}": run_until_killed(
            address, spool, f"run-{number}", after=chance.uniform(0, 0.15)
        )
        for number in range(kills)
    }
    assert sum(confirmed.values()) > 0
    with receiving(address) as received:
        deliver(address, spool)
    check_runs(received, confirmed)


@pytest.mark.parametrize("point", points.POINTS)
def test_producer_killed_at_the_store_is_continued_without_a_duplicate(
    address: str, spool: str, point: str
) -> None:
    """Killed within a write or beside it, while a receiver accepts; the next goes on."""
    rare = point in {"segment", "trim"}
    with receiving(address) as received:
        confirmed = {
            f"run-{more}": run_until_killed(
                address, spool, f"run-{more}", point=point, hit=1 + more if rare else 4 + more
            )
            for more in range(2)
        }
        deliver(address, spool)
    check_runs(received, confirmed)


def test_nothing_reaches_a_receiver_before_it_is_committed(
    address: str, spool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is being synced nothing of it arrives."""
    begun, go_on = threading.Event(), threading.Event()

    def sync(file: int) -> None:
        begun.set()
        go_on.wait(10)
        synced(file)

    synced = files.sync
    with mpsr.Receiver(address) as receiver, mpsr.Producer(address, spool=spool) as producer:
        monkeypatch.setattr(files, "sync", sync)
        producer.send(b"one")
        assert begun.wait(10)
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(timeout=0.1)
        go_on.set()
        assert receiver.receive(timeout=10) == b"one"
        receiver.acknowledge()


def test_closing_without_a_receiver_keeps_everything_and_raises_nothing(
    address: str, spool: str
) -> None:
    """It takes no longer than the disk, and the next producer is the same to the receiver."""
    begun = monotonic()
    with mpsr.Producer(address, spool=spool) as first:
        first.send_many([b"%d" % number for number in range(1000)])
    assert monotonic() - begun < 0.9 * CLOSE_TIMEOUT
    assert first.stats().buffered == 1000
    with receiving(address) as received:
        with mpsr.Producer(address, spool=spool) as second:
            assert (second.id, second.stats().sent) == (first.id, 1000)
            second.send(b"1000")
    assert received == [b"%d" % number for number in range(1001)]
    assert second.stats()[:4] == (1001, 1001, 0, 0)
    with mpsr.Producer(address, spool=spool) as third:
        assert (third.id, third.stats().sent) == (first.id, 0)


def test_what_was_accepted_is_not_sent_to_the_next_receiver(address: str, spool: str) -> None:
    """Not even where it was half of a batch."""
    with mpsr.Producer(address, spool=spool) as producer:
        producer.send_many([b"%d" % number for number in range(10)])
        producer.flush(spooled=True, timeout=10)
        with mpsr.Receiver(address) as receiver:
            for number in range(4):
                assert receiver.receive(timeout=10) == b"%d" % number
    with receiving(address) as received:
        deliver(address, spool)
    assert received[-6:] == [b"%d" % number for number in range(4, 10)]


def test_receiver_that_takes_less_gets_what_it_takes(address: str, spool: str) -> None:
    """What is too large for it is counted as lost, as without a spool."""
    with mpsr.Producer(address, spool=spool) as producer:
        producer.send_many([b"a" * 10, b"b" * 100_000, b"c" * 10])
    with mpsr.Receiver(address, max_message=10_000) as receiver:
        with mpsr.Producer(address, spool=spool, max_message=50) as producer:
            assert [receiver.receive(timeout=10)[:1] for _ in range(2)] == [b"a", b"c"]
            receiver.acknowledge()
            with pytest.raises(mpsr.Undelivered, match="messages of 10000 bytes at most") as caught:
                producer.flush(10)
        assert caught.value.messages == [b"b" * 100_000]
        assert producer.stats()[:4] == (3, 2, 1, 0)


def test_what_was_dropped_before_a_kill_is_told_after_it(address: str, spool: str) -> None:
    """A full buffer's losses have their place in the spool."""
    options = {"buffer": 100, "on_full": "drop_newest"}
    with mpsr.Producer(address, spool=spool, **options) as producer:  # type: ignore[arg-type]
        for _ in range(5):
            producer.send(bytes(60))
        assert producer.stats().lost == 4
    with mpsr.Receiver(address) as receiver, mpsr.Producer(address, spool=spool) as producer:
        assert len(receiver.receive_batch(timeout=10)) == 1
        assert receiver.receive_batch(timeout=10).lost == 4
        receiver.acknowledge()
        producer.flush(timeout=10)
        assert producer.stats()[:4] == (5, 1, 4, 0)


def test_second_producer_is_refused_and_told_who_has_it(address: str, spool: str) -> None:
    """In this process or another."""
    refused = f"import mpsr; mpsr.Producer({address!r}, spool={spool!r})"
    with mpsr.Producer(address, spool=spool):
        with pytest.raises(mpsr.JournalInUse, match="this very process"):
            mpsr.Producer(address, spool=spool)
        command = [sys.executable, "-c", refused]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} has it open" in done.stderr
    mpsr.Producer(address, spool=spool).close()


def test_receivers_journal_is_refused_as_a_spool(address: str, spool: str) -> None:
    """It is left as it was."""
    with Journal(spool) as journal:
        journal.cursor("reader")
        journal.commit()
    with pytest.raises(mpsr.NotAJournal, match="journal of a receiver"):
        mpsr.Producer(address, spool=spool)
    with Journal(spool) as journal:
        assert list(journal.cursors()) == ["reader"]


@pytest.mark.parametrize(
    "options", [{"framing": "lines"}, {"type": "dgram"}, {"on_full": "drop_oldest"}]
)
def test_setting_that_a_spool_cannot_serve_is_refused(
    address: str, spool: str, options: dict[str, str]
) -> None:
    """Nothing is made of it."""
    with pytest.raises(mpsr.ConfigurationError, match="spool="):
        mpsr.Producer(address, spool=spool, **options)  # type: ignore[arg-type]
    assert not os.path.exists(spool)
    with mpsr.Producer(address) as producer, pytest.raises(mpsr.ConfigurationError):
        producer.flush(spooled=True)


def test_forked_child_leaves_the_spool_to_its_parent(address: str, spool: str) -> None:
    """The child's producer is closed and says why; the parent's goes on."""
    with receiving(address) as received:
        with mpsr.Producer(address, spool=spool) as producer:
            producer.send(b"before")
            child = os.fork()
            if not child:
                status = 1
                try:
                    producer.send(b"child")
                except mpsr.Closed as exc:
                    status = 0 if "its spool: open another" in str(exc) else 2
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            producer.send(b"after")
    assert received == [b"before", b"after"]


def test_spool_that_fails_raises_and_gives_back_what_is_not_in_it(address: str, spool: str) -> None:
    """Of what was not committed nothing is sent."""
    with mpsr.Receiver(address) as receiver:
        producer = mpsr.Producer(address, spool=spool)
        producer.send(b"safe")
        assert receiver.receive(timeout=10) == b"safe"
        receiver.acknowledge()
        shutil.rmtree(spool)
        producer.send(b"late")
        with pytest.raises(mpsr.JournalError, match="removed or replaced"):
            producer.flush(spooled=True, timeout=10)
        with pytest.raises(mpsr.JournalError, match="removed or replaced"):
            producer.send(b"later")
        with pytest.raises(mpsr.Undelivered) as caught:
            producer.close()
        assert caught.value.messages == [b"late"]
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(timeout=0.1)


def test_full_disk_holds_senders_up_until_there_is_room(address: str, tmp_path: Path) -> None:
    """Sending waits; what was confirmed and what waited arrives, once, in order."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        producer = mpsr.Producer(address, spool=tmp_path / "worker.spool", buffer=8 << 20)
        sent = 0
        with pytest.raises(mpsr.SendTimedOut, match=r"goes on once|No space"):
            while True:
                producer.send(b"%d:%s" % (sent, bytes(10_000)), timeout=0.5)
                sent += 1
        with pytest.raises(mpsr.TimedOut, match="not in the spool"):
            producer.flush(timeout=0.2, spooled=True)
        with receiving(address) as received:
            producer.flush(timeout=30)
            producer.close()
        assert [int(message.split(b":")[0]) for message in received] == [*range(sent)]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_producer_spools_too(address: str, spool: str, backend: str) -> None:
    """Committed, cancelled, and delivered by the next."""

    async def leave() -> None:
        async with mpsr.AsyncProducer(address, spool=spool) as producer:
            await producer.send_many([b"0", b"1"])
            await producer.flush(timeout=10, spooled=True)
            await producer.send(b"2")

    async def be_cancelled() -> None:
        with anyio.CancelScope() as scope:
            async with mpsr.AsyncProducer(address, spool=spool) as producer:
                await producer.send(b"3")
                scope.cancel()
                await producer.flush()

    async def finish() -> None:
        async with mpsr.AsyncProducer(address, spool=spool) as producer:
            assert producer.stats().sent == 4
            await producer.flush(timeout=10)

    anyio.run(leave, backend=backend)
    anyio.run(be_cancelled, backend=backend)
    with receiving(address) as received:
        anyio.run(finish, backend=backend)
    assert received == [b"0", b"1", b"2", b"3"]


def test_damaged_spool_is_set_aside_and_another_begun(
    address: str, spool: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The new one has a new identity, and a warning tells where the old one is."""
    with mpsr.Producer(address, spool=spool) as first:
        first.send(b"lost")
    (segment,) = Path(spool).glob("*.mpsr")
    data = bytearray(segment.read_bytes())
    data[:64] = bytes(64)
    segment.write_bytes(data)
    with mpsr.Producer(address, spool=spool) as second:
        assert (second.id == first.id, second.stats().sent) == (False, 0)
    assert "was moved to" in caplog.text


def test_spool_gives_back_the_room_of_what_was_accepted(address: str, spool: str) -> None:
    """Once it is closed it holds no message any more."""
    with receiving(address) as received:
        with mpsr.Producer(address, spool=spool) as producer:
            producer.send_many([b"%d" % number + bytes(1000) for number in range(1000)])
            producer.flush(timeout=10)
    assert len(received) == 1000
    (segment,) = Path(spool).glob("*.mpsr")
    assert segment.stat().st_size < 100_000
    with mpsr.Producer(address, spool=spool) as producer:
        assert producer.stats().sent == 0


def test_cursor_within_a_batch_is_where_the_next_goes_on(spool: str, address: str) -> None:
    """The spool's own arithmetic: sequence numbers against positions."""
    with mpsr.Producer(address, spool=spool) as producer:
        producer.send_many([b"a", b"b", b"c"])
    store = Spool(spool, label="", most=1)
    assert (store.accepted_seq, store.next_seq, len(store.left)) == (0, 3, 1)
    store.close(2)
    store = Spool(spool, label="", most=1)
    assert (store.accepted_seq, store.next_seq) == (2, 3)
    assert store.left[0].split() == [b"a", b"b", b"c"]
    store.close(3)
    store = Spool(spool, label="", most=1)
    assert (store.accepted_seq, store.next_seq, store.left) == (3, 3, [])
    store.close(3)


def test_spool_goes_on_with_a_receiver_that_comes_back(address: str, spool: str) -> None:
    """Each message is accepted by one of two receivers, in order."""
    with mpsr.Producer(address, spool=spool) as producer:
        with receiving(address) as first:
            producer.send_many([b"%d" % number for number in range(100)])
            producer.flush(timeout=10)
        producer.send_many([b"%d" % number for number in range(100, 200)])
        producer.flush(timeout=10, spooled=True)
        with receiving(address) as second:
            producer.flush(timeout=10)
    assert first + second == [b"%d" % number for number in range(200)]
