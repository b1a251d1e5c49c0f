"""A sink notices that its output was moved, removed, replaced or cut, and reports it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING
from zlib import crc32

import duckdb
import pyarrow.parquet as pq
import pytest

import mpsr
from mpsr.limits import MIB
from mpsr.sinks import mark
from tests.eventually import eventually
from tests.sinks.conftest import Funnel, OwnFunnel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = {"file": "out?format=lines", "sqlite": "out", "duckdb": "out", "parquet": "out?every=50ms"}
every_sink = pytest.mark.parametrize("scheme", NAMES)


def content(path: Path, scheme: str) -> list[bytes]:
    """Return the messages in an output, in order."""
    query = "SELECT body FROM messages ORDER BY position"
    if scheme == "file":
        return path.read_bytes().splitlines()
    if scheme == "sqlite":
        with closing(sqlite3.connect(path)) as database:
            return [body for (body,) in database.execute(query)]
    if scheme == "duckdb":
        with duckdb.connect(str(path)) as other:
            return [bytes(body) for (body,) in other.execute(query).fetchall()]
    tables = [pq.read_table(each, partitioning=None) for each in path.rglob("*.parquet")]
    rows = [row for table in tables for row in table.select(["position", "body"]).to_pylist()]
    return [row["body"] for row in sorted(rows, key=lambda row: row["position"])]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def call(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)


@every_sink
def test_removed_output_is_written_again_from_the_journal(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, scheme: str
) -> None:
    """All that the journal has, and one line reports it."""
    funnel = own_funnels(f"{scheme}:{NAMES[scheme]}").start()
    funnel.deliver(b"one", b"two")
    remove(tmp_path / "out")
    funnel.deliver(b"three")
    funnel.end()
    assert content(tmp_path / "out", scheme) == [b"one", b"two", b"three"]
    told = [line for line in funnel.told.splitlines() if " was removed: " in line]
    assert len(told) == 1, funnel.told
    assert f"{scheme}:out: {tmp_path}/out was removed: a new" in told[0]
    assert "works again" not in funnel.told


@every_sink
def test_moved_output_keeps_its_messages(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, scheme: str
) -> None:
    """A new one begins after them; nothing is written twice."""
    funnel = own_funnels(f"{scheme}:{NAMES[scheme]}").start()
    funnel.deliver(b"one", b"two")
    (tmp_path / "out").rename(tmp_path / "old")
    funnel.deliver(b"three")
    funnel.deliver(b"four")
    funnel.end()
    found = content(tmp_path / "old", scheme) + content(tmp_path / "out", scheme)
    assert found == [b"one", b"two", b"three", b"four"]
    assert funnel.told.count("was moved away: a new") == 1, funnel.told


@pytest.mark.parametrize("scheme", ["file", "sqlite", "duckdb"])
def test_removal_without_a_journal_loses_no_later_message(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, scheme: str
) -> None:
    """The messages in the removed file are acknowledged; the line reports that they are lost."""
    funnel = own_funnels(f"{scheme}:{NAMES[scheme]}", journal=False).start()
    funnel.send(b"one")
    eventually(lambda: (tmp_path / "out").stat().st_size > 0)
    remove(tmp_path / "out")
    funnel.send(b"two")
    funnel.end()
    assert content(tmp_path / "out", scheme)[-1:] == [b"two"]
    assert "was removed: a new" in funnel.told


def test_messages_that_the_journal_lacks_are_counted(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """The segments before the cursor are trimmed; the new file has the remainder."""
    funnel = own_funnels("file:out?format=lines").start(journal_limit=2 * MIB)
    for number in range(20):
        funnel.deliver(*[b"%d %d %s" % (number, i, b"x" * 1000) for i in range(200)])
    (tmp_path / "out").unlink()
    funnel.deliver(b"last")
    funnel.end()
    have = len(content(tmp_path / "out", "file"))
    assert 1 < have < 4001
    assert f"{4001 - have} messages that it has not had are gone" in funnel.told


def test_file_with_other_content_is_continued_and_reported(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """The line names the positions that it lacks."""
    funnel = own_funnels("file:out?format=lines").start()
    funnel.deliver(b"one", b"two")
    (tmp_path / "new").write_bytes(b"other\n")
    (tmp_path / "new").rename(tmp_path / "out")
    funnel.deliver(b"three")
    funnel.end()
    assert content(tmp_path / "out", "file") == [b"other", b"three"]
    assert "lacks the messages from position 1 to 2 that were written to it" in funnel.told


def test_emptied_file_is_continued_and_reported(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """As copytruncate of logrotate leaves it; copied messages are not written again."""
    funnel = funnels("file:out?format=lines").start()
    funnel.deliver(b"one", b"two")
    os.truncate(tmp_path / "out", 0)
    funnel.deliver(b"three")
    funnel.kill()
    funnel.start()
    funnel.deliver(b"four")
    assert funnel.end() == 0
    assert content(tmp_path / "out", "file") == [b"three", b"four"]
    assert funnel.told.count("it was cut from 8 bytes to 0") == 1


@pytest.mark.parametrize("form", ["lines", "json", "length", "raw"])
def test_file_that_was_cut_in_a_record_is_moved_away(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, form: str
) -> None:
    """While the sink is stopped; no record begins in the middle of another."""
    funnel = own_funnels(f"file:out?format={form}").start()
    funnel.send(b"one", b"two")
    funnel.end()
    size = (tmp_path / "out").stat().st_size
    os.truncate(tmp_path / "out", size - 2)
    funnel.start()
    funnel.send(b"four")
    funnel.end()
    written = (tmp_path / "out").read_bytes()
    if form == "json":
        written = json.loads(written)["body"].encode()
    assert written.removeprefix(b"\0\0\0\4").rstrip() == b"four"
    (aside,) = tmp_path.glob("out.2*")
    assert aside.stat().st_size == size - 2
    assert f"it was cut from {size} bytes to {size - 2}" in funnel.told
    assert f"it was moved to {aside}" in funnel.told


def test_file_missing_at_the_start_is_reported(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """It may have been moved while the sink was stopped, so that nothing is written again."""
    funnel = own_funnels("file:out?format=lines").start()
    funnel.send(b"one")
    funnel.end()
    (tmp_path / "out").unlink()
    funnel.start()
    funnel.send(b"two")
    funnel.end()
    assert content(tmp_path / "out", "file") == [b"two"]
    assert "lacks the messages from position 1 to 1 that were written to it" in funnel.told


def test_copy_and_truncate_writes_nothing_twice(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    funnel = own_funnels("file:out?format=lines").start()
    sent = [b"%d" % i for i in range(3000)]
    copies = b""
    for part in range(3):
        funnel.deliver(*sent[part * 1000 : part * 1000 + 1000])
        copies += (tmp_path / "out").read_bytes()
        os.truncate(tmp_path / "out", 0)
    funnel.end()
    assert copies.splitlines() == sent


def test_file_is_recognised_on_another_file_system(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """By its content: the device and the inode are others, and a crash has left a torn end."""
    funnel = funnels("file:data/out?format=lines")
    (tmp_path / "data").mkdir()
    funnel.start()
    sent = [b"%d" % i for i in range(1000)]
    funnel.deliver(*sent)
    funnel.kill()
    with (tmp_path / "data" / "out").open("ab") as file:
        file.write(b"not committed\nto")
    (tmp_path / "data").rename(tmp_path / "before")
    subprocess.run(["cp", "-a", tmp_path / "before", tmp_path / "data"], check=True)
    funnel.start()
    funnel.deliver(b"last")
    assert funnel.end() == 0
    assert content(tmp_path / "data" / "out", "file") == [*sent, b"last"]
    assert "lacks" not in funnel.told


@pytest.mark.needs("mkfs.ext4", "losetup")
@pytest.mark.skipif(os.geteuid() != 0, reason="requires the right to mount")
def test_file_is_recognised_after_a_mount_from_another_device(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """Killed between two commits; all that was not committed is cut, and nothing comes twice."""
    image, place = tmp_path / "image", tmp_path / "data"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    place.mkdir()
    funnel = funnels("file:data/out?format=lines")
    sent = [b"%d" % i for i in range(30_000)]
    devices: list[str] = []
    found: list[bytes] = []
    with ExitStack() as undo:
        for part in range(2):
            attach = ["losetup", "--find", "--show", str(image)]
            try:
                attached = subprocess.run(attach, check=True, capture_output=True, text=True)
                devices.append(attached.stdout.strip())
                undo.callback(call, "losetup", "-d", devices[-1])
                subprocess.run(["mount", devices[-1], place], check=True, capture_output=True)
            except subprocess.CalledProcessError:
                pytest.skip("requires the right to mount")
            mounted = undo.enter_context(ExitStack())
            mounted.callback(call, "umount", place)
            funnel.start()
            mounted.callback(funnel.kill)
            with mpsr.Producer(funnel.address) as producer:
                producer.send_many(sent[part * 15_000 : part * 15_000 + 15_000])
                producer.flush(30)
            if part:
                funnel.await_commit()
                found = content(place / "out", "file")
            mounted.close()
    assert devices[0] != devices[1]
    assert found == sent
    assert "lacks" not in funnel.told


def test_mark_of_the_older_layout_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"one\ntwo\ntorn")
    values = (b"MPSP", 7, b"j" * 16, 2, 8, 99, 98, 5, 8, crc32(b"one\ntwo\n"))
    fields = struct.pack("<4sQ16sQQQQQII", *values)
    (tmp_path / "out.position").write_bytes(struct.pack("<I", crc32(fields)) + fields)
    marks = mark.MarkFile(str(tmp_path / "out.position"))
    found = marks.read()
    assert found is not None
    with path.open("rb") as file:
        assert found.fits(file.fileno())
    assert (found.position, found.size, found.begun) == (2, 8, 5)
    marks.write(found._replace(position=3))
    marks.close()
    marks = mark.MarkFile(str(tmp_path / "out.position"))
    assert marks.read() == found._replace(position=3)
    marks.close()


def test_sighup_reports_no_move(funnels: Callable[..., Funnel], tmp_path: Path) -> None:
    """Log rotation is no fault."""
    funnel = funnels("file:out?format=lines").start()
    funnel.deliver(b"one")
    (tmp_path / "out").rename(tmp_path / "old")
    funnel.process.send_signal(signal.SIGHUP)
    eventually((tmp_path / "out").exists)
    funnel.deliver(b"two")
    assert funnel.end() == 0
    assert content(tmp_path / "out", "file") == [b"two"]
    assert "moved" not in funnel.told
