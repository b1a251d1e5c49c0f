"""The two halves of a queue, beside ``multiprocessing.Queue``: one program, the same results."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.engine.sending.states import WriteState
from mpsr.logging import decode
from tests.eventually import eventually
from tests.process.putting import keep, log, put_numbers, put_square, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import BaseContext

# From 3.12 on Python warns of a fork beside threads, which both kinds of queue are to bear.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PATIENCE = 30  # seconds
METHODS = ["fork", "spawn", "forkserver"]
HALVES = ["multiprocessing", "mpsr"]

Halves = tuple[Any, Any]  # what is put to, and what is got from


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> BaseContext:
    context: BaseContext = multiprocessing.get_context(request.param)
    return context


@pytest.fixture(params=HALVES)
def halves(request: pytest.FixtureRequest, context: BaseContext, address: str) -> Iterator[Halves]:
    """Give both halves; of ``multiprocessing.Queue`` they are one object."""
    yield from make(request.param, context, address)


@pytest.fixture(params=HALVES)
def local(request: pytest.FixtureRequest, address: str) -> Iterator[Halves]:
    """Give both halves, for one way to start processes."""
    yield from make(request.param, multiprocessing.get_context("spawn"), address)


def make(kind: str, context: Any, address: str) -> Iterator[Halves]:
    if kind == "multiprocessing":
        both = context.Queue()
        yield both, both
        both.close()
        both.join_thread()
        return
    with (
        mpsr.queue(address, encode=to_json) as writer,
        mpsr.QueueReader(mpsr.Receiver(address, decode=json.loads)) as reader,
    ):
        yield writer, reader


def get_all(reader: Any, count: int) -> list[Any]:
    return [reader.get(timeout=PATIENCE) for _ in range(count)]


def test_processes_put_and_each_ones_order_is_kept(halves: Halves, context: Any) -> None:
    writer, reader = halves
    workers = [context.Process(target=put_numbers, args=(writer, each)) for each in range(3)]
    for each in workers:
        each.start()
    got = get_all(reader, 300)
    assert reader.empty()
    for each in workers:
        each.join(PATIENCE)
    assert [each.exitcode for each in workers] == [0, 0, 0]
    for worker in range(3):
        assert [number for who, number in got if who == worker] == list(range(100))


def test_workers_of_a_pool_put_through_what_the_initializer_was_given(
    halves: Halves, context: Any
) -> None:
    writer, reader = halves
    with context.Pool(2, initializer=keep, initargs=(writer,)) as pool:
        assert pool.map(put_square, range(20)) == list(range(20))
        assert sorted(get_all(reader, 20)) == [number * number for number in range(20)]
        pool.close()
        pool.join()


def test_workers_of_an_executor_put_as_well(halves: Halves, context: BaseContext) -> None:
    writer, reader = halves
    with ProcessPoolExecutor(
        2, mp_context=context, initializer=keep, initargs=(writer,)
    ) as executor:
        assert list(executor.map(put_square, range(20))) == list(range(20))
        assert sorted(get_all(reader, 20)) == [number * number for number in range(20)]


def test_threads_put_and_get(local: Halves) -> None:
    writer, reader = local
    got: list[list[int]] = [[], []]

    def put(first: int) -> None:
        for number in range(first, first + 500):
            writer.put(number)

    def get(into: list[int]) -> None:
        while (number := reader.get(timeout=PATIENCE)) is not None:
            into.append(number)

    putting = [threading.Thread(target=put, args=(500 * each,)) for each in range(2)]
    getting = [threading.Thread(target=get, args=(into,)) for into in got]
    for each in [*putting, *getting]:
        each.start()
    for each in putting:
        each.join(PATIENCE)
    for _ in getting:
        writer.put(None)
    for each in getting:
        each.join(PATIENCE)
    assert sorted(got[0] + got[1]) == list(range(1000))


@pytest.mark.parametrize(
    "get",
    [
        lambda reader: reader.get(False),
        lambda reader: reader.get(block=False, timeout=5),
        lambda reader: reader.get(True, 0.01),
        lambda reader: reader.get(timeout=0),
        lambda reader: reader.get(timeout=-1),
        lambda reader: reader.get_nowait(),
    ],
)
def test_empty_is_raised_alike(local: Halves, get: Callable[[Any], Any]) -> None:
    writer, reader = local
    assert reader.empty()
    with pytest.raises(queue.Empty):
        get(reader)
    writer.put({"a": 1})
    assert reader.get(timeout=PATIENCE) == {"a": 1}


def test_what_is_put_without_waiting_is_soon_there(local: Halves) -> None:
    writer, reader = local
    assert not writer.full()
    writer.put("first", False)
    writer.put_nowait("second")
    writer.put("third", True, 5)
    eventually(lambda: not reader.empty())
    assert reader.get(timeout=0) == "first"
    assert get_all(reader, 2) == ["second", "third"]


@pytest.mark.parametrize("kind", HALVES)
def test_a_closed_half_refuses_alike(kind: str, address: str) -> None:
    for writer, reader in make(kind, multiprocessing.get_context("spawn"), address):
        with pytest.raises(AssertionError, match="not closed"):
            writer.join_thread()
        writer.close()
        writer.close()
        writer.join_thread()
        with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
            writer.put(1)
        with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
            writer.put_nowait(1)
        reader.close()
        with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
            reader.get()
        with pytest.raises(ValueError, match=r"Queue <.*> is closed"):
            reader.get_nowait()


@pytest.mark.parametrize("kind", HALVES)
def test_full_is_raised_alike(kind: str, address: str) -> None:
    """A queue of three objects, and a buffer with room for about as many."""
    writer: Any
    if kind == "multiprocessing":
        writer = multiprocessing.Queue(3)
    else:
        writer = mpsr.queue(address, buffer=3500, exit_timeout=0)
    put = 0
    with pytest.raises(queue.Full):
        while True:
            writer.put(bytes(1000), timeout=0.01)
            put += 1
    assert put == 3
    assert writer.full()
    with pytest.raises(queue.Full):
        writer.put_nowait(bytes(1000))
    for block, timeout in ((False, None), (True, 0), (True, -1)):
        with pytest.raises(queue.Full):
            writer.put(bytes(1000), block, timeout)
    writer.close()
    writer.cancel_join_thread()
    writer.join_thread()
    if kind == "mpsr":
        with pytest.raises(mpsr.Undelivered, match="3 messages"):
            writer.producer.close(0)


def test_on_full_raise_does_not_wait_and_drop_never_raises(address: str) -> None:
    raising = mpsr.queue(address, buffer=3500, on_full="raise")
    dropping = mpsr.queue(address, buffer=3500, on_full="drop_newest")
    with pytest.raises(queue.Full, match="nothing is there"):
        for _ in range(4):
            raising.put(bytes(1000))
    for _ in range(10):
        dropping.put_nowait(bytes(1000))
    assert dropping.producer.stats().lost == 7
    for each in (raising, dropping):
        with pytest.raises(mpsr.Undelivered):
            each.producer.close(0)


def test_what_cannot_be_encoded_is_told_in_put(address: str) -> None:
    with mpsr.queue(address) as writer:
        with pytest.raises(TypeError, match=r"bytes-like objects, not dict.*encode="):
            writer.put({})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"bytes-like objects, not str.*encode="):
            writer.put_nowait("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is closed, and cannot be pickled"):
        pickle.dumps(writer)


def test_get_acknowledges_a_batch_with_its_last_object(address: str) -> None:
    """So a program may get all that workers put, and then join them."""
    with mpsr.queue(address) as writer, mpsr.QueueReader(mpsr.Receiver(address)) as reader:
        writer.producer.send_many([b"first", b"last"])
        assert reader.get(timeout=PATIENCE) == b"first"
        with pytest.raises(mpsr.TimedOut):
            writer.producer.flush(0.05)
        assert reader.get(timeout=PATIENCE) == b"last"
        writer.producer.flush(PATIENCE)


def test_child_joined_before_its_objects_are_got_reports_where_they_are(
    address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """They arrive, so that it does not report them as undelivered."""
    context = multiprocessing.get_context("fork")
    begun, goes_on = context.Event(), context.Event()

    def put(writer: mpsr.QueueWriter[bytes]) -> None:
        writer.put(b"begun")
        begun.set()
        goes_on.wait(PATIENCE)
        for number in range(100):
            writer.put(b"%d" % number)

    with mpsr.QueueReader(mpsr.Receiver(address)) as reader:
        writer = mpsr.queue(address, exit_timeout=0.5)
        child = context.Process(target=put, args=(writer,))
        child.start()
        begun.wait(PATIENCE)
        assert reader.get(timeout=PATIENCE) == b"begun"
        goes_on.set()
        child.join()
        complaint = capfd.readouterr().err
        assert get_all(reader, 100) == [b"%d" % number for number in range(100)]
        writer.close()
        writer.join_thread()
    assert child.exitcode == 0
    assert complaint == (
        f"mpsr: 100 messages to {address} not accepted: the receiver (pid {os.getpid()}) has not "
        "come back for more; they were sent to it, and arrive if it continues\n"
    )


def test_object_that_is_larger_than_the_reader_takes_is_reported(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By join_thread(), or on stderr if the thread that delivers has ended before."""
    writer = mpsr.queue(address)
    for item in (b"first", bytes(10_000), b"last"):
        writer.put(item)
    with mpsr.QueueReader(mpsr.Receiver(address, max_message=8192)) as reader:
        assert get_all(reader, 2) == [b"first", b"last"]
        writer.close()
        told = ""
        try:
            writer.join_thread()
        except mpsr.Undelivered as error:
            told = str(error)
    told += capsys.readouterr().err
    assert "1 message to " in told
    assert told.count("messages of 8192 bytes at most") == 1


