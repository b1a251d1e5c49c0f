"""What a producer does when a signal handler breaks in on a call, and calls it too."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from random import Random
from select import select

import pytest

from tests.process.programs import begin, receiving, run
from tests.process.workers import PATIENCE

# A timer's handler sends, flushes and interrupts itself; the program sends all the time. Another
# thread attracts the signals that the main thread blocks, so that a handler does run in the middle
# of code that the mask protects. Each handler starts the timer again; a handler at the greatest
# depth does so only when it ends, so that the program makes progress on a busy machine, too.
STORM = """
import json, signal, sys, threading, time, mpsr

beside, signals = sys.argv[3] == "thread", int(sys.argv[4])
producer = mpsr.Producer(sys.argv[1], buffer=int(sys.argv[2]))
taken, refused, errors, handled, depth = [0, 0, 0], 0, [], 0, 0

def handler(*_):
    global handled, depth, refused
    handled += 1
    depth += 1
    try:
        if depth < 3:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)
            number = taken[depth]
            taken[depth] += 1
            producer.send(b"%d %d" % (depth, number))
            if handled % 9 == 0:
                producer.flush(timeout=20)
    except mpsr.BufferFull:
        refused += 1
    except mpsr.ReentrantCall as error:
        errors.append(str(error))
    finally:
        depth -= 1
        signal.setitimer(signal.ITIMER_REAL, 0.0003 if handled < signals else 0)

if beside:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0003)
number = 0
while handled < signals:
    producer.send(b"0 %d" % number + bytes(300))
    number += 1
    if number % 500 == 0:
        producer.send_many([b"0 %d" % (number + i) for i in range(200)])
        number += 200
signal.setitimer(signal.ITIMER_REAL, 0)
producer.close()
stats = producer.stats()
print(json.dumps([number, taken[1:], refused, sorted(set(errors)), stats.accepted]))
"""


def storm(address: str, buffer: int, beside: str, signals: int) -> None:
    with receiving(address) as received:
        outcome = run(STORM, address, str(buffer), beside, str(signals))
    assert outcome.status == 0, outcome.complaint
    sent, taken, refused, errors, accepted = json.loads(outcome.output)
    assert refused == 0
    assert min(taken) > 0  # messages sent at each depth
    assert all("signal handler" in error for error in errors)
    assert beside == "thread" or not errors
    came = Counter(received)
    assert max(came.values()) == 1
    assert len(came) == accepted == sent + sum(taken)
    for depth in ("0", "1"):  # those of depth 2 may overtake each other
        words = [message.rstrip(b"\0").decode().split() for message in received]
        numbers = [int(number) for at, number in words if at == depth]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("beside", ["nobody", "thread"])
@pytest.mark.parametrize("buffer", [8192, 65_536, 32 << 20])
def test_handler_that_sends_and_flushes_loses_doubles_and_hangs_nothing(
    address: str, buffer: int, beside: str
) -> None:
    """However small the buffer, wherever the handler interrupts."""
    storm(address, buffer, beside, 300)


@pytest.mark.soak
@pytest.mark.parametrize("beside", ["nobody", "thread"])
def test_hundred_thousand_signals_lose_nothing(address: str, beside: str) -> None:
    storm(address, 16_384, beside, 100_000)


TERMINATED = """
import signal, sys, threading, time, mpsr

producer = mpsr.Producer(sys.argv[1], buffer=int(sys.argv[2]))
number = 0

def end(*_):
    producer.close()
    sys.exit(7)

signal.signal(signal.SIGTERM, end)
try:
    print("ready", flush=True)
    while True:
        producer.send(b"%d " % number + bytes(int(sys.argv[3])))
        number += 1
finally:
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(12))
def test_closing_in_the_handler_of_sigterm_delivers_and_ends(address: str, seed: int) -> None:
    """Whatever send() is in the middle of, all that it took arrives, and the status is its own."""
    random = Random(seed)
    buffer, size = random.choice([8192, 65_536, 32 << 20]), random.choice([10, 1000, 40_000])
    with receiving(address) as received:
        with begin(TERMINATED, address, str(buffer), str(size)) as program:
            assert program.stdout
            assert program.stdout.readline() == "ready\n"
            select([], [], [], random.uniform(0, 0.03))
            program.send_signal(signal.SIGTERM)
            output, complaint = program.communicate(timeout=PATIENCE)
        assert (program.returncode, complaint) == (7, "")
    numbers = [int(message.split(b" ")[0]) for message in received]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) in (int(output), int(output) + 1)  # one may be taken, and not yet counted


