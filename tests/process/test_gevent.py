"""Producers and receivers in programs that gevent or eventlet have patched."""

from __future__ import annotations

import subprocess
import sys
import threading
from textwrap import dedent
from typing import TYPE_CHECKING, Final

import pytest

import mpsr

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE: Final = 40  # seconds: a program that hangs is ended, below the test's own limit

PATCHES: Final = ["", "select=False", "thread=False", "socket=False"]
ORDERS: Final = {
    "patch, import, make": """
        from gevent import monkey
        monkey.patch_all({patch})
        import mpsr
        producer = mpsr.Producer(address)
        """,
    "import, patch, make": """
        import mpsr
        from gevent import monkey
        monkey.patch_all({patch})
        producer = mpsr.Producer(address)
        """,
    "make, patch": """
        import mpsr
        producer = mpsr.Producer(address)
        from gevent import monkey
        monkey.patch_all({patch})
        """,
}
WORLDS: Final = {
    "gevent": """
        from gevent import monkey
        monkey.patch_all()
        import mpsr
        import gevent
        from gevent import Timeout, spawn
        wait = gevent.Greenlet.get
        """,
    "eventlet": """
        import warnings
        warnings.simplefilter("ignore")  # that eventlet is deprecated
        import eventlet
        eventlet.monkey_patch()
        import mpsr
        from eventlet import Timeout, spawn
        wait = eventlet.greenthread.GreenThread.wait
        """,
}

# What a greenlet that waits must let go on: else it waits for ever.
EXCHANGE: Final = """
    def produce(number):
        with mpsr.Producer(address, buffer=40 * padding, **sending) as producer:
            for count in range(200):
                producer.send(b"%d %d" % (number, count) + b"." * padding)
            producer.flush(timeout=30)

    def receive():
        for message in receiver:
            got.append(tuple(map(int, message[:-padding].split())))

    got = []
    receiver = mpsr.Receiver(address, **receiving)
    reader = spawn(receive)
    producing = [spawn(produce, number) for number in range(5)]
    for each in producing:
        wait(each)
    receiver.stop()
    wait(reader)
    receiver.close()
    assert sorted(got) == [(number, count) for number in range(5) for count in range(200)]
    for number in range(5):
        assert [count for who, count in got if who == number] == list(range(200))
    """