def test_some_of_what_is_undelivered_may_arrive(address: str) -> None:
    with mpsr.QueueReader(mpsr.Receiver(address)) as reader:
        writer = mpsr.queue(address)
        writer.put(b"first")
        assert reader.get(timeout=PATIENCE) == b"first"
        for _ in range(100):
            writer.put_nowait(bytes(100_000))
        outbox = writer.producer._outbox
        eventually(lambda: outbox.state is WriteState.FULL)
        with pytest.raises(mpsr.Undelivered, match="100 messages") as caught:
            writer.producer.close(0)
        found = re.search(r"not delivered: .*; (\d+) of them were sent to it", str(caught.value))
        assert found
        assert get_all(reader, int(found[1])) == [bytes(100_000)] * int(found[1])
        assert reader.empty()


def test_undecodable_last_object_is_acknowledged(address: str) -> None:
    with (
        mpsr.queue(address) as writer,
        mpsr.QueueReader(mpsr.Receiver(address, decode=json.loads)) as reader,
    ):
        writer.put(b"{")
        with pytest.raises(mpsr.DecodeError):
            reader.get(timeout=PATIENCE)
        writer.producer.flush(PATIENCE)


def test_closing_leaves_what_was_not_got_to_the_next_reader(address: str) -> None:
    with mpsr.queue(address, buffer=10_000_000) as writer:
        reader = mpsr.QueueReader(mpsr.Receiver(address))
        for number in range(10):
            writer.put(b"%d" % number)
        assert [reader.get(timeout=PATIENCE) for _ in range(3)] == [b"0", b"1", b"2"]
        assert not reader.empty()
        reader.close()
        with pytest.raises(RuntimeError), mpsr.QueueReader(mpsr.Receiver(address)) as reader:
            assert [reader.get(timeout=PATIENCE) for _ in range(2)] == [b"3", b"4"]
            raise RuntimeError
        with mpsr.QueueReader(mpsr.Receiver(address)) as reader:
            assert get_all(reader, 6) == [b"%d" % number for number in range(4, 10)]
            with pytest.raises(NotImplementedError):
                reader.qsize()


