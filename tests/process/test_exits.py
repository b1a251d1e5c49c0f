"""What a producer delivers while its program ends, and what it says of the rest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.logging import decode
from tests.process import children
from tests.process.programs import begin, receiving, run
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

BUFFERED_LOG = """
import sys
if sys.argv[2] == "mpsr first":
    import mpsr
import logging, logging.handlers, mpsr

class Handler(logging.Handler):
    def emit(self, record):
        producer.send(self.format(record).encode())

producer = mpsr.Producer(sys.argv[1])
buffered = logging.handlers.MemoryHandler(100, flushLevel=100, target=Handler())
logger = logging.getLogger("app")
logger.addHandler(buffered)
logger.setLevel(logging.INFO)
for number in range(5):
    logger.info("%d", number)
"""


@pytest.mark.parametrize("order", ["mpsr first", "logging first"])
def test_what_logging_flushes_at_exit_is_delivered(address: str, order: str) -> None:
    """MemoryHandler writes in logging.shutdown(), which is an exit hook as well."""
    with receiving(address) as received:
        outcome = run(BUFFERED_LOG, address, order)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert received == [b"%d" % number for number in range(5)]


def test_what_finalizers_of_globals_send_is_delivered(address: str) -> None:
    """They run when every thread but the main one has stopped for good."""
    program = (
        "import sys, mpsr\n"
        "producer = mpsr.Producer(sys.argv[1])\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        producer.send(b'late'); producer.send(b'later')\n"
        "late = Late()\n"
        "producer.send(b'first')\n"
    )
    with receiving(address) as received:
        outcome = run(program, address)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert received == [b"first", b"late", b"later"]


def test_first_use_in_a_finalizer_of_a_global_reports_that_nothing_is_imported(
    address: str,
) -> None:
    program = (
        "import sys, mpsr\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        try: mpsr.Producer('')\n"
        "        except ImportError as error: print(error)\n"
        "late = Late()\n"
    )
    outcome = run(program, address)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert outcome.output == (
        "mpsr.Producer cannot be loaded: it was not used before, and at the end of the program "
        "Python imports nothing; put `from mpsr import Producer` at the top of the module\n"
    )


@pytest.mark.parametrize("name", ["Undelivered", "QueueWriter", "Rejected", "ProducerStats"])
def test_names_of_loaded_modules_can_be_used_in_a_finalizer_of_a_global(
    address: str, name: str
) -> None:
    program = (
        "import sys, mpsr\n"
        "class Late:\n"
        "    def __del__(self):\n"
        f"        try: late.producer.close(0); print(mpsr.{name}.__name__)\n"
        f"        except mpsr.{name}: print('caught')\n"
        "late = Late()\n"
        "late.late = late\n"
        "late.producer = mpsr.queue(sys.argv[1]).producer\n"
    )
    outcome = run(program, address)
    assert (outcome.status, outcome.complaint, outcome.output) == (0, "", f"{name}\n")


@pytest.mark.parametrize("order", ["before", "after"])
def test_programs_own_exit_hook_decides_how_long_it_waits(address: str, order: str) -> None:
    """Whether the hook was registered before mpsr was imported, or after."""
    program = (
        "import atexit, sys\n"
        "if sys.argv[2] == 'after': import mpsr\n"
        "class Wrapper:\n"
        "    def close(self):\n"
        "        try: self.producer.close(timeout=0.2)\n"
        "        except Exception as error: print(type(error).__name__)\n"
        "wrapper = Wrapper()\n"
        "atexit.register(wrapper.close)\n"
        "import mpsr\n"
        "wrapper.producer = mpsr.Producer(sys.argv[1], exit_timeout=1000)\n"
        "wrapper.producer.send(b'message')\n"
    )
    outcome = run(program, address, order)  # which gives up long before 1000 seconds
    assert (outcome.status, outcome.output, outcome.complaint) == (0, "Undelivered\n", "")


def test_producer_made_in_an_exit_hook_delivers(address: str) -> None:
    """Python may refuse to start threads by then: it works without one."""
    program = (
        "import atexit, sys, mpsr\n"
        "def end():\n"
        "    with mpsr.Producer(sys.argv[1]) as producer:\n"
        "        producer.send(b'1'); producer.send_many([b'2', b'3']); producer.flush(10)\n"
        "    mpsr.Producer(sys.argv[1]).send(b'4')\n"
        "atexit.register(end)\n"
    )
    with receiving(address) as received:
        outcome = run(program, address)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert received == [b"1", b"2", b"3", b"4"]


def test_wait_at_exit_is_an_argument_and_is_told(address: str) -> None:
    """exit_timeout= bounds it; what is not delivered is said in one line."""
    program = (
        "import sys\n"
        "from mpsr import limits; limits.CLOSE_TIMEOUT\n"
        "limits.CLOSE_TIMEOUT = 1000\n"
        "import mpsr\n"
        "mpsr.Producer(sys.argv[1], exit_timeout=0.1).send(b'message')\n"
    )
    outcome = run(program, address)  # which gives up long before 1000 seconds
    assert outcome.status == 0
    assert outcome.complaint.startswith(f"mpsr: 1 message to {address} not delivered: ")
    assert outcome.complaint.count("\n") == 1


def test_idle_producer_does_not_hold_up_the_exit(address: str) -> None:
    """The exit does not wait where nothing is unsent, whether or not there is a receiver."""
    outcome = run("import sys, mpsr; mpsr.Producer(sys.argv[1], exit_timeout=1000)", address)
    assert outcome.complaint == ""


def test_ctrl_c_during_the_wait_at_exit_says_what_is_lost(address: str) -> None:
    """It ends at once, with one line, no traceback, and the status of an interruption."""
    program = (
        "import atexit, sys, mpsr\n"
        "producer = mpsr.Producer(sys.argv[1])\n"
        "producer.send_many([b'1', b'2', b'3'])\n"
        "atexit.register(print, 'ending', flush=True)\n"
    )
    with begin(program, address) as process:
        assert process.stdout
        assert process.stdout.readline() == "ending\n"
        time.sleep(0.2)  # the interpreter says nothing when its exit hooks are done
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert complaint.startswith(f"mpsr: 3 messages to {address} not delivered: ")
    assert complaint.count("\n") == 1


_producers: list[mpsr.Producer] = []  # of a worker of a pool


def _open(address: str) -> None:
    _producers.append(mpsr.Producer(address))


def _send(number: int) -> int:
    _producers[0].send(b"%d" % number)
    return number


def test_pool_that_is_closed_and_joined_loses_nothing(address: str) -> None:
    """Its workers end by themselves; the end of the with block alone would kill them."""
    with receiving(address) as received:
        for _ in range(4):
            with multiprocessing.get_context("fork").Pool(3, _open, (address,)) as pool:
                assert len(pool.map(_send, range(300), chunksize=30)) == 300
                pool.close()
                pool.join()
    assert sorted(map(int, received)) == sorted([*range(300)] * 4)


def test_failing_background_thread_is_told_to_whoever_sends_flushes_or_closes(
    address: str,
) -> None:
    """The cause is named, and the receiver not blamed."""
    producer: mpsr.Producer = mpsr.Producer(address)
    cause = LookupError("what nobody expected")

    def fail(now: float) -> None:
        raise cause

    producer.send(b"message")
    producer._outbox.service = fail  # type: ignore[method-assign]
    producer._outbox.wakeup.set()
    with pytest.raises(mpsr.MpsrError, match="LookupError: what nobody expected") as caught:
        producer.flush(10)
    assert caught.value.__cause__ is cause
    with pytest.raises(mpsr.MpsrError, match="LookupError: what nobody expected"):
        producer.send(b"another")
    with pytest.raises(mpsr.Undelivered, match="what nobody expected") as undelivered:
        producer.close(10)
    assert undelivered.value.messages == [b"message"]


def test_first_producer_of_a_program_may_be_made_in_an_exit_hook(address: str) -> None:
    """Also where mpsr is imported only there."""
    program = (
        "import atexit, sys\n"
        "def end():\n"
        "    import mpsr\n"
        "    mpsr.Producer(sys.argv[1]).send(b'message')\n"
        "atexit.register(end)\n"
    )
    with receiving(address) as received:
        outcome = run(program, address)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert received == [b"message"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_of_multiprocessing_sends_as_any_program(address: str, method: str) -> None:
    """It clears the hooks of its parent, and is not taken to be at its end by that."""
    keep: mpsr.Producer = mpsr.Producer(address)
    with receiving(address) as received:
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=_send_many, args=(address,))
        child.start()
        child.join(PATIENCE)
        keep.close()
    assert child.exitcode == 0
    assert received == [b"message"] * 1000


# Another interpreter is slow to start: those children end in two ways.
@pytest.mark.parametrize(
    ("method", "preload", "ends"),
    [
        ("fork", False, children.ENDS),
        ("spawn", False, ["return", "status 3"]),
        ("forkserver", False, ["return", "error"]),
        ("forkserver", True, children.ENDS),
    ],
)
def test_child_delivers_however_it_starts_gets_its_object_and_ends(
    address: str, method: str, preload: bool, ends: Sequence[str]
) -> None:
    """Each message arrives once and in order, and stderr has no complaint of mpsr."""
    program = f"from tests.process.children import main; main({method!r}, {preload}, *{ends!r})"
    environment = {**os.environ, children.ADDRESS: address, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", program]
    with receiving(address) as received:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert ended.returncode == 0, ended.stderr
    assert "mpsr: " not in ended.stderr
    numbers: dict[str, list[int]] = {}
    for message in received:
        text = decode(message).getMessage() if message[:1] == b"{" else message.decode()
        name, _, number = text.rpartition(" ")
        numbers.setdefault(name, []).append(int(number))
    every = list(range(children.COUNT))
    assert numbers == dict.fromkeys(children.expected(ends), every)


def _send_many(address: str) -> None:
    producer: mpsr.Producer = mpsr.Producer(address)
    for _ in range(1000):
        producer.send(b"message")
    assert producer.stats().connects <= 1
