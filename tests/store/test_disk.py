"""What a journal does on a disk that is full, that fails, or that cannot be written."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpsr.errors import JournalDenied, JournalError, JournalFull
from mpsr.limits import KIB, MIB
from mpsr.store.files import _fill
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.salvage import Salvage
from tests.store.disk import Disk, Step
from tests.store.entries import body, numbered, read_all

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk().use(monkeypatch)


def once(kind: str, code: int) -> Callable[[Step], int | None]:
    """Fail the next step of a kind, and no other."""
    left = [code]
    return lambda step: left.pop() if step.kind == kind and left else None


def test_full_disk_refuses_whole_appends_until_there_is_room(small_disk: str) -> None:
    with Journal(small_disk) as journal:
        journal.cursor("reader")
        last = 0
        for _ in range(3):
            with pytest.raises(JournalFull, match=r"No space left|full"):
                while True:
                    entries = [numbered(last + 1, 1, 60 * KIB), numbered(last + 2, 1)]
                    last = journal.append(entries)[-1]
            assert journal.last == last
            found = read_all(journal)
            assert list(found) == [*range(journal.trimmed + 1, last + 1)]
            for position in found:  # there is room for saying that something is done
                journal.move("reader", position)
                journal.commit()
            while journal.trim():
                pass
            assert read_all(journal) == {}
        assert journal.append([numbered(last + 1, 1, 500 * KIB)]) == [last + 1]
    with Journal(small_disk) as journal:
        assert journal.set_aside is None
        assert journal.last == last + 1


def test_disk_filled_by_others_refuses_appends_and_keeps_cursors(small_disk: str) -> None:
    with Journal(small_disk) as journal:
        journal.append([numbered(n, 1, 50 * KIB) for n in range(1, 6)])
        with pytest.raises(OSError, match="No space"):
            Path(small_disk).with_name("filler").write_bytes(bytes(5 * MIB))
        with pytest.raises(JournalFull, match="No space left"):
            journal.append([numbered(n, 1, 200 * KIB) for n in range(6, 12)])
        journal.move("reader", 4)
    Path(small_disk).with_name("filler").unlink()
    with Journal(small_disk) as journal:
        assert (journal.last, journal.cursors()) == (5, {"reader": 4})
        assert journal.append([numbered(6, 1, 200 * KIB)]) == [6]
        assert len(read_all(journal)) == 6


@pytest.mark.parametrize("kind", ["extend", "create", "write"])
def test_full_disk_leaves_nothing_half_done(path: str, disk: Disk, kind: str) -> None:
    with Journal(path, limit=4 * MIB) as journal:
        last = journal.append([numbered(1, 3)])[-1]
        disk.fail = lambda step: errno.ENOSPC if step.kind == kind else None
        with pytest.raises(JournalFull, match="make room on its disk"):
            while True:
                last = journal.append([numbered(last + 1, 2, 100 * KIB)])[-1]
        assert journal.last == last
        disk.fail = lambda _: None
        assert journal.append([numbered(last + 1, 1, 90 * KIB)]) == [last + 1]
        assert len(read_all(journal)) == last + 1
    with Journal(path, limit=4 * MIB) as journal:
        assert (journal.set_aside, len(read_all(journal))) == (None, last + 1)


@pytest.mark.parametrize("kind", ["sync", "write"])
@pytest.mark.parametrize("skipped", range(3))
def test_error_of_the_disk_is_final(path: str, disk: Disk, kind: str, skipped: int) -> None:
    """Also where the next sync would succeed: then the disk may lack what the first one wrote."""
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        for _ in range(skipped):
            journal.append([numbered(journal.last + 1, 1)])
        last = journal.last
        disk.fail = once(kind, errno.EIO)
        with pytest.raises(JournalError, match=f"{path}: Input/output error"):
            journal.append([numbered(last + 1, 1)])
        done = len(disk.steps)
        for use in (lambda: journal.append([]), journal.trim):
            with pytest.raises(JournalError, match="it failed before"):
                use()
        assert journal.last == last
    assert disk.steps[done:] == []  # closing, too, touches nothing that is in doubt


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_journal_can_be_opened_again_after_a_failed_sync(path: str, disk: Disk, code: int) -> None:
    failed = Journal(path)
    failed.append([numbered(1, 1)])
    disk.fail = once("sync", code)
    with pytest.raises(JournalError, match="nothing more is written") as caught:
        failed.append([numbered(2, 1)])
    assert type(caught.value) is JournalError  # no promise that it goes on
    before = len(disk.steps)
    with Journal(path) as journal:  # in the same process; the other one is still there
        assert journal.last in {1, 2}
        rewritten = [step.kind for step in disk.steps[before:]]
        assert rewritten[:2] == ["write", "sync"]  # the disk may lack what the system shows
        assert journal.append([numbered(journal.last + 1, 1)]) == [journal.last]
        assert len(read_all(journal)) == journal.last
    failed.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("kind", ["sync", "write", "rename", "sync names", "remove"])
def test_any_step_may_fail_and_nothing_confirmed_is_lost(
    path: str, disk: Disk, kind: str, code: int
) -> None:
    """What is not confirmed may be there, but only once, if it is appended again."""
    last = cursor = 0
    for nth in range(1, 25):
        left = nth

        def fail(step: Step) -> int | None:
            nonlocal left
            left -= step.kind == kind
            return code if step.kind == kind and left <= 0 else None

        disk.fail = lambda _: None
        with Journal(path, limit=2 * MIB) as journal:
            assert journal.set_aside is None
            assert journal.last >= last
            assert journal.cursors().get("reader", 0) >= cursor
            found = read_all(journal)
            assert found == {
                n: body(n, 100 * KIB) for n in range(journal.trimmed + 1, journal.last + 1)
            }
            disk.fail = fail
            last, cursor = journal.last, journal.cursor("reader")
            full = 0
            while full < 3:
                moved = max(cursor, last - 3)
                journal.move("reader", moved)
                try:
                    last = journal.append([numbered(last + 1, 1, 100 * KIB)])[-1]
                    cursor = moved
                except JournalFull:
                    # If the oldest segment cannot be removed, there is no room until it can.
                    assert code == errno.ENOSPC or kind == "remove"
                    full += 1
                except JournalError:
                    break
            disk.fail = lambda _: None


def test_disk_that_became_read_only_is_one_clear_error(path: str, disk: Disk) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        disk.fail = lambda _: errno.EROFS
        with pytest.raises(JournalDenied, match=f"cannot append to {path}: Read-only file system"):
            journal.append([numbered(2, 1)])
    disk.fail = lambda _: None
    with Journal(path) as journal:
        assert journal.last in {1, 2}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_journal_on_a_read_only_file_system_can_be_read(small_disk: str) -> None:
    with Journal(small_disk) as journal:
        journal.append([numbered(1, 5)])
        expected = read_all(journal)
    mounted = os.path.dirname(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with Reader(small_disk) as reader, Salvage(small_disk) as salvage:
        for records in (reader.read(0), list(salvage.records())):
            assert [message for each in records for message in each.entry.batch()] == [
                *expected.values()
            ]
        assert reader.recover().state.last == salvage.state.last == 5
    with pytest.raises(JournalDenied, match="Read-only file system"):
        Journal(small_disk)


# What musl does where the file system cannot set room aside, and what a sandbox does.
REFUSE = """
#include <errno.h>
int posix_fallocate(int file, long offset, long size) { return %s; }
int posix_fallocate64(int file, long offset, long size) { return %s; }
"""
APPEND = """
import os, sys
from mpsr.store import files
from mpsr.store.files import _fill
from mpsr.store.journal import Journal
from tests.store.entries import numbered
try:
    os.posix_fallocate(os.open(".", os.O_TMPFILE | os.O_RDWR), 0, 1)
