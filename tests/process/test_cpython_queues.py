"""CPython's own tests of ``multiprocessing.Queue`` and ``SimpleQueue``, over the two halves.

The page on coming from ``multiprocessing.Queue`` lists the cases in ``WITHOUT_MEANING``.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.dummy
import os
import shutil
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import mpsr
from mpsr.limits import MESSAGE_COST, SHORT_MESSAGE

# Some distributions have Python's tests in a package of their own.
cpython: Any = pytest.importorskip("test._test_multiprocessing")

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-multiprocessing-queue.md"
WITHOUT_MEANING = {
    "test_qsize",
    "test_task_done",
    "test_queue_feeder_donot_stop_onexc",
    "test_queue_feeder_on_queue_feeder_error",
    "test_closed_queue_empty_exceptions",
    "test_closed",
}
IN_THREADS_ONLY = {"test_put", "test_empty"}  # their second process reads
OTHERWISE = {"test_fork"}  # see below


def encode(obj: object) -> bytes:
    return json.dumps(obj).encode()


def encode_long(obj: object) -> bytes:
    """Return JSON of such a length that ``full()``, which asks for 4 KiB, asks for one object."""
    return encode(obj).ljust(SHORT_MESSAGE)


class Both:
    """The two halves as one object, as these tests have it; a child has the writer only."""

    def __init__(self, address: str, maxsize: int = 0) -> None:
        self.reader = mpsr.QueueReader[Any](mpsr.Receiver(address, decode=json.loads))
        if maxsize:
            buffer = maxsize * (SHORT_MESSAGE + MESSAGE_COST)
            self.writer = mpsr.queue(address, encode=encode_long, buffer=buffer)
        else:
            self.writer = mpsr.queue(address, encode=encode)
        self.put = self.writer.put
        self.put_nowait = self.writer.put_nowait
        self.full = self.writer.full
        self.get = self.reader.get
        self.get_nowait = self.reader.get_nowait
        self.empty = self.reader.empty

    def close(self) -> None:
        self.writer.close()
        self.reader.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Writer, (self.writer,)


class Writer:
    """Writing half in a child."""

    def __init__(self, writer: mpsr.QueueWriter[Any]) -> None:
        self.put = writer.put


class Halves(unittest.TestCase):
    """Puts the two halves in the place of each queue that a test makes."""

    context: Any

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="mpsr-")
        self.addCleanup(shutil.rmtree, self.directory)
        # One of the tests makes a directory and a module here, by fixed names.
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        self.addCleanup(sys.modules.pop, "imported_by_an_imported_module", None)
        for name in ("Queue", "JoinableQueue", "SimpleQueue"):
            patch = mock.patch.object(multiprocessing, name, self.Queue)
            patch.start()
            self.addCleanup(patch.stop)

    def Queue(self, maxsize: int = 0) -> Both:  # noqa: N802 - as the tests call it
        address = os.path.join(self.directory, f"{len(os.listdir(self.directory))}.sock")
        both = Both(address, maxsize)
        self.addCleanup(both.close)
        return both

    def Event(self) -> Any:  # noqa: N802
        return self.context.Event()

    def Process(self, **options: Any) -> Any:  # noqa: N802
        return self.context.Process(**options)


def adapt(cases: Any, *left_out: str) -> Any:
    """Return a class of these cases over the halves, without some of them."""
    namespace = {**dict.fromkeys(left_out), "__test__": False}
    return type(cases.__name__, (Halves, cases), namespace)


class Threads:
    """A second thread in the place of a process."""

    Event = threading.Event
    Process = multiprocessing.dummy.Process


Processes = adapt(cpython._TestQueue, *WITHOUT_MEANING, *IN_THREADS_ONLY)
InThreads = adapt(cpython._TestQueue, *WITHOUT_MEANING)
Simple = adapt(cpython.TestSimpleQueue, *WITHOUT_MEANING)


class TestForked(Processes):  # type: ignore[misc,valid-type]  # made at run time
    __test__ = True
    TYPE = "processes"
    context: Any = multiprocessing.get_context("fork")

    def test_fork(self) -> None:
        """As there, except that the order between two processes is not fixed."""
        queue = self.Queue()
        for number in range(10):
            queue.put(number)
        process = self.Process(target=self._test_fork, args=(queue,))
        process.start()
        got = [queue.get() for _ in range(20)]
        assert [each for each in got if each < 10] == list(range(10))
        assert [each for each in got if each >= 10] == list(range(10, 20))
        assert queue.empty()
        process.join()


class TestSpawned(TestForked):
    context = multiprocessing.get_context("spawn")


class TestOfForkserver(TestForked):
    context = multiprocessing.get_context("forkserver")


class TestThreads(InThreads):  # type: ignore[misc,valid-type]
    __test__ = True
    TYPE = "threads"
    context = Threads
    test_fork = TestForked.test_fork


class TestSimple(Simple):  # type: ignore[misc,valid-type]
    __test__ = True
    context = Threads

    def setUp(self) -> None:
        super().setUp()
        for name in ("Event", "Process"):
            patch = mock.patch.object(multiprocessing, name, getattr(Threads, name))
            patch.start()
            self.addCleanup(patch.stop)


def test_page_lists_each_case_without_meaning() -> None:
    rows = {line.split("`")[1] for line in PAGE.read_text().splitlines() if "`test_" in line}
    assert rows == WITHOUT_MEANING | IN_THREADS_ONLY | OTHERWISE


def test_writers_that_put_long_ago_are_found_without_waiting(address: str) -> None:
    """No call of the reader has answered their connections before."""
    with mpsr.QueueReader(mpsr.Receiver(address)) as reader:
        writers = [mpsr.queue(address) for _ in range(3)]
        for writer in writers:
            for number in range(5):
                writer.put(b"%d" % number)
        got = []
        while not reader.empty():
            got.append(reader.get())
        assert sorted(got) == sorted([b"%d" % number for number in range(5)] * 3)
        for writer in writers:
            writer.close()
            writer.join_thread()
        late = mpsr.queue(address)
        late.put(b"late")
        assert reader.get_nowait() == b"late"
        late.close()
        late.join_thread()
