"""A sink writes only to files that no other user can have put there, and checks them first."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import pytest

from tests.cli.conftest import Cli
from tests.sinks.conftest import OwnFunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRANGER: Final = 3000
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="requires the right to be another user")
SINKS: Final = {
    "file": "file:{}",
    "sqlite": "sqlite:{}",
    "duckdb": "duckdb:{}",
    "parquet": "parquet:{}",
    "arrow": "arrow:{}",
}


def refusal(directory: Path, sink: str) -> str:
    """Return the error of a receiver that does not start because of its sink."""
    status, _, told = Cli(directory).call("recv", "refused.sock", "--to", sink)
    assert status == 2, told
    return told


def files_in(directory: Path) -> dict[str, int]:
    """Return the mode of each regular file, without those of the receiver."""
    found = {}
    for each in directory.rglob("*"):
        name = str(each.relative_to(directory))
        if each.is_file() and not name.startswith("app."):
            found[name] = stat.S_IMODE(each.stat().st_mode)
    return found


def by(uid: int, function: Callable[[], object]) -> None:
    """Call a function as another user, in a child."""
    child = os.fork()
    if not child:
        try:
            os.setgid(uid)
            os.setuid(uid)
            function()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the status reports it
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def shared() -> Iterator[Path]:
    """Make a directory like /tmp: every user may write to it."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o1777)
        yield path


# -- permissions ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SINKS)
@pytest.mark.parametrize(("option", "mode"), [("", 0o600), ("?mode=640", 0o640)])
def test_new_files_have_the_mode_that_was_asked_for(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, scheme: str, option: str, mode: int
) -> None:
    """Whatever the umask is, even while the sink writes; a mark is always private."""
    funnel = own_funnels(SINKS[scheme].format("out/x") + option)
    (tmp_path / "out").mkdir()
    before = os.umask(0)
    try:
        funnel.start()
        funnel.send(*[b"%d" % i for i in range(100)])
        if scheme in {"sqlite", "duckdb", "file"}:  # a file of the others ends after 10 s
            funnel.await_commit()
        running = files_in(tmp_path / "out")
        funnel.end()
    finally:
        os.umask(before)
    found = {**running, **files_in(tmp_path / "out")}
    assert found
    marks = {name: each for name, each in found.items() if name.endswith(".position")}
    assert set(marks.values()) <= {0o600}
    assert {each for name, each in found.items() if name not in marks} == {mode}, found
    if scheme == "sqlite":
        assert {"x", "x-wal", "x-shm"} <= found.keys()
    if scheme == "duckdb":
        assert {"x", "x.wal"} <= found.keys()


