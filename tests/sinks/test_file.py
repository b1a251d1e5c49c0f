"""A file sink keeps whole records, and is rotated by itself or by others."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import mpsr
from tests.eventually import eventually
from tests.sinks.conftest import Funnel, OwnFunnel


def bodies(file: Path) -> list[str]:
    return [json.loads(line)["body"] for line in file.read_bytes().splitlines()]


def test_line_has_the_position_and_all_that_is_known(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    funnel = own_funnels("file:a.jsonl").start()
    funnel.send(b"one", b"\xff")
    funnel.end()
    one, two = map(json.loads, (tmp_path / "a.jsonl").read_bytes().splitlines())
    assert [one["position"], two["position"], one["seq"], two["seq"]] == [1, 2, 0, 1]
    assert one["peer"] == {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
    assert (one["body"], two["body_b64"]) == ("one", "/w==")
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600


def test_file_that_was_there_is_appended_to(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"before\n")
    funnel = own_funnels("file:a.txt?format=lines").start()
    funnel.send(b"one")
    funnel.end()
    assert (tmp_path / "a.txt").read_bytes() == b"before\none\n"


def test_torn_end_is_cut_and_comes_again(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    funnel = own_funnels("file:a.txt?format=lines").start()
    funnel.send(b"one")
    funnel.end()
    with (tmp_path / "a.txt").open("ab") as file:
        file.write(b"tw")  # as a crash leaves it
    funnel.start()
    funnel.send(b"two")
    funnel.end()
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\n"


def test_new_journal_begins_anew_behind_what_the_file_has(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    funnel = own_funnels("file:a.txt?format=lines").start()
    funnel.send(b"one", b"two")
    funnel.end()
    shutil.rmtree(funnel.journal)
    funnel.start()
    funnel.send(b"three")
    funnel.end()
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\nthree\n"


def test_sighup_goes_on_in_a_new_file_once_the_old_one_was_moved(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    funnel = funnels("file:a.jsonl").start()
    funnel.send(b"one")
    eventually(lambda: bodies(tmp_path / "a.jsonl") == ["one"])
    funnel.deliver(b"two")  # a commit after the move would begin a new file
    assert bodies(tmp_path / "a.jsonl") == ["one", "two"]
    (tmp_path / "a.jsonl").rename(tmp_path / "a.old")
    funnel.send(b"three")
    eventually(lambda: bodies(tmp_path / "a.old") == ["one", "two", "three"])
    funnel.process.send_signal(signal.SIGHUP)
    eventually((tmp_path / "a.jsonl").exists)
    funnel.send(b"four")
    assert funnel.end() == 0
    assert bodies(tmp_path / "a.jsonl") == ["four"]


def test_systemd_is_told_of_the_reload(funnels: Callable[..., Funnel], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind(str(tmp_path / "notify"))
        funnel = funnels("file:a.jsonl")
        funnel.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        funnel.start()
        assert manager.recv(4096).startswith(b"READY=1")
        funnel.process.send_signal(signal.SIGHUP)
        assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(4096) == b"READY=1"
        funnel.kill()


def test_sighup_ends_where_nothing_is_to_be_reopened(funnels: Callable[..., Funnel]) -> None:
    funnel = funnels("sqlite:a.db").start()
    assert funnel.end(signal.SIGHUP) == 0


@pytest.mark.needs("logrotate")
def test_logrotate_loses_and_doubles_nothing(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """While messages come, and with a kill behind one of the rotations."""
    logs = tmp_path / "logs"
    logs.mkdir()
    log = logs / "a.txt"
    funnel = funnels("file:logs/a.txt?format=lines").start()
    configuration = tmp_path / "logrotate.conf"
    sent = []
    for number in range(4):
        if number == 2:
            funnel.kill()
            funnel.start()
        pid = funnel.process.pid
        configuration.write_text(
            f"{log} {{\n rotate 9\n compress\n delaycompress\n nocreate\n missingok\n"
            f" postrotate\n kill -HUP {pid}\n endscript\n}}\n"
        )
        configuration.chmod(0o600)
        part = [b"%d-%d" % (number, i) for i in range(100)]
        funnel.send(*part)
        sent += part
        eventually(lambda: log.exists() and log.stat().st_size > 0)
        state = str(tmp_path / "state")
        subprocess.run(["logrotate", "-f", "-s", state, str(configuration)], check=True)
        eventually(log.exists)
    assert funnel.end() == 0
    found = []
    for file in logs.glob("a.txt*"):
        if file.suffix == ".gz":
            found += subprocess.run(["zcat", file], check=True, capture_output=True).stdout.split()
        elif file.suffix != ".position":
            found += file.read_bytes().split()
    assert sorted(found) == sorted(sent)


def test_rotated_files_are_compressed_and_the_oldest_removed(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    funnel = own_funnels("file:a.txt?format=lines&rotate=1K&keep=2&compress=gzip").start()
    for number in range(5):
        before = set(tmp_path.glob("a.txt.2*.gz"))
        funnel.send(b"%d" % number * 2000)
        eventually(lambda: bool({*tmp_path.glob("a.txt.2*.gz")} - before))  # noqa: B023 - waited for here
    funnel.end()
    names = sorted(each.name for each in tmp_path.glob("a.txt.2*"))
    assert len(names) == 2
    assert all(name.endswith(".gz") for name in names)


@pytest.mark.parametrize("compress", ["", "&compress=gzip"])
def test_clean_up_that_fails_is_reported_once_and_stops_no_delivery(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, compress: str
) -> None:
    """A directory has the name of an old file; compressing finds another where it would write."""
    (tmp_path / "a.txt.20010101T000000.000000Z").mkdir()
    keep = "" if compress else "&keep=1"
    funnel = own_funnels(f"file:a.txt?format=lines&rotate=1K{keep}{compress}").start()
    sent = [b"%d" % number * 2000 for number in range(3)]
    for message in sent:
        funnel.send(message)
    funnel.end()
    what = "compress" if compress else "remove"
    assert funnel.told.count(f"cannot {what} {tmp_path}/a.txt.2001") == 1
    assert "directory" in funnel.told
    assert "; it is tried again later" in funnel.told
    assert "it is tried again until it works" not in funnel.told
    moved = [each for each in sorted(tmp_path.glob("a.txt.2*")) if each.is_file()]
    if compress:
        assert b"".join(gzip.decompress(each.read_bytes()) for each in moved).split() == sent
    else:
        assert [each.read_bytes().split()[-1] for each in moved] == sent[-1:]


@pytest.mark.needs("chattr")
def test_file_that_cannot_be_moved_away_is_continued(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, frozen: Callable[[Path, str], None]
) -> None:
    """An append-only file takes records, and refuses a new name."""
    funnel = own_funnels("file:a.txt?format=lines&rotate=1K").start()
    funnel.send(b"one")
    eventually(lambda: (tmp_path / "a.txt").read_bytes() == b"one\n")
    frozen(tmp_path / "a.txt", "a")
    funnel.send(b"x" * 2000)
    funnel.send(b"two")
    funnel.end()
    assert (tmp_path / "a.txt").read_bytes().split() == [b"one", b"x" * 2000, b"two"]
    assert funnel.told.count(f"cannot move {tmp_path}/a.txt away: Operation not permitted") == 1


@pytest.mark.needs("chattr")
def test_segment_that_cannot_be_removed_is_reported_and_the_journal_continues(
    tmp_path: Path, frozen: Callable[[Path, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Writing continues within the limit; once the segment can be removed, it is."""
    path = tmp_path / "j"
    with mpsr.Receiver(tmp_path / "a.sock", journal=path, journal_limit=4_000_000) as receiver:
        first = path / f"{1:020}.mpsr"
        with mpsr.Producer(tmp_path / "a.sock") as producer:

            def pass_on() -> None:
                producer.send(b"x" * 20_000)
                assert receiver.receive(30) == b"x" * 20_000

            while len([*path.glob("0*.mpsr")]) == 1:
                pass_on()
            frozen(first, "i")
            while f"cannot remove {first}" not in caplog.text:
                pass_on()
            subprocess.run(["chattr", "-i", first], check=True)
            while first.exists():
                pass_on()
    assert caplog.text.count(f"cannot remove {first}") == 1


def test_second_process_is_kept_from_the_file(
    funnels: Callable[..., Funnel], own_funnels: Callable[..., OwnFunnel]
) -> None:
    first = own_funnels("file:a.txt").start()
    first.deliver(b"zero")
    second = funnels("file:a.txt", name="other").start()
    second.await_word("another process has")
    first.end()
    second.send(b"one")
    second.await_word("file:a.txt works again")
    assert second.end() == 0
