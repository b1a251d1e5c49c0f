"""Whom a journal belongs to, and what it refuses to touch."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mpsr import journal as module
from mpsr.errors import JournalError, JournalInUse, NewerJournal, NotAJournal
from mpsr.journal import Journal
from tests.journal.entries import numbered, read_all

OPEN = """
import sys
from mpsr.errors import JournalInUse
from mpsr.journal import Journal
try:
    Journal(sys.argv[1])
except JournalInUse as exc:
    print(exc.pid, exc)
"""
READ = """
import sys
from mpsr.journal import Journal
with Journal(sys.argv[1]) as journal:
    print([message for record in journal.read(0) for message in record.entry.batch()])
"""
LOOK = """
import sqlite3, sys
try:
    connection = sqlite3.connect(sys.argv[1], timeout=0)
    connection.execute("SELECT * FROM sqlite_schema").fetchall()
    connection.close()
except sqlite3.OperationalError as exc:
    print(exc)
"""


def run(code: str, path: str) -> str:
    command = [sys.executable, "-c", code, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_second_process_is_refused_and_told_who_has_it(path: str) -> None:
    with Journal(path):
        said = run(OPEN, path)
    assert said.startswith(f"{os.getpid()} cannot open {path}: process {os.getpid()} has it open")


def test_second_process_is_refused_after_somebody_looked_at_the_file(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        assert run(LOOK, path) == "database is locked"
        assert str(os.getpid()) in run(OPEN, path)
        journal.append([numbered(2, 1)])
        assert len(read_all(journal)) == 2


def test_second_process_is_refused_though_sqlites_own_locks_are_gone(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        with open(path, "rb"):
            pass  # closing any descriptor drops the locks that this process holds on the file
        assert str(os.getpid()) in run(OPEN, path)
        assert run(LOOK, path) == ""  # and this, as it believes to be alone, removes the log
        with pytest.raises(JournalError, match="was removed or replaced"):
            journal.append([numbered(2, 1)])
    assert run(READ, path) == "[b'1:']"


def test_nothing_is_written_to_a_file_that_was_removed(path: str) -> None:
    with Journal(path) as journal:
        os.unlink(path)
        for _ in range(2):
            with pytest.raises(JournalError, match="was removed or replaced"):
                journal.append([numbered(1, 1)])


def test_second_journal_in_the_same_process_is_refused(path: str) -> None:
    with Journal(path):
        with pytest.raises(JournalInUse, match="this very process"):
            Journal(path)
    Journal(path).close()


def test_link_to_a_journal_is_the_journal(path: str, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with Journal(path):
        with pytest.raises(JournalInUse):
            Journal(link)
    os.link(path, tmp_path / "second.db")
    with pytest.raises(NotAJournal, match="several names"):
        Journal(path)


def test_file_that_another_program_has_open_is_refused(path: str) -> None:
    Journal(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM state").fetchall()
    with pytest.raises(JournalInUse, match="another program has it open"):
        Journal(path)
    other.close()
    Journal(path).close()


def test_its_files_are_for_their_owner_only(path: str, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with Journal(path) as journal:
            journal.append([numbered(1, 1)])
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        os.umask(previous)
    names = ["events.db", "events.db-wal", "events.db.lock"]
    assert modes == dict.fromkeys(names, 0o600)


def test_every_setting_of_sqlite_is_read_back(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(path).close()
    for name, (value, _) in module._PRAGMAS.items():
        with monkeypatch.context() as patch:
            patch.setitem(module._PRAGMAS, name, (value, ("something else",)))
            with pytest.raises(JournalError, match=f"SQLite keeps {name}="):
                Journal(path)
        Path(path).rename(path + name)  # whoever fails so keeps the file, unclosed
        with Journal(path) as journal:
            assert journal._pragma("synchronous") == 2


def other_database(path: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()


@pytest.mark.parametrize("kind", ["database", "text", "directory", "fifo"])
def test_what_is_no_journal_is_refused_and_left_as_it_was(path: str, kind: str) -> None:
    if kind == "database":
        other_database(path)
    elif kind == "text":
        Path(path).write_text("something that somebody needs " * 20)
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.mkfifo(path)
    before = Path(path).read_bytes() if kind in {"database", "text"} else b""
    with pytest.raises(NotAJournal, match=re.escape(f"cannot open {path}: it is no")):
        Journal(path)
    if before:
        assert Path(path).read_bytes() == before


def test_what_a_later_version_wrote_is_refused_and_left_as_it_was(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_VERSION", 2)
        Journal(path).close()
    before = Path(path).read_bytes()
    with pytest.raises(NewerJournal, match=r"format 2, this one knows 1"):
        Journal(path)
    assert Path(path).read_bytes() == before


def test_missing_file_is_made_only_if_asked(path: str) -> None:
    with pytest.raises(JournalError, match="No such file"):
        Journal(path, create=False)
    assert not os.path.exists(path)
    with pytest.raises(JournalError, match="No such file"):
        Journal(path + "/below/events.db")


def test_directory_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    code = f"""
import os
from mpsr.errors import JournalError
from mpsr.journal import Journal
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Journal({str(tmp_path / "closed" / "events.db")!r})
except JournalError as exc:
    print(exc)
"""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o555)
    assert run(code, "").endswith("events.db: Permission denied")


def test_leftovers_of_a_killed_creation_do_not_matter(path: str) -> None:
    for suffix in ("", "-journal"):
        Path(path + ".new" + suffix).write_bytes(b"half")
    with Journal(path) as journal:
        assert journal.set_aside is None
    assert not os.path.exists(path + ".new")
