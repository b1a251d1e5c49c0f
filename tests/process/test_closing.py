"""Closing a receiver releases everything, whatever else happens at that moment."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import mpsr
from mpsr import observe
from mpsr.engine.receiving.follower import Follower
from mpsr.system.descriptors import Socket
from tests.eventually import eventually
from tests.interleaving import held_at
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SOURCE: Final = os.path.dirname(mpsr.__file__)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def made(address: str, directory: Path, *, journal: bool) -> mpsr.Receiver:
    """Return a receiver that has received a message, and has another connection."""
    receiver = mpsr.Receiver(address, journal=directory / "journal" if journal else None)
    with mpsr.Producer(address, framing="lines") as producer:
        producer.send(b"x")
    assert receiver.receive(PATIENCE) == b"x"
    return receiver


def interrupted_at(number: int, work: Callable[[], object]) -> bool:
    """Interrupt with SIGINT at the given call inside mpsr; return whether it came so far."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        # Python raises nothing out of a finalizer.
        where = frame.f_code
        if event == "call" and where.co_filename.startswith(SOURCE) and where.co_name != "__del__":
            left -= 1
            if left < 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return None

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize(
    ("journal", "step"),
    [
        pytest.param(False, 5, id="memory"),
        pytest.param(True, 25, id="journal"),
        pytest.param(False, 1, id="memory-everywhere", marks=pytest.mark.soak),
        pytest.param(True, 1, id="journal-everywhere", marks=pytest.mark.soak),
    ],
)
def test_interrupted_close_can_be_repeated(
    address: str,
    tmp_path: Path,
    journal: bool,
    step: int,
) -> None:
    """Wherever Ctrl-C ends it, the next call closes what is left and releases the address."""
    made(address, tmp_path, journal=journal).close()
    gc.collect()
    before = descriptors()
    number, interrupted = 0, True
    while interrupted:
        receiver = made(address, tmp_path, journal=journal)
        interrupted = interrupted_at(number, receiver.close)
        receiver.close()
        eventually(lambda: descriptors() <= before)
        number += step
    assert number > 20


def test_interrupted_close_of_a_producer_can_be_repeated(address: str) -> None:
    """Wherever Ctrl-C ends it, the next call ends the thread and closes the descriptors."""
    before = descriptors()
    number, interrupted = 0, True
    while interrupted:
        producer = mpsr.Producer[bytes](address)
        interrupted = interrupted_at(number, producer.close)
        producer.close()
        eventually(lambda: descriptors() <= before)
        number += 1
    assert number > 20


def test_close_while_another_thread_stops_the_receiver(address: str, tmp_path: Path) -> None:
    """The engine's wakeup is closed once the thread has written to it."""
    receiver = made(address, tmp_path, journal=False)
    assert receiver._inbox is not None
    with held_at(Socket.holds, "return", receiver.stop):
        receiver.close()


def test_close_ends_a_follower_that_is_about_to_wait(address: str, tmp_path: Path) -> None:
    """Its descriptor is closed by the thread that waits for it."""
    receiver = mpsr.Receiver(address, journal=tmp_path / "journal")
    followed: list[mpsr.Batch[bytes]] = []
    with held_at(Follower.wait, "call", lambda: followed.extend(receiver.batches(cursor="other"))):
        receiver.close()
    assert followed == []


CLOSES = """
import os, sys, mpsr

before = len(os.listdir("/proc/self/fd"))
for _ in range(int(sys.argv[2])):
    receiver = mpsr.Receiver(sys.argv[1])
    assert receiver.try_receive() is None  # starts the thread that answers observers
    receiver.close()
    assert not os.path.exists(sys.argv[1])
assert len(os.listdir("/proc/self/fd")) == before
"""


@pytest.mark.parametrize("count", [10, pytest.param(12_500, marks=pytest.mark.soak)])
def test_no_close_fails_under_load(address: str, count: int) -> None:
    """Eight processes close at the same time; each receiver has had a thread for observers."""
    with ExitStack() as stack:
        closing = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", CLOSES, f"{address}{turn}", str(count)])
            )
            for turn in range(8)
        ]
        assert [process.wait() for process in closing] == [0] * 8


def test_observer_whose_descriptor_a_child_has_ends_and_others_are_answered(address: str) -> None:
    """A child that was just forked keeps a closed connection in existence."""
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        producer.send(b"x")
        assert receiver.receive(PATIENCE) == b"x"
        assert receiver._inbox is not None
        observers = receiver._inbox.observers
        with ExitStack() as stack:
            with closing(observe.watch(address)) as statuses:
                next(statuses)
                eventually(lambda: len(observers._observers) == 1)  # a slow one is replaced
                (observer,) = observers._observers
                child = stack.enter_context(
                    subprocess.Popen(["sleep", "60"], pass_fds=[observer.fileno()])
                )
                stack.callback(child.kill)
            eventually(lambda: not observers._observers)
            for _ in range(2):
                assert observe.status(address, timeout=PATIENCE)["pid"] == os.getpid()


@contextmanager
def forking() -> Iterator[None]:
    """Fork all the time, in two threads."""
    ended = threading.Event()

    def fork() -> None:
        while not ended.is_set():
            subprocess.run(["true"], check=True)

    threads = [threading.Thread(target=fork) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)


@pytest.mark.parametrize("count", [10, pytest.param(1000, marks=pytest.mark.soak)])
def test_stuck_receivers_are_always_answered_for(address: str, count: int) -> None:
    """Ten at a time are looked at several times, while the process forks."""

    def look(number: int) -> None:
        place = f"{address}{number}"
        with mpsr.Receiver(place) as receiver:
            assert receiver.try_receive() is None  # its last call for now
            for _ in range(5):
                assert observe.status(place, timeout=PATIENCE)["addresses"] == [place]

    with forking(), ThreadPoolExecutor(10) as pool:
        assert len(list(pool.map(look, range(count)))) == count