def run(*parts: str, **names: object) -> str:
    """Run a program, which is to end well; return what it printed."""
    lines = [f"{name} = {value!r}" for name, value in names.items()]
    program = "\n".join([*lines, *map(dedent, parts)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    return done.stdout


def received(address: str, *parts: str, **names: object) -> list[bytes]:
    """Run a program beside a receiver; return what that got."""
    with mpsr.Receiver(address) as receiver:
        got: list[bytes] = []
        receiving = threading.Thread(target=lambda: got.extend(receiver))
        receiving.start()
        try:
            run(*parts, address=address, **names)
        finally:
            receiver.stop()
            receiving.join()
    return got


@pytest.mark.parametrize(
    ("order", "patch"),
    [  # the default suite varies one of the two at a time
        pytest.param(order, patch, marks=[pytest.mark.soak] * bool(number and patch))
        for number, order in enumerate(ORDERS)
        for patch in PATCHES
    ],
)
def test_producer_delivers_whatever_is_patched_and_when(
    address: str, order: str, patch: str
) -> None:
    send = """
        import gevent

        def send():
            for number in range(1000):
                producer.send(b"%d" % number)
            producer.flush(timeout=20)
            assert producer.stats().accepted == 1000

        gevent.spawn(send).get()
        producer.close()
        """
    got = received(address, ORDERS[order].format(patch=patch), send)
    assert got == [b"%d" % number for number in range(1000)]


@pytest.mark.parametrize("how", ["native", "bulk", "lines", "journal"])
@pytest.mark.parametrize("world", WORLDS)
def test_receiver_and_producers_of_one_thread_let_each_other_run(
    address: str, tmp_path: Path, world: str, how: str
) -> None:
    sending = {"framing": "lines"} if how == "lines" else {}
    receiving = {"journal": str(tmp_path / "events.journal")} if how == "journal" else {}
    padding = 40_000 if how == "bulk" else 100  # in bulk a thread waits in the system call
    run(
        WORLDS[world],
        EXCHANGE,
        address=address,
        padding=padding,
        sending=sending,
        receiving=receiving,
    )


@pytest.mark.parametrize("world", WORLDS)
def test_greenlet_that_waits_can_be_interrupted_and_wait_again(address: str, world: str) -> None:
    interrupt = """
        producer = mpsr.Producer(address, buffer=1)
        producer.send(b"first")
        for interrupted in (producer.flush, lambda: producer.send(b"never"), producer.close):
            try:
                with Timeout(0.05):
                    interrupted()
            except Timeout:
                continue
            raise AssertionError("it did not wait")
        try:
            producer.flush(timeout=0.05)
        except mpsr.TimedOut:
            pass
        with mpsr.Receiver(address) as receiver:
            flushing = spawn(producer.flush)
            assert receiver.receive() == b"first"
            receiver.acknowledge()
            wait(flushing)
            producer.close()
        """
    run(WORLDS[world], interrupt, address=address)


def test_producer_with_a_spool_delivers_from_a_greenlet(address: str, tmp_path: Path) -> None:
    send = """
        def send():
            with mpsr.Producer(address, spool=spool) as producer:
                for number in range(1000):
                    producer.send(b"%d" % number)
                producer.flush(timeout=20, spooled=True)

        wait(spawn(send))
        """
    got = received(address, WORLDS["gevent"], send, spool=str(tmp_path / "worker.spool"))
    assert got == [b"%d" % number for number in range(1000)]


@pytest.mark.parametrize("close", [True, False], ids=["closed", "forgotten"])
def test_children_of_a_patched_program_deliver(address: str, close: bool) -> None:
    fork = """
        import multiprocessing
        import os

        def send(who):
            for number in range(100):
                producer.send(b"%d %d" % (who, number))
            if close:
                producer.close()
            elif who:
                producer.flush()

        def flush():
            try:
                producer.flush()
            except mpsr.Closed:
                assert os.getpid() != parent  # a greenlet goes on in the children, too

        parent = os.getpid()
        producer = mpsr.Producer(address)
        producer.send(b"0 early")
        flushing = spawn(flush)
        gevent.sleep()
        child = os.fork()
        if not child:
            send(1)
            os._exit(0)
        process = multiprocessing.get_context("fork").Process(target=send, args=(2,))
        process.start()
        send(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        process.join()
        assert process.exitcode == 0
        wait(flushing)
        """
    got = received(address, WORLDS["gevent"], fork, close=close)
    for who in (b"0", b"1", b"2"):
        numbers = [message.split()[1] for message in got if message.split()[0] == who]
        expected = [b"%d" % number for number in range(100)]
        assert numbers == [b"early"] * (who == b"0") + expected


@pytest.mark.parametrize("journal", [False, True], ids=["plain", "journal"])
def test_fork_leaves_a_receiver_that_waits_to_the_parent(
    address: str, tmp_path: Path, journal: bool
) -> None:
    fork = """
        import os
        import gevent.socket

        def receive():
            got.extend(receiver)

        got = []
        receiver = mpsr.Receiver(address, **receiving)
        reader = spawn(receive)
        gevent.sleep()
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            gevent.socket.wait_read(reads)  # its hub runs until the parent has received
            try:
                receiver.receive(timeout=0)
            except mpsr.Closed:
                os._exit(0)
            os._exit(1)
        with mpsr.Producer(address) as producer:
            producer.send(b"one")
            producer.flush()
        os.write(writes, b".")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        receiver.stop()
        wait(reader)
        receiver.close()
        assert got == [b"one"]
        """
    receiving = {"journal": str(tmp_path / "events.journal")} if journal else {}
    run(WORLDS["gevent"], fork, address=address, receiving=receiving)


def test_native_threads_of_a_patched_program_send_beside_greenlets(address: str) -> None:
    send = """
        def send(who):
            for number in range(500):
                producer.send(b"%d %d" % (who, number))
            producer.flush(timeout=20)

        producer = mpsr.Producer(address, buffer=4096)
        sending = [pool.spawn(send, who) for who in range(3)]
        sending += [spawn(send, who) for who in range(3, 6)]
        for each in sending:
            each.get()
        producer.close()
        """
    pool = "pool = gevent.get_hub().threadpool"
    got = received(address, WORLDS["gevent"], pool, send)
    for who in range(6):
        numbers = [int(m.split()[1]) for m in got if m.split()[0] == b"%d" % who]
        assert numbers == list(range(500))


def test_nothing_inside_is_what_gevent_has_patched(address: str, tmp_path: Path) -> None:
    look = """
        import gc
        from gevent import lock, select, selectors, socket

        patched = (socket.socket, select.poll, selectors.GeventSelector, lock.RLock, lock.Semaphore)

        def look_inside(whole, seen):
            if id(whole) not in seen and type(whole).__module__.partition(".")[0] == "mpsr":
                seen.add(id(whole))
                for part in gc.get_referents(whole):
                    assert not isinstance(part, patched), (whole, part)
                    look_inside(part, seen)

        seen = set()
        with mpsr.Receiver(address, journal=journal) as receiver:
            with mpsr.Producer(address, spool=spool) as producer:
                producer.send(b"one")
                assert receiver.receive() == b"one"
                look_inside(producer, seen)
                look_inside(receiver, seen)
        assert len(seen) > 10
        """
    files = {"spool": str(tmp_path / "worker.spool"), "journal": str(tmp_path / "events.journal")}
    run(WORLDS["gevent"], look, address=address, **files)
