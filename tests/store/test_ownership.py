"""Whom a journal belongs to, and what it refuses to touch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpsr.errors import (
    JournalDenied,
    JournalError,
    JournalInUse,
    NewerJournal,
    NoJournal,
    NotAJournal,
)
from mpsr.limits import MIN_JOURNAL_LIMIT
from mpsr.store import records
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import Use
from mpsr.store.salvage import Salvage
from tests.store.entries import numbered, read_all
from tests.users import let_others_in

OPEN = """
import sys
from mpsr.errors import JournalInUse
from mpsr.store.journal import Journal
try:
    Journal(sys.argv[1])
except JournalInUse as exc:
    print(exc.pid, exc)
"""


def run(code: str, path: str) -> str:
    command = [sys.executable, "-c", code, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def files(path: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def test_second_process_is_refused_and_told_who_has_it(path: str) -> None:
    with Journal(path) as journal:
        said = run(OPEN, path)
        assert said.startswith(
            f"{os.getpid()} cannot open {path}: process {os.getpid()} has it open"
        )
        journal.append([numbered(1, 1)])
    assert run(OPEN, path) == ""


def test_second_journal_in_the_same_process_is_refused(path: str) -> None:
    with Journal(path):
        with pytest.raises(JournalInUse, match="this very process"):
            Journal(path)
    Journal(path).close()


def test_reader_needs_no_lock_and_leaves_nothing(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 2)])
        before = files(path)
        with Reader(path) as reader, Salvage(path) as salvage:
            assert len(reader.read(0)) == len(list(salvage.records())) == 1
            assert reader.recover().state.last == 2
            assert files(path) == before
            journal.append([numbered(3, 1)])
            assert [record.position for record in reader.read(2)] == [3]
    with Reader(path), Journal(path):
        pass


@pytest.mark.parametrize("what", ["directory", "segment", "another"])
def test_nothing_is_written_where_nobody_would_find_it(path: str, what: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        (segment,) = Path(path).glob("*.mpsr")
        if what == "directory":
            os.rename(path, path + ".1")
        else:
            segment.unlink()
            if what == "another":
                segment.write_bytes(b"")
        for _ in range(2):
            with pytest.raises(JournalError, match="was removed or replaced"):
                journal.append([numbered(2, 1)])


@pytest.mark.parametrize("what", ["trim", "append"])
def test_owner_of_a_moved_journal_leaves_the_one_at_its_path_alone(path: str, what: str) -> None:
    """It neither trims that one nor begins a segment in it; neither is harmed."""
    with Journal(path, limit=MIN_JOURNAL_LIMIT) as moved:
        moved.cursor("reader")
        for number in range(1, 40):
            moved.append([numbered(number, 1, 40_000)])
        moved.move("reader", moved.last)
        os.rename(path, path + ".1")
        with Journal(path, limit=MIN_JOURNAL_LIMIT) as journal:
            journal.append([numbered(1, 1)])
            before = files(path)
            with pytest.raises(JournalError, match="was removed or replaced"):
                if what == "trim":
                    moved.trim()
                else:
                    moved.append([numbered(40, 1, 400_000)])
            assert files(path) == before
            journal.append([numbered(2, 1)])


def test_link_to_a_journal_is_the_journal(path: str, tmp_path: Path) -> None:
    link = tmp_path / "link.journal"
    link.symlink_to(path)
    with Journal(path):
        with pytest.raises(JournalInUse):
            Journal(link)


def test_its_files_are_for_their_owner_only(path: str, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with Journal(path) as journal:
            journal.append([numbered(1, 1)])
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.rglob("*")}
    finally:
        os.umask(previous)
    names = ["00000000000000000001.mpsr", "lock"]
    assert modes == {"events.journal": 0o700, **dict.fromkeys(names, 0o600)}


@pytest.mark.parametrize(
    "kind", ["text", "fifo", "device", "directory", "file that is new", "segment of nobody"]
)
def test_what_is_no_journal_is_refused_and_left_as_it_was(path: str, kind: str) -> None:
    if kind == "text":
        Path(path).write_text("something that somebody needs")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.symlink("/dev/null", path)
    else:
        os.mkdir(path)
        name = {"directory": "notes", "file that is new": "config.new"}.get(kind, "1.mpsr")
        Path(path, name).write_text("something")
    for use in (Journal, Reader, Salvage):
        with pytest.raises(NotAJournal, match=r"choose another path .* was not changed"):
            use(path)
    if kind == "text":
        assert Path(path).read_text() == "something that somebody needs"
    elif not kind.startswith(("fifo", "device")):
        assert len(files(path)) == 1


def test_empty_directory_becomes_a_journal_only_if_asked(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(NotAJournal, match="empty directory"):
        Journal(path, create=False)
    with pytest.raises(NotAJournal, match="empty directory"):
        Reader(path)
    with Journal(path) as journal:
        assert journal.append([numbered(1, 1)]) == [1]


def test_what_a_later_version_wrote_is_refused_and_left_as_it_was(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "VERSION", 2)
        with Journal(path) as journal:
            journal.append([numbered(1, 1)])
    before = files(path)
    for use in (
        Journal,
        Salvage,
        lambda path: Reader(path).read(0),
        lambda path: Reader(path).recover(),
    ):
        with pytest.raises(NewerJournal, match=r"format 2, this one knows 1"):
            use(path)
    assert files(path) == {**before, "lock": b""}


def test_journal_is_no_spool_and_a_spool_no_journal(path: str) -> None:
    Journal(path).close()
    Journal(path + "2", use=Use.SPOOL).close()
    with pytest.raises(NotAJournal, match="is the journal of a receiver"):
        Journal(path, use=Use.SPOOL)
    with pytest.raises(NotAJournal, match="is the spool of a producer"):
        Journal(path + "2")
    Journal(path, use=None).close()
    Journal(path + "2", use=None).close()


def test_missing_directory_is_made_only_if_asked(path: str) -> None:
    with pytest.raises(NoJournal, match="No such file"):
        Journal(path, create=False)
    with pytest.raises(NoJournal, match="No such file"):
        Reader(path)
    assert not os.path.exists(path)
    with pytest.raises(NoJournal, match="No such file"):
        Journal(path + "/below/events.journal")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_journal_of_another_user_is_refused_and_can_be_read(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        expected = read_all(journal)
    os.chown(path, 1234, -1)
    with pytest.raises(JournalDenied, match="belongs to user 1234"):
        Journal(path)
    with Reader(path) as reader:
        assert [*reader.read(0)[0].entry.batch()] == [*expected.values()]


def test_directory_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    code = f"""
import os
from mpsr.errors import JournalError
from mpsr.store.journal import Journal
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Journal({str(tmp_path / "closed" / "events.journal")!r})
except JournalError as exc:
    print(exc)
"""
    let_others_in(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o555)
    assert "events.journal: Permission denied; change the permissions" in run(code, "")


def test_leftovers_of_a_killed_creation_do_not_matter(path: str) -> None:
    os.mkdir(path)
    for name in ("00000000000000000001.mpsr.new", "spare.new"):
        Path(path, name).write_bytes(b"half")
    with Journal(path) as journal:
        assert journal.set_aside is None
        assert sorted(files(path)) == ["00000000000000000001.mpsr", "lock"]


def test_journal_can_be_copied_while_it_is_open(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 5)])
        shutil.copytree(path, path + "2")
        with Journal(path + "2") as copy:
            assert read_all(copy) == read_all(journal)
