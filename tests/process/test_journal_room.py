"""What a receiver does while its journal, or the disk, is full; and when the disk fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw
import pytest

import mpsr
from mpsr.journal import Journal
from mpsr.limits import MIB
from tests.journal.disk import Disk, Step
from tests.process import roles
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.process.workers import Start, Worker

SIZE: Final = 10_000  # bytes of a message
STILL: Final = 0.5  # seconds: so long nothing moves


class Usage:
    """Looks what a journal takes of the disk, again and again."""

    def __init__(self, journal: str) -> None:
        self._files = Path(journal), Path(f"{journal}-wal")
        self.most = self.most_log = 0

    def look(self) -> tuple[int, int]:
        sizes = []
        for file in self._files:
            try:
                found = file.stat()
            except FileNotFoundError:
                sizes.append(0)
            else:
                sizes.append(max(found.st_size, found.st_blocks * 512))
        self.most = max(self.most, sum(sizes))
        self.most_log = max(self.most_log, sizes[1])
        return sizes[0], sizes[1]

    def watch(self, over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not over():
            assert time.monotonic() < deadline
            self.look()
            time.sleep(0.002)

    def watch_until_still(self, workers: Iterable[Worker]) -> None:
        """Return once nobody has done a thing for a while."""
        seen: list[float] = []
        since = 0.0

        def is_still() -> bool:
            nonlocal seen, since
            times = [worker.cpu_time() for worker in workers]
            if times != seen:
                seen, since = times, time.monotonic()
            return time.monotonic() - since > STILL

        self.watch(is_still)


def is_waiting(worker: Worker) -> bool:
    return worker.process.poll() is None


def end(receiver: Worker, senders: list[Worker], usage: Usage) -> tuple[list[int], list[int]]:
    """Have all received; return what the senders sent, and what came of it."""
    receiver.tell("go on")
    usage.watch(lambda: not any(map(is_waiting, senders)))
    sent = []
    for sender in senders:
        stats = sender.hear()
        assert sender.wait() == 0
        assert (stats["accepted"], stats["lost"]) == (stats["sent"], 0)
        sent.append(stats["sent"])
    receiver.process.terminate()
    received = receiver.hear()
    assert receiver.wait() == 0
    return sorted(sent), received


def test_journal_keeps_its_limit_while_nobody_reads_it(
    start: Start, address: str, tmp_path: Path
) -> None:
    """Three times the limit comes: the disk holds no more than the limit, and the senders wait."""
    journal = str(tmp_path / "events.db")
    limit = 8 * MIB
    usage = Usage(journal)
    receiver = start(roles.receive_on_word, address, journal, journal_limit=limit)
    assert receiver.hear() == "ready"
    messages = limit // SIZE
    senders = [start(roles.send, address, messages, size=SIZE, buffer=MIB) for _ in range(3)]
    usage.watch_until_still(senders)
    assert usage.most > limit / 2
    assert all(map(is_waiting, senders))
    sent, received = end(receiver, senders, usage)
    assert sent == received == [messages] * 3
    print(f"most on disk {usage.most}, of it in the log {usage.most_log}")  # noqa: T201
    assert usage.most <= 1.1 * limit
    assert usage.most_log < 64 * MIB


def test_full_disk_makes_senders_wait_until_there_is_room(
    start: Start, address: str, small_disk: str
) -> None:
    """What does not fit waits with its senders; nothing is lost or damaged by it."""
    usage = Usage(small_disk)
    filler = Path(small_disk).with_name("filler")
    filler.write_bytes(bytes(2 * MIB))
    receiver = start(roles.receive_on_word, address, small_disk, journal_limit=64 * MIB)
    assert receiver.hear() == "ready"
    messages = 6 * MIB // SIZE
    senders = [start(roles.send, address, messages, size=SIZE, buffer=MIB) for _ in range(2)]
    usage.watch_until_still(senders)
    full = usage.most
    assert MIB < full <= 2 * MIB
    assert all(map(is_waiting, senders))
    filler.unlink()
    usage.watch(lambda: sum(usage.look()) > full)
    usage.watch_until_still(senders)
    assert all(map(is_waiting, senders))
    sent, received = end(receiver, senders, usage)
    assert sent == received == [messages] * 2
    with Journal(small_disk) as journal:
        assert journal.set_aside is None
        assert journal.last == journal.cursor("main") == 2 * messages


def failing_after(word: bytes, disk: Disk) -> Callable[[Step], int | None]:
    """Fail to sync whatever is written from this word on."""
    failing = False

    def fail(step: Step) -> int | None:
        nonlocal failing
        failing = failing or word in step.data
        return apsw.SQLITE_IOERR_FSYNC if failing and step.kind == "sync" else None

    disk.fail = fail
    return fail


def test_disk_that_cannot_sync_acknowledges_nothing_more(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is handed out, then JournalError ends the iteration."""
    disk = Disk().use(monkeypatch)
    failing_after(b"second", disk)
    came: list[bytes] = []
    producer: mpsr.Producer = mpsr.Producer(address)
    with mpsr.Receiver(address, journal=tmp_path / "events.db") as receiver:
        producer.send(b"first")
        producer.flush(PATIENCE)
        producer.send(b"second")
        batches = receiver.batches()
        with pytest.raises(mpsr.JournalError, match=f"cannot append {tmp_path}/events.db: "):
            for batch in batches:
                came += batch
        assert list(batches) == []
        with pytest.raises(mpsr.TimedOut):
            producer.flush(0.1)
        assert producer.stats().accepted == 1
    assert came == [b"first"]
    with pytest.raises(mpsr.Undelivered) as undelivered:
        producer.close(0)
    assert undelivered.value.count == 1


RECV = """
import sys
import pytest
from mpsr.cli import main
from tests.journal.disk import Disk
from tests.process.test_journal_room import failing_after

failing_after(b"second", Disk().use(pytest.MonkeyPatch()))
main()
"""


def test_command_ends_with_one_line_if_the_disk_cannot_sync(address: str, tmp_path: Path) -> None:
    """Status 74, no traceback; what was not synced is not acknowledged, nor printed."""
    journal = str(tmp_path / "events.db")
    root = str(Path(__file__).parents[2])
    with (
        subprocess.Popen(
            [sys.executable, "-c", RECV, "recv", "-q", address, "--journal", journal],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
            text=True,
        ) as command,
        closing(mpsr.Producer[bytes](address)) as producer,
    ):
        producer.send(b"first")
        producer.flush(PATIENCE)
        producer.send(b"second")
        out, told = command.communicate(timeout=PATIENCE)
        assert (command.returncode, out) == (74, "first\n")
        assert told.startswith(f"mpsr: cannot append {journal}: ")
        assert len(told.splitlines()) == 1
        assert producer.stats().accepted == 1
        with mpsr.Receiver(address, journal=journal) as receiver:
            producer.flush(PATIENCE)
            receiver.stop()
            assert list(receiver) == [b"second"]