def test_directories_of_a_data_set_are_as_private_as_its_files(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    funnel = own_funnels("parquet:a", "arrow:b?mode=640").start()
    funnel.send(b"one")
    funnel.end()
    for name, mode in (("a", 0o700), ("b", 0o750)):
        folders = [tmp_path / name, *(each for each in (tmp_path / name).rglob("*=*"))]
        assert len(folders) == 3
        assert {stat.S_IMODE(each.stat().st_mode) for each in folders} == {mode}


@pytest.mark.parametrize("text", ["8", "777", "abc", "400", "0x1", "-600"])
def test_mode_that_no_file_can_have_is_refused(tmp_path: Path, text: str) -> None:
    assert "it must be octal" in refusal(tmp_path, f"file:x?mode={text}")


# -- links and files of other users -----------------------------------------------------------


@as_root
@pytest.mark.parametrize(
    ("scheme", "beside"),
    [
        *(("file", each) for each in ("", ".position")),
        *(("sqlite", each) for each in ("", "-wal", "-shm", "-journal")),
        *(("duckdb", each) for each in ("", ".wal")),
    ],
)
def test_planted_link_overwrites_nothing(
    shared: Path, tmp_path: Path, scheme: str, beside: str
) -> None:
    """Another user has put a symbolic link where the sink, or its library, writes."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"root's own")
    secret.chmod(0o600)
    by(STRANGER, lambda: os.symlink(secret, shared / f"out{beside}"))
    told = refusal(tmp_path, SINKS[scheme].format(shared / "out"))
    assert "symbolic link" in told
    assert secret.read_bytes() == b"root's own"
    assert sorted(each.name for each in shared.iterdir()) == [f"out{beside}"]


@as_root
@pytest.mark.parametrize("scheme", ["file", "sqlite", "duckdb"])
def test_file_of_another_user_is_refused(shared: Path, tmp_path: Path, scheme: str) -> None:
    by(STRANGER, lambda: (shared / "out").touch(0o666))
    told = refusal(tmp_path, SINKS[scheme].format(shared / "out"))
    assert f"belongs to user {STRANGER}" in told


@as_root
def test_directory_that_another_user_can_exchange_leads_nowhere(
    shared: Path, tmp_path: Path
) -> None:
    """A link in place of a directory, on the way to the file."""
    private = tmp_path / "private"
    private.mkdir(0o700)
    (private / "out").write_bytes(b"root's own\n")
    by(STRANGER, lambda: os.symlink(private, shared / "logs"))
    assert "symbolic link" in refusal(tmp_path, f"file:{shared / 'logs' / 'out'}")
    assert (private / "out").read_bytes() == b"root's own\n"


@as_root
def test_own_file_in_a_shared_directory_is_continued(
    own_funnels: Callable[..., OwnFunnel], shared: Path
) -> None:
    funnel = own_funnels(f"file:{shared}/a?format=lines", f"sqlite:{shared}/b.db").start()
    for body in (b"one", b"two"):
        funnel.send(body)
        funnel.end()
        funnel.start()
    funnel.end()
    assert (shared / "a").read_bytes() == b"one\ntwo\n"
    with closing(sqlite3.connect(shared / "b.db")) as database:
        assert database.execute("SELECT count(*) FROM messages").fetchone() == (2,)


def test_link_in_an_own_directory_is_followed(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """Only this user can have put it there."""
    (tmp_path / "data").mkdir(0o700)
    (tmp_path / "a.txt").symlink_to("data/real.txt")
    funnel = own_funnels("file:a.txt?format=lines").start()
    funnel.send(b"one")
    funnel.end()
    assert (tmp_path / "data" / "real.txt").read_bytes() == b"one\n"
    assert (tmp_path / "a.txt").is_symlink()


# -- what no file can be written to -----------------------------------------------------------


@pytest.mark.parametrize("scheme", ["file", "sqlite", "duckdb"])
@pytest.mark.parametrize("kind", ["directory", "device", "FIFO", "socket"])
def test_target_that_is_no_file_is_refused_before_anything_is_created(
    tmp_path: Path, scheme: str, kind: str
) -> None:
    target = tmp_path / "out" / "x"
    target.parent.mkdir()
    if kind == "directory":
        target.mkdir()
    elif kind == "FIFO":
        os.mkfifo(target)
    elif kind == "socket":
        os.mknod(target, stat.S_IFSOCK | 0o600)
    elif os.geteuid() == 0:
        os.mknod(target, stat.S_IFCHR | 0o600, os.stat("/dev/full").st_rdev)
    else:
        pytest.skip("requires the right to create a device")
    told = refusal(tmp_path, SINKS[scheme].format(target)).splitlines()
    assert [line.lstrip().partition(":")[0] for line in told] == ["mpsr", "why", "try"]
    assert kind in told[1]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["x"]


@pytest.mark.parametrize("sink", ["file:/", "file:.", "file:x/..", "sqlite:/", "parquet:/dev/null"])
def test_target_that_never_works_is_not_tried_again(tmp_path: Path, sink: str) -> None:
    told = refusal(tmp_path, sink)
    assert "tried again" not in told
    assert "cannot write to" in told


def test_missing_directory_is_waited_for(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """It may be mounted later; the line names it, and nothing is created elsewhere."""
    funnel = own_funnels("file:mnt/logs/a.txt?format=lines").start()
    funnel.await_word(f"{tmp_path}/mnt: No such file or directory; it is tried again")
    assert not (tmp_path / "mnt").exists()
    (tmp_path / "mnt" / "logs").mkdir(parents=True)
    funnel.await_word("works again")
    funnel.send(b"one")
    funnel.end()
    assert (tmp_path / "mnt/logs/a.txt").read_bytes() == b"one\n"
