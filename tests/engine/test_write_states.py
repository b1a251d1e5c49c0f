"""The table of write states, walked at random while exceptions interrupt calls and writes."""

from __future__ import annotations

import errno
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import mpsr
from mpsr.engine.sending.outbox import Outbox
from mpsr.engine.sending.states import (
    WRITE_TRANSITIONS,
    Failure,
    WriteEvent,
    WriteState,
    failure_of,
)
from mpsr.limits import KIB
from mpsr.system.address import parse_address

if TYPE_CHECKING:
    from mpsr.engine.sending.outbox import Write

UNDER_WAY = (WriteState.WRITING, WriteState.BREAKING, WriteState.TORN)
# They need a receiver that reads nothing for two seconds; test_stalled_receiver has one.
SLOW = {
    (WriteState.WRITING, WriteEvent.STALL),
    (WriteState.STALLED, WriteEvent.ROOM),
    (WriteState.STALLED, WriteEvent.CLOSE),
    (WriteState.STALLED, WriteEvent.INTERRUPT),
}


class RecordedOutbox(Outbox):
    """Notes each step through the table."""

    seen: set[tuple[WriteState, WriteEvent]]

    def _turn(self, event: WriteEvent) -> None:
        self.seen.add((self.state, event))
        super()._turn(event)


