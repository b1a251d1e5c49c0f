"""A receiver whose path was taken from under it is found again."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

import mpsr
from mpsr.system import lockfile
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Limits

NOTICED = 10.0  # seconds within which a receiver finds that its path is gone


def unlink(path: Path) -> None:
    path.unlink()


def unlink_both(path: Path) -> None:
    path.unlink()
    path.with_name(path.name + ".lock").unlink()


def unlink_lock(path: Path) -> None:
    path.with_name(path.name + ".lock").unlink()


def replace_lock(path: Path) -> None:
    unlink_lock(path)
    path.with_name(path.name + ".lock").touch(0o600)


def replace_both(path: Path) -> None:
    replace_lock(path)
    replace_by_file(path)


def replace_directory_alone(path: Path) -> None:
    """Move the socket and its lock into a new directory."""
    path.parent.rename(path.parent.with_name("old"))
    path.parent.mkdir()
    for each in path.parent.with_name("old").iterdir():
        each.rename(path.parent / each.name)


def replace_directory_and_lock(path: Path) -> None:
    replace_directory_alone(path)
    unlink_lock(path)


def replace_directory_and_socket(path: Path) -> None:
    replace_directory_alone(path)
    unlink(path)


def replace_directory(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


def replace_by_file(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


HOWS = [
    unlink,
    unlink_both,
    unlink_lock,
    replace_lock,
    replace_both,
    replace_directory,
    replace_directory_and_lock,
    replace_directory_and_socket,
    replace_by_file,
]


FEWER = [unlink, unlink_both, unlink_lock, replace_directory, replace_by_file]


@pytest.fixture(params=FEWER, ids=lambda how: how.__name__)
def how(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    chosen: Callable[[Path], None] = request.param
    return chosen


@pytest.fixture(autouse=True)
def short_interval(limits: Limits) -> None:
    """Check paths more often than in use, so that a test need not wait for seconds."""
    limits(PATH_CHECK_INTERVAL=0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "test.sock"


@pytest.fixture
def receiver(path: Path) -> Iterator[mpsr.Receiver[bytes]]:
    with mpsr.Receiver(path) as receiver:
        yield receiver


def until_there(path: Path) -> None:
    """Wait until a process listens at the path."""
    eventually(lambda: leads_to_a_listener(path), within=NOTICED)


def leads_to_a_listener(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("how", HOWS, ids=lambda how: how.__name__)
def test_path_that_was_taken_away_is_claimed_again(
    path: Path,
    receiver: mpsr.Receiver[bytes],
    how: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever is connected goes on; newcomers find it; a warning says so."""
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.extend(receiver))
    with mpsr.Producer[bytes](path) as known:
        known.send(b"1")
        thread.start()
        known.flush(10)
        how(path)
        known.send(b"2")
        eventually(lambda: "both are there again" in caplog.text)
        until_there(path)
        with mpsr.Producer[bytes](path) as newcomer:
            newcomer.send(b"3")
        known.send(b"4")
        known.flush(10)
        assert known.stats().connects == 1
    receiver.stop()
    thread.join(10)
    assert received == [b"1", b"2", b"3", b"4"]
    with pytest.raises(mpsr.AddressInUse):
        mpsr.Receiver(path)
    receiver.close()
    assert not path.exists()


def test_watched_receiver_claims_its_path_again(
    path: Path, receiver: mpsr.Receiver[bytes], how: Callable[[Path], None]
) -> None:
    """Also where somebody else selects on its descriptor, and nothing comes."""
    assert receiver.try_receive_batch() is None
    descriptor = receiver.fileno()
    how(path)
    since = time.monotonic()
    while not path.exists() or not os.path.exists(f"{path}.lock"):
        ready, _, _ = select.select([descriptor], [], [], NOTICED)
        assert ready
        receiver.try_receive_batch()
        assert time.monotonic() - since < NOTICED


def test_task_claims_its_path_again(path: Path, how: Callable[[Path], None]) -> None:
    async def main() -> None:
        async with mpsr.AsyncReceiver(path) as receiver, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, act)
            assert await receiver.receive(2 * NOTICED) == b"found"
            receiver.acknowledge()

    def act() -> None:
        until_there(path)
        how(path)
        until_there(path)
        with mpsr.Producer[bytes](path) as producer:
            producer.send(b"found")

    anyio.run(main)