def test_closing_wakes_a_thread_that_waits_in_get(address: str) -> None:
    reader = mpsr.QueueReader(mpsr.Receiver(address))
    errors: list[BaseException] = []
    begun = threading.Event()

    def get() -> None:
        begun.set()
        try:
            reader.get()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    begun.wait(PATIENCE)
    reader.close()
    thread.join(PATIENCE)
    assert "is closed" in str(errors)
    assert not os.path.exists(address)


def test_undecodable_object_is_an_error_and_the_next_one_follows(address: str) -> None:
    with (
        mpsr.QueueReader(mpsr.Receiver(address, decode=json.loads)) as reader,
        mpsr.queue(address) as writer,
    ):
        writer.put(b"{")
        writer.put(b"1")
        with pytest.raises(mpsr.DecodeError):
            reader.get(timeout=PATIENCE)
        assert reader.get(timeout=PATIENCE) == 1
        assert reader.empty()


KILLED_WRITER = """
import os, sys, mpsr
writer = mpsr.queue(sys.argv[1])
for number in range(1000):
    writer.put(b"%d" % number)
writer.producer.flush(10)
writer.put(bytes(1_000_000))
os.kill(os.getpid(), 9)
"""


def test_killed_writer_disturbs_nobody(address: str) -> None:
    with mpsr.queue(address) as writer, mpsr.QueueReader(mpsr.Receiver(address)) as reader:
        command = [sys.executable, "-c", KILLED_WRITER, address]
        with subprocess.Popen(command) as killed:
            assert get_all(reader, 1000) == [b"%d" % number for number in range(1000)]
            reader.empty()
            while killed.poll() is None:
                reader.empty()
        assert killed.returncode == -signal.SIGKILL
        writer.put(b"after")
        while (got := reader.get(timeout=PATIENCE)) != b"after":
            assert len(got) == 1_000_000


class Listener(logging.handlers.QueueListener):
    """Ends with the receiver: the reading half takes no sentinel."""

    queue: Any

    def enqueue_sentinel(self) -> None:
        self.queue.receiver.stop()

    def dequeue(self, block: bool) -> Any:
        try:
            return self.queue.get(block)
        except ValueError:
            return None


def test_queue_handler_and_queue_listener_work_on_the_halves(address: str, context: Any) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(worker)s %(message)s"))
    reader: Any = mpsr.QueueReader(mpsr.Receiver(address, decode=decode))
    listener = Listener(reader, handler)
    listener.start()
    writer = mpsr.queue(address)
    workers = [context.Process(target=log, args=(writer, each)) for each in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(PATIENCE)
        assert each.exitcode == 0
    writer.close()
    writer.join_thread()
    listener.stop()
    reader.close()
    lines = [line for line in written.getvalue().splitlines() if line.startswith("worker ")]
    assert sorted(lines) == [f"worker ERROR {each} worker {each} failed" for each in range(3)]
    assert written.getvalue().count("raise KeyError(worker)") == 3
