"""What a receiver does while its journal, or the disk, is full; and when the disk fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import mpsr
from mpsr.limits import MIB
from mpsr.store import files
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from tests.eventually import eventually
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
        self._journal = Path(journal)
        self.most = 0

    def look(self) -> int:
        taken = 0
        for file in [self._journal, *self._journal.glob("*")]:
            with suppress(FileNotFoundError):
                taken += file.stat().st_blocks * 512
        self.most = max(self.most, taken)
        return taken

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
    journal = str(tmp_path / "events.journal")
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
    print(f"most on disk {usage.most}")  # noqa: T201
    assert usage.most <= limit


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
    usage.watch(lambda: usage.look() > full)
    usage.watch_until_still(senders)
    assert all(map(is_waiting, senders))
    sent, received = end(receiver, senders, usage)
    assert sent == received == [messages] * 2
    with Journal(small_disk) as journal:
        assert journal.set_aside is None
        assert journal.last == journal.cursor("main") == 2 * messages


def fail_after(word: bytes, patch: pytest.MonkeyPatch) -> None:
    """Fail to sync once, when this word was written; the syncs behind it succeed."""
    state = "good"

    def write(file: int, buffers: Iterable[Any], offset: int) -> int:
        nonlocal state
        buffers = list(buffers)
        if state == "good" and any(word in bytes(buffer) for buffer in buffers):
            state = "failing"
        return written(file, buffers, offset)

    def sync(file: int) -> None:
        nonlocal state
        if state == "failing":
            state = "failed"
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced(file)

    written, synced = files.write, files.sync
    patch.setattr(files, "write", write)
    patch.setattr(files, "sync", sync)


def test_disk_that_cannot_sync_acknowledges_nothing_more(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is handed out, then JournalError ends the iteration."""
    fail_after(b"second", monkeypatch)
    came: list[bytes] = []
    producer: mpsr.Producer = mpsr.Producer(address)
    with mpsr.Receiver(address, journal=tmp_path / "events.journal") as receiver:
        producer.send(b"first")
        producer.flush(PATIENCE)
        producer.send(b"second")
        batches = receiver.batches()
        with pytest.raises(mpsr.JournalError, match=f"cannot sync {tmp_path}/events.journal: "):
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
from tests.process.test_journal_room import fail_after

fail_after(b"second", pytest.MonkeyPatch())
main()
"""


def test_command_ends_with_one_line_if_the_disk_cannot_sync(address: str, tmp_path: Path) -> None:
    """Status 74, no traceback; a message that was not synced is neither acknowledged nor printed.

    The cursor is on the disk before the failure; otherwise the first message would be redelivered.
    """
    journal = str(tmp_path / "events.journal")
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
        with Reader(journal) as reader:
            eventually(lambda: reader.recover().state.cursors.get("main") == 1)
        producer.send(b"second")
        out, told = command.communicate(timeout=PATIENCE)
        assert (command.returncode, out) == (74, "first\n")
        assert told.startswith(f"mpsr: cannot sync {journal}\n  why: ")
        assert len(told.splitlines()) == 3
        assert producer.stats().accepted == 1
        with mpsr.Receiver(address, journal=journal) as receiver:
            producer.flush(PATIENCE)
            receiver.stop()
            assert list(receiver) == [b"second"]
