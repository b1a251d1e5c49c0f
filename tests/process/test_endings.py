"""How programs with producers end."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.limits import CLOSE_TIMEOUT, MIB
from tests.chance import Chance
from tests.process import roles
from tests.process.programs import run
from tests.process.stamps import Source, Tally, stamp_of
from tests.process.workers import receive_all, receive_beside

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.workers import Start

HOWS = ["end", "exception", "multiprocessing child"]


@pytest.mark.parametrize("how", HOWS)
def test_forgotten_producer_delivers_at_exit(start: Start, address: str, how: str) -> None:
    """A program that never calls close() delivers all the same."""
    tally = Tally()
    with mpsr.Receiver(address) as receiver:
        program = start(roles.forget, address, 1000, how)
        receive_beside(receiver, tally.take, program.wait)
    assert list(tally.counts.values()) == [1000]
    assert "mpsr:" not in program.complaint()


def test_forgotten_producer_says_at_exit_what_it_could_not_deliver(
    start: Start, address: str
) -> None:
    """Without a receiver a program still ends, in bounded time, and reports what it lost."""
    before = time.monotonic()
    limits = {"CLOSE_TIMEOUT": 1.0}
    programs = [start(roles.forget, address, 1000, how, limits=limits) for how in HOWS]
    programs.append(start(roles.end_with_daemon, address, limits=limits, buffer=MIB))
    for program in programs:
        program.wait()
        assert f"to {address} not delivered: cannot reach" in program.complaint()
    for program in programs[:3]:
        assert "mpsr: 1000 messages" in program.complaint()
    assert 1 <= time.monotonic() - before < 15  # the programs start, too


def test_program_that_ends_while_a_daemon_thread_closes_delivers(
    start: Start, address: str
) -> None:
    """The end of the program waits for a close() under way as it would for its own."""
    tally = Tally()
    program = start(roles.end_while_closing, address, 1000)
    assert program.hear() == "closing"
    with mpsr.Receiver(address) as receiver:
        receive_all(receiver, tally.take, [program])
    assert tally.counts == {Source(program.pid, 0): 1000}
    assert not program.complaint()


def test_daemon_thread_that_sends_does_not_hold_up_the_exit(start: Start, address: str) -> None:
    """A program ends though a daemon thread never stops sending, nor a receiver taking."""
    tally = Tally()

    def take_slowly(batch: mpsr.Batch) -> None:
        tally.take(batch)
        time.sleep(0.02)  # slower than the thread sends: it would never catch up

    with mpsr.Receiver(address) as receiver:
        program = start(roles.end_with_daemon, address, buffer=MIB)
        before = time.monotonic()
        receive_all(receiver, take_slowly, [program])
        assert time.monotonic() - before < 4 * CLOSE_TIMEOUT
    assert tally.counts[Source(program.pid, 0)] > 0


def test_producer_closed_while_other_threads_send_says_closed_to_them(
    start: Start, address: str
) -> None:
    """Each thread gets Closed, and nothing else; what it had sent before is delivered."""
    messages = 0

    def take(batch: mpsr.Batch) -> None:
        nonlocal messages
        messages += len(batch)

    with mpsr.Receiver(address) as receiver:
        program = start(roles.close_while_sending, address, rounds=10)
        receive_all(receiver, take, [program])
    assert program.hear() == ["<class 'mpsr.errors.Closed'>"]
    assert messages > 0


@pytest.mark.parametrize("interrupts", [10, pytest.param(500, marks=pytest.mark.soak)])
def test_interrupted_program_delivers_what_it_sent_and_ends(
    start: Start, address: str, chance: Chance, interrupts: int
) -> None:
    """Ctrl-C at any moment of a loop of sends loses or repeats no message that send() took."""
    came: list[int] = []
    doubtful: list[int] = []

    def take(batch: mpsr.Batch) -> None:
        came.extend(stamp_of(message).number for message in batch)

    def interrupt() -> None:
        for _ in range(interrupts):
            assert program.hear() == "sending"
            time.sleep(chance.uniform(0.001, 0.01))
            program.signal(signal.SIGINT)
            doubtful.append(program.hear())
        assert program.wait() == 0, program.complaint()

    with mpsr.Receiver(address) as receiver:
        program = start(roles.send_until_interrupted, address, interrupts)
        receive_beside(receiver, take, interrupt)
    missing = set(range(doubtful[-1])) - set(came)
    assert missing <= set(doubtful)
    assert came == sorted(set(came))


UNCLOSED = """
import mpsr, sys, tempfile

class Cycle: pass

directory = tempfile.mkdtemp(dir=sys.argv[1])
options = {"journal": directory + "/journal"} if sys.argv[2] == "journal" else {}
cycle = Cycle()
cycle.receiver = mpsr.Receiver(directory + "/s", **options)
if sys.argv[3] == "in a cycle":
    cycle.itself = cycle
"""


@pytest.mark.parametrize("kind", ["plain", "journal"])
@pytest.mark.parametrize("where", ["in a name", "in a cycle"])
def test_program_that_never_closes_its_receiver_ends(tmp_path: Path, kind: str, where: str) -> None:
    """The end of the interpreter collects the receiver, whose threads do not run any more."""
    outcome = run(UNCLOSED, str(tmp_path), kind, where)
    assert (outcome.status, outcome.complaint) == (0, "")


STOPPED = """
import mpsr, os, socket, sys, threading, time

directory, what = sys.argv[1:]
journal = None if what == "accepts" else directory + "/journal"
receiver = mpsr.Receiver(directory + "/s", framing="lines", journal=journal)
if what == "syncs":
    never = threading.Lock()
    never.acquire()
    os.fdatasync = never.acquire  # a disk that never answers
    producer = socket.socket(socket.AF_UNIX)
    producer.connect(directory + "/s")
    producer.send(b"message\\n")
    while not receiver._inbox.journal._mutex.locked():
        time.sleep(0.001)
else:
    if what == "accepts":
        lock = receiver._inbox._held.lock
    else:
        lock = receiver._inbox._main._lock
    holder = threading.Thread(target=lock.acquire)
    holder.start()
    holder.join()
"""


@pytest.mark.parametrize("what", ["syncs", "accepts", "hands out"])
def test_program_ends_although_a_stopped_thread_has_a_lock(tmp_path: Path, what: str) -> None:
    """The end of the interpreter stops a thread of an unclosed receiver that holds a lock."""
    outcome = run(STOPPED, str(tmp_path), what)
    assert (outcome.status, outcome.complaint) == (0, "")
