"""What a journal does on a disk that is full, or that fails."""

from __future__ import annotations

import os

import apsw
import pytest

from mpsr.errors import JournalError, JournalFull
from mpsr.journal import Journal
from mpsr.limits import KIB
from tests.journal.disk import Disk, Step
from tests.journal.entries import numbered, read_all


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
            journal.move("reader", last)
            journal.commit()  # there is always room for saying that something is done
            while journal.trim():
                pass
            assert journal.read(0) == []
        assert journal.append([numbered(last + 1, 1, 500 * KIB)]) == [last + 1]
    with Journal(small_disk) as journal:
        assert journal.set_aside is None
        assert journal.last == last + 1


def test_full_disk_leaves_room_for_nothing_half_done(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk().use(monkeypatch)
    with Journal(path) as journal:
        journal.append([numbered(1, 3)])
        full_after = len(disk.steps) + 3
        disk.fail = lambda step: (
            apsw.SQLITE_FULL if step.kind == "write" and len(disk.steps) >= full_after else None
        )
        with pytest.raises(JournalFull, match="once there is room"):
            journal.append([numbered(4, 2, 100 * KIB)])
        assert journal.last == 3
        disk.fail = lambda _: None
        assert journal.append([numbered(4, 2, 100 * KIB)]) == [5]
        assert len(read_all(journal)) == 5


@pytest.mark.parametrize("kind", ["sync", "write"])
def test_error_of_the_disk_is_final(path: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    disk = Disk().use(monkeypatch)
    code = {"sync": apsw.SQLITE_IOERR_FSYNC, "write": apsw.SQLITE_IOERR_WRITE}[kind]

    def fail(step: Step) -> int | None:
        return code if step.kind == kind else None

    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        disk.fail = fail
        with pytest.raises(JournalError, match=f"cannot append {path}"):
            journal.append([numbered(2, 1)])
        disk.fail = lambda _: None
        done = len(disk.steps)
        for use in (lambda: journal.append([]), journal.checkpoint, lambda: journal.read(0)):
            with pytest.raises(JournalError, match="it failed before"):
                use()
    assert disk.steps[done:] == []  # closing, too, touches nothing that is in doubt


def test_checkpoint_that_fails_is_final_and_confirms_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk().use(monkeypatch)
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        disk.fail = lambda step: (
            apsw.SQLITE_IOERR_FSYNC if (step.kind, step.path) == ("sync", path) else None
        )
        with pytest.raises(JournalError, match="cannot checkpoint"):
            journal.checkpoint()
        with pytest.raises(JournalError, match="it failed before"):
            journal.append([numbered(2, 1)])
    assert os.path.exists(path + "-wal")
