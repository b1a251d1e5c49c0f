"""A path holds any bytes: every command takes it, or refuses it in three lines."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

import mpsr
from mpsr.names import printable
from tests.cli.conftest import Cli
from tests.eventually import eventually
from tests.sinks.conftest import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

NAMES: Final = {
    "no UTF-8": b"x\xff",
    "newline": b"a\nb",
    "escape": b"a\x1b[31mb",
    "percent": b"a%20b",
    "space": b"a b",
    "dash": b"-a",
    "question mark": b"a?b",
    "option": b"a?mode=8",
}
MPSR: Final = (sys.executable, "-W", "error", "-m", "mpsr")
odd = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
# A command that fails with one of these fails with all of them in one name.
TOGETHER: Final = b"-a\n\x1b[31m%20 b?c"
few_odd = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=of, marks=() if of in ("no UTF-8", "option") else pytest.mark.soak)
        for of, name in (*NAMES.items(),)
    ]
    + [pytest.param(TOGETHER, id="together")],
)


class Done(NamedTuple):
    """How a command ended."""

    status: int
    stdout: bytes
    stderr: str


def run(directory: Path, *argv: str | bytes) -> Done:
    """Run a command in this process; it must end with an explained status."""
    done = Done(*Cli(directory).call(*argv))
    assert_readable(done.stderr)
    assert done.status != 1, done
    return done


def assert_readable(text: str) -> None:
    """Check that it is text without control characters or internal errors."""
    assert all(line.isprintable() for line in text.splitlines()), text
    for word in ("defect", "internal error", "Traceback", "it raised"):
        assert word not in text, text


@few_odd
def test_receiver_with_odd_paths_works(tmp_path: Path, name: bytes) -> None:
    """Its address, its journal, its sinks and its metrics; status, log and verify show them."""
    here = b"./" + name
    sinks = [b"file:", b"sqlite:", b"parquet:"]
    if name != NAMES["no UTF-8"]:
        sinks.append(b"duckdb:")
    if name == NAMES["option"]:
        sinks = []  # there it is an option, and a bad one
    to = [word for each in sinks for word in (b"--to", each + here + b"-" + each[:-1])]
    place = b"unix:" + here + b".metrics"
    told = tmp_path / "err"
    with told.open("wb") as err:
        receiver = subprocess.Popen(
            [*MPSR, "recv", here, "--journal", here + b".journal", "--metrics", place, *to],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    try:
        eventually(lambda: b"listening on" in told.read_bytes())
        assert run(tmp_path, "send", here, "hello").status == 0
        shown = json.loads(run(tmp_path, "status", here, "-o", "json").stdout)
        assert shown["addresses"] == ["./" + name.decode("utf-8", "backslashreplace")]
        text = run(tmp_path, "status", here).stdout.decode()
        assert printable(os.fsdecode(here)) in text
    finally:
        receiver.send_signal(signal.SIGTERM)
        assert receiver.wait(PATIENCE) == 0, told.read_bytes()
    assert_readable(told.read_bytes().decode())
    assert b"hello" in run(tmp_path, "log", here + b".journal").stdout
    verified = run(tmp_path, "journal", "verify", here + b".journal")
    assert verified.status == 0
    assert printable(os.fsdecode(name)).encode() in verified.stdout
    counted = run(tmp_path, "journal", "stats", here + b".journal", "--json")
    assert json.loads(counted.stdout.decode())["path"].endswith(
        shown["addresses"][0][1:] + ".journal"
    )
    salvaged = run(tmp_path, "journal", "salvage", here + b".journal", "--output", here + b".copy")
    assert salvaged.status == 0
    for each in sinks:
        assert (tmp_path / os.fsdecode(name + b"-" + each[:-1])).exists()


@odd
@pytest.mark.parametrize(
    "argv",
    [
        ("send", b"{}", "hello", "--timeout", "50ms"),
        ("send", b"nowhere", "hello", "--timeout", "50ms", "--spool", b"{}.spool"),
        ("status", b"{}"),
        ("tap", b"{}"),
        ("top", b"{}"),
        ("log", b"{}"),
        ("journal", "verify", b"{}"),
        ("journal", "trim", b"{}"),
        ("journal", "stats", b"{}"),
        ("journal", "salvage", b"{}", "--output", b"{}.copy"),
        ("systemd", b"{}", "--name", "x"),
        ("man", "--directory", b"{}.man"),
    ],
    ids=lambda argv: " ".join(str(each) for each in argv if isinstance(each, str)),
)
def test_command_with_an_odd_path_explains_itself(
    tmp_path: Path, name: bytes, argv: tuple[str | bytes, ...]
) -> None:
    """There is no receiver and no journal at the path."""
    words = [
        each.replace(b"{}", b"./" + name) if isinstance(each, bytes) else each for each in argv
    ]
    done = run(tmp_path, *words)
    if done.status:
        parts = [line.strip().partition(":")[0] for line in done.stderr.splitlines()]
        assert parts[:3] == ["mpsr", "why", "try"] or "mpsr" in parts, done


def test_database_that_takes_no_such_path_is_refused_at_the_start(tmp_path: Path) -> None:
    done = run(tmp_path, "recv", "app.sock", "--to", b"duckdb:x\xff")
    assert done.status == 2
    assert done.stderr.splitlines() == [
        f"mpsr: --to duckdb:x\\xff: cannot write to {tmp_path}/x\\xff",
        "  why: DuckDB opens only files whose names are UTF-8",
        "  try: choose another path",
    ]
    assert not (tmp_path / "app.sock").exists()


def test_status_for_systemd_is_utf8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert mpsr.systemd.status("listening on a\udcff\nMAINPID=1")
        assert manager.recv(1000) == b"STATUS=listening on a\\xff MAINPID=1"


def test_pages_and_units_replace_no_planted_link(tmp_path: Path) -> None:
    """In a directory to which another user may write."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    target = tmp_path / "target"
    target.write_text("kept")
    (shared / "mpsr.1").symlink_to(target)
    (shared / "x.socket").symlink_to(target)
    done = run(tmp_path, "man", "--directory", "shared")
    assert done.status == 78
    assert "symbolic link" in done.stderr
    assert run(tmp_path, "systemd", "x.sock", "--directory", "shared").status != 0
    assert target.read_text() == "kept"
    (shared / "mpsr.1").unlink()
    assert run(tmp_path, "man", "--directory", "shared").status == 0
    assert stat.S_IMODE((shared / "mpsr.1").stat().st_mode) == 0o644