def test_second_receiver_that_took_the_path_keeps_it(
    path: Path, receiver: mpsr.Receiver[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """The first keeps its connections, says that it lost the path, and removes nothing."""
    receiver.try_receive_batch()
    with mpsr.Producer[bytes](path) as known:
        known.send(b"1")
        assert receiver.receive(10) == b"1"
        unlink_both(path)
        with mpsr.Receiver(path) as second:

            def warned() -> bool:
                assert receiver.try_receive_batch() is None
                return "cannot be claimed again" in caplog.text

            eventually(warned, within=NOTICED)
            known.send(b"2")
            assert receiver.receive(10) == b"2"
            receiver.close()
            with mpsr.Producer[bytes](path) as newcomer:
                newcomer.send(b"3")
                assert second.receive(10) == b"3"
                second.acknowledge()
                known.close(0.1)


def test_receiver_whose_lock_was_removed_keeps_its_socket(
    path: Path, receiver: mpsr.Receiver[bytes]
) -> None:
    """No moment refuses a connection: the socket stays, and only the lock is taken again."""
    receiver.try_receive_batch()
    before = path.stat()
    unlink_lock(path)

    def locked() -> bool:
        assert receiver.try_receive_batch() is None
        return path.with_name(path.name + ".lock").exists()

    eventually(locked, within=NOTICED)
    assert os.path.samestat(before, path.stat())
    with pytest.raises(mpsr.AddressInUse):
        mpsr.Receiver(path)
    with mpsr.Producer[bytes](path) as producer:
        producer.send(b"found")
        assert receiver.receive(10) == b"found"
        receiver.acknowledge()
    receiver.close()
    assert not path.exists()


def test_second_receiver_that_locked_first_is_refused_and_the_first_recovers(
    path: Path, receiver: mpsr.Receiver[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """The lock is another process's for a while: exactly one receives, and it is the first."""
    receiver.try_receive_batch()
    unlink_lock(path)
    with pytest.raises(mpsr.AddressInUse, match="this very process is receiving there"):
        mpsr.Receiver(path)
    lock = path.with_name(path.name + ".lock")
    holder = lockfile.take(str(lock))

    def logged(text: str) -> bool:
        assert receiver.try_receive_batch() is None
        return text in caplog.text

    eventually(lambda: logged("cannot be claimed again"), within=NOTICED)
    lock.unlink()  # as a receiver does that finds the socket in use
    holder.give_back()
    eventually(lambda: logged("both are there again"), within=NOTICED)
    with mpsr.Producer[bytes](path) as producer:
        producer.send(b"found")
        assert receiver.receive(10) == b"found"
        receiver.acknowledge()


@pytest.mark.needs("systemd-tmpfiles")
@pytest.mark.parametrize("name", ["short.sock", "long" * 20 + ".sock"])
def test_what_cleans_directories_by_age_spares_a_receivers_files(tmp_path: Path, name: str) -> None:
    """The real systemd-tmpfiles, on files that only the receiver's own touch makes young."""
    directory = tmp_path / ("d" * 40) / "run"
    directory.mkdir(parents=True)
    old = directory / "old"
    old.touch()
    path = directory / name
    with mpsr.Receiver(path) as receiver:
        lock = path.with_name(name + ".lock")
        for each in (old, path, lock):
            os.utime(each, (0, 0))
        engine = receiver._inbox
        assert engine is not None
        keeper = engine._acceptor.listeners[0]._keeper  # type: ignore[union-attr]
        keeper._touched_at = None  # as if it were time
        keeper.look(time.monotonic())
        rules = tmp_path / "rules.conf"
        rules.write_text(f"e {directory} - - - am:1h\n")  # nothing can set the other times
        subprocess.run(["systemd-tmpfiles", "--clean", str(rules)], check=True, timeout=30)
        assert not old.exists()
        assert path.exists()
        assert lock.exists()