STOPPED = """
import signal, sys, mpsr

signals = 0

def stop(*_):
    global signals
    signals += 1
    receiver.stop()

with mpsr.Receiver(sys.argv[1]) as receiver:
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    print(sum(1 for _ in receiver), flush=True)
signal.raise_signal(signal.SIGTERM)
print(signals, flush=True)
"""


def test_stop_in_the_handler_of_a_second_sigterm_raises_nothing(address: str) -> None:
    """A wrapper sends it twice; the second may arrive once the receiver is closed."""
    with begin(STOPPED, address) as program:
        assert program.stdout
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGTERM)
        output, complaint = program.communicate(timeout=PATIENCE)
    assert (program.returncode, output, complaint) == (0, "0\n2\n", "")


FINALIZED = """
import gc, sys, mpsr

producer = mpsr.Producer(sys.argv[1])
lock = producer._lock

class Sends:
    def __del__(self):
        producer.send(b"finalizer")
        try:
            producer.flush()
        except mpsr.ReentrantCall as error:
            print(error)
        try:
            producer.close()
        except mpsr.ReentrantCall as error:
            print(error)
        print(producer.stats().buffered)

with lock:  # as in the middle of any call
    Sends()
producer.send(b"after")
producer.flush(10)
"""


def test_finalizer_in_the_middle_of_a_call_sends_and_is_refused_what_would_wait(
    address: str,
) -> None:
    """Its message comes before those that are sent later; flush() and close() say why not."""
    with receiving(address) as received:
        outcome = run(FINALIZED, address)
    assert outcome.status == 0, outcome.complaint
    flushed, closed, buffered = outcome.output.splitlines()
    assert flushed.startswith(f"flush() of the producer for {address}: ")
    assert closed.startswith(f"close() of the producer for {address}: ")
    assert buffered == "1"
    assert received == [b"finalizer", b"after"]


FILLED = """
import sys, mpsr

producer = mpsr.Producer(sys.argv[1], buffer=1000, on_full=sys.argv[2])
taken = 0
with producer._lock:
    try:
        while producer.try_send(bytes(92)) and taken < 50:
            taken += 1
        producer.send(bytes(92))
    except mpsr.BufferFull as error:
        print(taken, len(error.messages), error)
producer.close(0)
"""


@pytest.mark.parametrize("on_full", ["block", "raise"])
def test_handler_that_cannot_wait_for_room_is_told_and_keeps_its_message(
    address: str, on_full: str
) -> None:
    """It may fill the buffer once more; then it gets its message back."""
    output = run(FILLED, address, on_full).output
    assert output.startswith("10 1 no room for 1 message")
    assert "signal handler" in output


def test_what_a_handler_drops_is_counted(address: str) -> None:
    """With on_full="drop_newest" a handler that finds no room drops, and the count is told."""
    program = FILLED.replace("producer.close(0)", "producer.close(); print(producer.stats())")
    with receiving(address) as received:
        outcome = run(program, address, "drop_newest")
    assert "accepted=10, lost=42, buffered=0" in outcome.output
    assert len(received) == 10


def test_programs_mask_is_as_it_was(address: str) -> None:
    """A producer leaves no signal blocked behind."""
    program = (
        "import signal, sys, mpsr\n"
        "with mpsr.Producer(sys.argv[1]) as producer:\n"
        "    producer.send(b'message'); producer.flush(10)\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    )
    with receiving(address):
        assert run(program, address).output == "set()\n"


def test_ctrl_c_while_a_send_waits_for_room_ends_it(address: str) -> None:
    """The mask is not held while anything is waited for."""
    program = (
        "import os, sys, mpsr\n"
        "producer = mpsr.Producer(sys.argv[1], buffer=1000, exit_timeout=0)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    producer.send(bytes(100))\n"
    )
    with begin(program, address) as process:
        assert process.stdout
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in complaint
