"""Files that mpsr writes are this user's own, and other users cannot exchange them."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

import mpsr
from mpsr.system import outputs

if TYPE_CHECKING:
    from pathlib import Path

STRANGER: Final = 3000


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Make a directory to which other users may write."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o777)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_new_file_has_exactly_the_mode(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        file, new = outputs.open_file(str(tmp_path / "a"), mode=mode)
        os.close(file)
        os.close(outputs.create(str(tmp_path / "b"), mode))
        os.close(outputs.hold(str(tmp_path / "c"), mode)[0])
        outputs.put(str(tmp_path / "d"), b"content", mode)
    finally:
        os.umask(before)
    assert new
    assert {mode_of(tmp_path / name) for name in "abcd"} == {mode}
    assert not outputs.open_file(str(tmp_path / "a"))[1]
    assert (tmp_path / "d").read_bytes() == b"content"


def test_new_file_is_private_until_it_is_widened(tmp_path: Path) -> None:
    """The kernel is asked for 0600, with O_EXCL."""
    program = (
        "import os; os.umask(0)\n"
        "from mpsr.system import outputs\n"
        f"outputs.open_file({str(tmp_path / 'a')!r}, mode=0o644)\n"
    )
    command = ["strace", "-f", "-e", "trace=openat,fchmod", sys.executable, "-c", program]
    try:
        calls = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    except FileNotFoundError:
        pytest.skip("requires strace")
    (created,) = [line for line in calls.splitlines() if "O_EXCL" in line]
    assert ", 0600)" in created


@pytest.mark.parametrize("opened", ["open_file", "hold", "put", "open_existing"])
def test_link_in_a_shared_directory_is_refused(shared: Path, tmp_path: Path, opened: str) -> None:
    """At the end of the path, and on the way; a dangling one creates nothing."""
    (tmp_path / "target").write_bytes(b"kept")
    (shared / "end").symlink_to(tmp_path / "target")
    (shared / "dangling").symlink_to(tmp_path / "new")
    (shared / "way").symlink_to(tmp_path)
    more = (b"overwritten",) if opened == "put" else ()
    for name in ("end", "dangling", "way/target"):
        with pytest.raises(mpsr.ConfigurationError, match="is a symbolic link"):
            getattr(outputs, opened)(str(shared / name), *more)
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert not (tmp_path / "new").exists()


def test_file_with_a_second_name_is_refused_in_a_shared_directory(
    shared: Path, tmp_path: Path
) -> None:
    """It may be a hard link to any file of this user; where only this user writes, it is none."""
    (tmp_path / "file").touch()
    os.link(tmp_path / "file", shared / "link")
    with pytest.raises(mpsr.ConfigurationError, match="has 2 names"):
        outputs.open_file(str(shared / "link"))
    os.close(outputs.open_file(str(tmp_path / "file"))[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="requires the right to give a file away")
def test_directory_of_another_user_is_a_shared_one(tmp_path: Path) -> None:
    """Also below a sticky one, and however deep: its owner may exchange what is in it."""
    inner = tmp_path / "theirs" / "inner"
    inner.mkdir(parents=True)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    (tmp_path / "target").touch()
    (inner / "link").symlink_to(tmp_path / "target")
    with pytest.raises(mpsr.ConfigurationError, match="is a symbolic link"):
        outputs.open_file(str(inner / "link"))
    (inner / "file").touch()
    os.chown(inner / "file", STRANGER, STRANGER)
    with pytest.raises(mpsr.ConfigurationError, match=f"belongs to user {STRANGER}"):
        outputs.open_file(str(inner / "file"))
    os.close(outputs.open_file(str(inner / "new"))[0])


def test_links_are_followed_where_only_this_user_writes(tmp_path: Path) -> None:
    """Relative and absolute ones, on the way and at the end; a loop ends."""
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "real" / "end").symlink_to(tmp_path / "real" / "." / ".." / "file")
    (tmp_path / "loop").symlink_to("loop")
    outputs.put(str(tmp_path / "way" / "end"), b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert (tmp_path / "real" / "end").is_symlink()
    with pytest.raises(OSError, match="symbolic links"):
        outputs.open_file(str(tmp_path / "loop"))


def test_holding_a_file_releases_no_lock_of_a_library(tmp_path: Path) -> None:
    """A close of any other descriptor would release the process's POSIX locks."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.close(outputs.hold(str(path))[0])
        other = (
            "import fcntl, sys\n"
            "try: fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "except OSError: sys.exit(9)\n"
        )
        assert subprocess.run([sys.executable, "-c", other, path], check=False).returncode == 9


def test_journal_is_not_reached_through_a_link_of_another_user(
    shared: Path, tmp_path: Path
) -> None:
    """Nor a spool."""
    (shared / "journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(mpsr.JournalDenied, match="is a symbolic link"):
        mpsr.Receiver(tmp_path / "s", journal=shared / "journal")
    with pytest.raises(mpsr.JournalDenied, match="is a symbolic link"):
        mpsr.Producer(tmp_path / "s", spool=shared / "journal" / "spool")
    assert not (tmp_path / "elsewhere").exists()