class Interrupted(RuleBasedStateMachine):
    """One producer's engine, one receiver, and exceptions that break in at any moment."""

    seen: ClassVar[set[tuple[WriteState, WriteEvent]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="mpsr-")
        address = str(Path(self.directory.name) / "s")
        self.receiver = mpsr.Receiver[bytes](address)
        self.outbox = RecordedOutbox(parse_address(address), linger=0)
        self.outbox.seen = self.seen
        self.taken: list[bytes] = []
        self.got: list[bytes] = []
        self.write: Write | None = None  # begun, and not made
        self.now = 0.0

    def later(self) -> float:
        """Return a time at which another connection may be tried in any case."""
        self.now += 2
        return self.now

    def teardown(self) -> None:
        """Whatever has happened: everything arrives, once and in order."""
        try:
            if self.write is not None:
                self.make()
            deadline = monotonic() + 10
            while self.outbox.window.accepted_seq < self.outbox.window.next_seq:
                assert monotonic() < deadline, f"stuck as {self.outbox.state.name}"
                self.outbox.service(self.later())
                self.begin(patient=False)
                if self.write is not None:
                    self.make()
                self.receive()
            self.receive()
            assert self.got == self.taken
        finally:
            self.outbox.close()
            self.receiver.close()
            self.directory.cleanup()

    @rule(size=st.sampled_from([0, 100, 100 * KIB]), count=st.integers(1, 5))
    def take(self, size: int, count: int) -> None:
        for _ in range(count):
            message = b"%d:" % len(self.taken) + bytes(size)
            assert self.outbox.window.offer(message, self.now)
            self.taken.append(message)
            self.outbox.window.seal()

    @rule()
    def service(self) -> None:
        self.outbox.service(self.later())

    def write_all(self) -> None:
        self.begin(patient=False)
        while self.write is not None:
            self.make()
            self.begin(patient=False)

    @rule()
    def read(self) -> None:
        while self.outbox.read(self.now):
            pass

    @precondition(lambda self: self.write is None)
    @rule(then=st.sampled_from(["nothing", "begin", "cut", "interrupt"]))
    def fill_the_connection(self, then: str) -> None:
        for _ in range(2):  # first it introduces itself, where it is new
            self.service()
            self.write_all()
            self.receive()
        self.service()
        self.take(100 * KIB, 8)
        self.write_all()
        if then == "begin" and self.write is None:
            self.begin(patient=True)
        elif then == "cut":
            self.cut_the_connection(noticed=True)
        elif then == "interrupt":
            self.interrupt_a_call()

    @precondition(lambda self: self.write is None)
    @rule(patient=st.booleans())
    def begin(self, patient: bool) -> None:
        if patient:  # and there is room, so that it does not wait
            self.receive()
            self.read()
            patient = self.outbox.window.known_cost < 420 * KIB
        might = self.outbox.state in (WriteState.FREE, WriteState.FULL)
        self.write = self.outbox.begin_write(self.now, patient=patient)
        assert might or self.write is None

    @precondition(lambda self: self.write is not None)
    @rule()
    def make(self) -> None:
        assert self.write is not None
        write, self.write = self.write, None
        self.outbox.end_write(write, write(), self.now)

    @precondition(lambda self: self.write is not None)
    @rule(made=st.booleans())
    def interrupt_the_write(self, made: bool) -> None:
        """Raise before the system call, or before its result is noted."""
        assert self.write is not None
        if made:
            self.write()
        self.outbox.interrupt()
        self.write = None

    @precondition(lambda self: self.write is not None)
    @rule()
    def take_the_write_over(self) -> None:
        """Wait in a signal handler that has interrupted the write."""
        if self.outbox.interrupted_here:
            self.outbox.take_over()
            self.write = None

    @rule()
    def interrupt_a_call(self) -> None:
        """Raise in a call of a thread that is not the one that writes."""
        thread = threading.Thread(target=self.outbox.interrupt)
        thread.start()
        thread.join()

    @rule()
    def break_off(self) -> None:
        self.outbox.break_off()

    @rule()
    def receive(self) -> None:
        for _ in range(10):  # a long batch comes in parts
            while (batch := self.receiver.try_receive_batch()) is not None:
                self.got += batch

    @rule(noticed=st.booleans())
    def cut_the_connection(self, noticed: bool) -> None:
        inbox: Any = self.receiver._inbox
        for connection in tuple(inbox._connections.open):
            with suppress(OSError):  # the producer has closed it
                connection.socket.shutdown(socket.SHUT_RDWR)
        if noticed:
            self.read()

    @invariant()
    def state_and_engine_agree(self) -> None:
        outbox = self.outbox
        assert outbox.writing == (outbox.state in UNDER_WAY)
        if outbox.state is not WriteState.INTERRUPTED:
            assert (outbox._connection is None) == (outbox.state is WriteState.DOWN)
        if outbox.ready():
            assert outbox.state is WriteState.FREE
        assert outbox.failure is None
        assert self.got == self.taken[: len(self.got)]


@pytest.mark.parametrize(
    ("examples", "steps"), [(100, 30), pytest.param(400, 50, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(240)
def test_interrupts_at_any_moment_lose_double_and_reorder_nothing(
    examples: int, steps: int
) -> None:
    """Every step of the table is taken, and no other; the first walk is the same each time."""
    missing = set(WRITE_TRANSITIONS)
    for attempt in range(8):  # a step or two are rare
        run_state_machine_as_test(
            Interrupted,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=attempt == 0,
                database=None,
            ),
        )
        missing = set(WRITE_TRANSITIONS) - SLOW - Interrupted.seen
        if not missing:
            break
    assert Interrupted.seen <= set(WRITE_TRANSITIONS)
    assert not missing, sorted(f"{state.name} {event.name}" for state, event in missing)


@pytest.mark.parametrize(
    ("number", "file", "packet", "ends"),
    [
        (errno.EBADF, True, False, Failure.FILE),
        (errno.EINVAL, True, True, Failure.FILE),
        (errno.EBADF, False, False, Failure.CONNECTION),
        (errno.EMSGSIZE, True, True, Failure.PACKET),
        (errno.EMSGSIZE, False, False, Failure.CONNECTION),
        *(
            (each, True, packet, Failure.CONNECTION)
            for each in (errno.EPERM, errno.EACCES, errno.EPIPE, errno.ECONNRESET)
            for packet in (False, True)
        ),
        (errno.ETOOMANYREFS, True, False, Failure.CONNECTION),
    ],
)
def test_only_errors_of_this_process_end_a_file(
    number: int, file: bool, packet: bool, ends: Failure
) -> None:
    assert failure_of(OSError(number, "failed"), file=file, packet=packet) is ends