except OSError:
    with Journal(sys.argv[1], limit=4 << 20) as journal:
        for number in range(1, 101):
            journal.append([numbered(number, 1, 10_000)])
"""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("code", ["EOPNOTSUPP", "EPERM"])
def test_journal_sets_room_aside_without_fallocate(path: str, tmp_path: Path, code: str) -> None:
    """It writes zeros: what is appended later finds room, and is read."""
    (tmp_path / "refuse.c").write_text(REFUSE % (code, code))
    library = tmp_path / "refuse.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "refuse.c"], check=True)
    subprocess.run(
        [sys.executable, "-c", APPEND, path],
        check=True,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )
    with Journal(path) as journal:
        assert journal.last == 100
        assert list(read_all(journal)) == [*range(1, 101)]


def test_room_that_cannot_be_filled_is_given_back(tmp_path: Path) -> None:
    """A disk that is full keeps no zeros."""
    with (tmp_path / "segment").open("w+b") as segment:
        segment.write(b"x" * 1000)
        segment.flush()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300 * KIB, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                _fill(segment.fileno(), MIB)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.fstat(segment.fileno()).st_size == 1000
        _fill(segment.fileno(), 20_000)
        assert segment.seek(0) == 0
        assert segment.read() == b"x" * 1000 + bytes(19_000)
