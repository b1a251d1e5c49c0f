"""Besiege a receiver: measure what honest producers get while somebody attacks it.

A stage, which has a process of its own and measures, forks a receiver, honest producers of the user
``HONEST``, and the attacker, who is ``HOSTILE``. The honest ones are a flood, which sends all the
time; a probe, which sends one message, waits until it is acknowledged, and begins again; and
newcomers, each of which connects, has one message acknowledged, and leaves.

What the flood gets is measured alone, then beside the attacker, then alone again, in one run: only
the ratio counts. An attacker shares the machine's processors with those whom it attacks, which is
not the receiver's fault. So it runs with ``os.nice(19)``, and is paced, unless it is told to be as
fast as it can.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from enum import IntEnum, auto
from functools import partial
from itertools import count
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import mpsr
from mpsr.system import passing
from tests.process import attacks
from tests.process.forking import serve
from tests.process.workers import PATIENCE, TICKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process.forking import Forks

HONEST: Final = 2000  # a uid
HOSTILE: Final = 3000  # another
SIZE: Final = 100  # bytes of a message of the flood
CHUNK: Final = 64  # messages that the flood sends at once
PROBE_PAUSE: Final = 0.005  # seconds between two probes
NEWCOMER_PAUSE: Final = 0.1  # seconds between two newcomers
SAMPLE_INTERVAL: Final = 0.02  # seconds between two looks at the receiver
WARM_UP: Final = 100_000  # messages until the flood has its ring, and memory its size
FLOOD, PROBE, NEWCOMER = "flood", "probe", "newcomer"


class Phase(IntEnum):
    """When something is measured."""

    ALONE = 0
    BESIDE = 1
    AFTER = 2


class Slot(IntEnum):
    """A place on the board, with one process that writes to it."""

    PHASE = auto()
    ENDING = auto()  # the honest end
    CEASING = auto()  # the attacker ends
    READY = auto()  # the receiver listens
    CAME = auto()  # messages of the flood that came
    CAME_SINGLY = auto()  # messages of probes and newcomers
    FAULTS = auto()  # messages that came out of turn
    STRANGE = auto()  # messages of others
    SENT = auto()  # messages of the flood, all acknowledged at its end
    PROBED = auto()
    WELCOMED = auto()  # newcomers that were served
    FLOOD_CONNECTS = auto()  # connections that it made: one, if that was not closed
    PROBE_CONNECTS = auto()
    PROBING_SINCE = auto()  # ns: when the probe that is under way began
    COMING_SINCE = auto()  # ns: when the newcomer did
    DONE = auto()  # what the attacker has done, in its own unit
    FINISHED = auto()  # the attacker has done all it was to do
    PROBE_SLOWEST = 32  # ns, one for each phase
    NEWCOMER_SLOWEST = 40  # ns, likewise
    IDENTITY = 48  # two, the flood's producer id


class Board:
    """Numbers that all processes of a siege see."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap(-1, 4096)).cast("Q")

    def __getitem__(self, slot: int) -> int:
        return self._numbers[slot]

    def __setitem__(self, slot: int, number: int) -> None:
        self._numbers[slot] = number

    def note_time(self, slowest: int, since: int, phase: int) -> None:
        """Note how long something took until now, which began in this phase."""
        took = time.monotonic_ns() - since
        self[slowest + phase] = max(self[slowest + phase], took)

    def wait(self, slot: int, least: int, what: str) -> None:
        """Wait until a number is so large."""
        deadline = time.monotonic() + PATIENCE
        while self[slot] < least:
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain for {what}")
            time.sleep(0.002)


class Plan(NamedTuple):
    """How to besiege."""

    attack: str
    seconds: float
    """How long the flood is measured alone, before and after."""
    least: float
    """Seconds that it is measured beside the attacker, at least."""
    most: float
    """Seconds after which the attacker has to end, whatever it has done."""
    quota: int
    """How many of its unit the attacker does; 0 for as many as there is time for."""
    rate: float
    """How many of them a second; 0 for as many as it can."""


def plan(name: str, *, full: bool, paced: bool = True) -> Plan:
    """Plan an attack: the quick version or the full one, with the attacker paced or not."""
    attack = attacks.ATTACKS[name]
    quota = attack.full if full else attack.quick
    rate = attack.rate if paced else 0
    least = attack.least if full else 0.3
    most = least
    if quota:
        most = max(least, 3 * quota / rate if rate else 60)
    return Plan(name, 2.0 if full else 0.12, least, most, quota, rate)


class Figures(NamedTuple):
    """What came of a siege."""

    attack: str
    done: int
    """What the attacker has done, in its own unit."""
    seconds: float
    """How long the flood was measured beside it."""
    alone: float
    """Messages a second of the flood, before and after: the mean."""
    beside: float
    """Messages a second of the flood, beside the attacker."""
    ratio: float
    """Of these two: what the flood gets beside the attacker, of what it gets alone."""
    efficiency: float
    """The same of the messages for each second of processor time that the receiver takes.

    It does not shrink where others take the processors.
    """
    probe_alone: float
    """Seconds of the slowest probe, alone."""
    probe_beside: float
    newcomer_alone: float
    """Seconds of the slowest newcomer, alone."""
    newcomer_beside: float
    growth: int
    """Bytes that the receiver's resident memory grew by at most, beside the attacker."""
    descriptors: int
    """How many more than alone the receiver had open at most."""
    released: float
    """Seconds until it had no more than before, once the attacker had ended; -1 for never."""
    log_lines: int
    """Lines that the receiver wrote to its log in that time."""
    log_bytes: int
    processor: float
    """Of a processor, that the receiver took beside the attacker."""
    connects: int
    """Connections of the flood and the probe: two, if none was closed."""
    faults: list[str]
    """What was lost, doubled or out of order, and whose process failed."""


# -- the receiver -------------------------------------------------------------------------------


def receive(board: Board, address: str, attack: attacks.Attack) -> None:
    """Check what honest producers send, and count what others do."""
    if not attack.refuses:
        passing.AVAILABLE = False  # type: ignore[misc]  # as on a kernel before Linux 6.16
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if attack.descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (attack.descriptors, hard))
    with mpsr.Receiver(address, mode=0o666) as receiver:
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        if attack.spare_descriptors:
            used = len(os.listdir("/proc/self/fd")) - 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + attack.spare_descriptors, hard))
        board[Slot.READY] = 1
        expected: dict[bytes, int] = {}
        for batch in receiver.batches():
            if batch.peer.uid != HONEST or batch.producer is None:
                board[Slot.STRANGE] += len(batch)
                continue
            label = batch.producer.label
            number = expected.get(batch.producer.id, 0)
            ends = number + len(batch)
            if [int(message[:12]) for message in batch] != list(range(number, ends)):
                board[Slot.FAULTS] += 1
            if label == NEWCOMER:  # it comes once
                board[Slot.CAME_SINGLY] += len(batch)
                continue
            expected[batch.producer.id] = ends
            if label == FLOOD:
                if not number:
                    board[Slot.IDENTITY] = int.from_bytes(batch.producer.id[:8], "little")
                    board[Slot.IDENTITY + 1] = int.from_bytes(batch.producer.id[8:], "little")
                board[Slot.CAME] = ends
            else:
                board[Slot.CAME_SINGLY] += len(batch)


# -- the honest ---------------------------------------------------------------------------------


def flood(board: Board, address: str) -> None:
    """Send all the time."""
    fill = bytes(SIZE - 12)
    with mpsr.Producer[bytes](address, label=FLOOD, buffer=1 << 22) as producer:
        number = 0
        while not board[Slot.ENDING]:
            ends = number + CHUNK
            producer.send_many([b"%012d%b" % (each, fill) for each in range(number, ends)])
            number = ends
        producer.flush(PATIENCE)
        board[Slot.SENT] = number
        board[Slot.FLOOD_CONNECTS] = producer.stats().connects


def probe(board: Board, address: str) -> None:
    """Have one message after the other acknowledged, and note how long it takes."""
    with mpsr.Producer[bytes](address, label=PROBE) as producer:
        for number in count():
            if board[Slot.ENDING]:
                break
            phase = board[Slot.PHASE]
            board[Slot.PROBING_SINCE] = since = time.monotonic_ns()
            producer.send(b"%012d" % number)
            producer.flush(PATIENCE)
            board.note_time(Slot.PROBE_SLOWEST, since, phase)
            board[Slot.PROBING_SINCE] = 0
            board[Slot.PROBED] = number + 1
            time.sleep(PROBE_PAUSE)
        board[Slot.PROBE_CONNECTS] = producer.stats().connects


def come_and_go(board: Board, address: str) -> None:
    """Be one newcomer after the other, and note how long it takes until one is served."""
    while not board[Slot.ENDING]:
        phase = board[Slot.PHASE]
        board[Slot.COMING_SINCE] = since = time.monotonic_ns()
        with mpsr.Producer[bytes](address, label=NEWCOMER) as producer:
            producer.send(b"%012d" % 0)
            producer.flush(PATIENCE)
            board.note_time(Slot.NEWCOMER_SLOWEST, since, phase)
            board[Slot.COMING_SINCE] = 0
            board[Slot.WELCOMED] += 1
        time.sleep(NEWCOMER_PAUSE)


# -- the attacker -------------------------------------------------------------------------------


class Arena(attacks.Arena):
    """What an attacker sees of the siege."""

    def __init__(self, board: Board, address: str, plan: Plan) -> None:
        super().__init__(address, plan.quota, plan.rate)
        self._board = board
        self.identity: bytes = b"".join(
            board[Slot.IDENTITY + half].to_bytes(8, "little") for half in range(2)
        )

    def note(self, done: int) -> None:
        """Tell the stage what is done."""
        self._board[Slot.DONE] = done

    def note_finished(self) -> None:
        """Tell the stage that all is done."""
        self._board[Slot.FINISHED] = 1

    def ceases(self) -> bool:
        """Tell whether it is to end."""
        return bool(self._board[Slot.CEASING])


def attack(board: Board, address: str, plan: Plan) -> None:
    """Attack until told to end."""
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    arena = Arena(board, address, plan)
    attacks.ATTACKS[plan.attack].run(arena)
    arena.finish()


# -- the stage ----------------------------------------------------------------------------------


def fork(uid: int, child: Callable[[], None], stderr: int | None = None) -> int:
    """Do something in a child process of a user; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if stderr is not None:
            os.dup2(stderr, 2)
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        child()
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Receiver:
    """The receiver's process, as the stage sees it."""

    def __init__(self, pid: int, log: str) -> None:
        self.pid = pid
        self._log = log

    def descriptors(self) -> int:
        """Return how many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def forget_peak(self) -> None:
        """Measure the peak of its memory anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the most memory that was resident, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def processor_time(self) -> float:
        """Return the seconds of processor time it has used."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS

    def logged(self) -> bytes:
        """Return what it has written to stderr."""
        return Path(self._log).read_bytes()


class Stretch(NamedTuple):
    """What was measured in one phase."""

    seconds: float
    messages: int
    peak: int
    descriptors: int
    processor_time: float
    logged: bytes

    @property
    def rate(self) -> float:
        """Messages a second of the flood."""
        return self.messages / self.seconds


def measure(board: Board, receiver: Receiver, phase: Phase, ended: Iterator[bool]) -> Stretch:
    """Measure for as long as ``ended`` says."""
    for slowest in (Slot.PROBE_SLOWEST, Slot.NEWCOMER_SLOWEST):
        board[slowest + phase] = 0
    board[Slot.PHASE] = phase
    receiver.forget_peak()
    logged, processor_time = len(receiver.logged()), receiver.processor_time()
    since, came, descriptors = time.monotonic(), board[Slot.CAME], 0
    while not next(ended):
        descriptors = max(descriptors, receiver.descriptors())
        time.sleep(SAMPLE_INTERVAL)
    seconds, came = time.monotonic() - since, board[Slot.CAME] - came
    for slowest, under_way in (
        (Slot.PROBE_SLOWEST, Slot.PROBING_SINCE),
        (Slot.NEWCOMER_SLOWEST, Slot.COMING_SINCE),
    ):
        if (began := board[under_way]) != 0 and phase is Phase.BESIDE:
            board.note_time(slowest, began, phase)
    return Stretch(
        seconds,
        came,
        receiver.peak(),
        descriptors,
        receiver.processor_time() - processor_time,
        receiver.logged()[logged:],
    )


def lasting(seconds: float) -> Iterator[bool]:
    """Say False for some time, then True."""
    end = time.monotonic() + seconds
    while True:
        yield time.monotonic() >= end


def attacking(board: Board, plan: Plan) -> Iterator[bool]:
    """Say False until the attacker has done all it was to do, within the plan's bounds."""
    since = time.monotonic()
    while True:
        lasted = time.monotonic() - since
        done = lasted >= plan.least and board[Slot.FINISHED]
        yield bool(done or lasted >= plan.most)


def besiege(plan: Plan, directory: str) -> Figures:
    """Play all of it in processes of this one's."""
    board, address = Board(), os.path.join(directory, "siege.sock")
    log = os.path.join(directory, "log")
    stderr = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    chosen = attacks.ATTACKS[plan.attack]
    receiver = Receiver(fork(0, partial(receive, board, address, chosen), stderr), log)
    board.wait(Slot.READY, 1, "the receiver")
    honest = {
        fork(HONEST, partial(role, board, address)): role.__name__
        for role in (flood, probe, come_and_go)
    }
    board.wait(Slot.CAME, WARM_UP, "the flood")
    board.wait(Slot.PROBED, 1, "the probe")
    board.wait(Slot.WELCOMED, 1, "a newcomer")
    alone = measure(board, receiver, Phase.ALONE, lasting(plan.seconds))
    attacker = fork(HOSTILE, partial(attack, board, address, plan))
    beside = measure(board, receiver, Phase.BESIDE, attacking(board, plan))
    done = board[Slot.DONE]
    board[Slot.CEASING] = 1
    faults = []
    if not ended_well(attacker, PATIENCE):
        faults.append("the attacker failed")
    released = wait_for_release(receiver, alone.descriptors)
    after = measure(board, receiver, Phase.AFTER, lasting(plan.seconds))
    board[Slot.ENDING] = 1
    faults += [f"{role} failed" for pid, role in honest.items() if not ended_well(pid, PATIENCE)]
    os.kill(receiver.pid, signal.SIGTERM)
    if not ended_well(receiver.pid, PATIENCE):
        faults.append("the receiver failed")
    if board[Slot.FAULTS]:
        faults.append(f"{board[Slot.FAULTS]} batches came out of turn")
    if board[Slot.SENT] != board[Slot.CAME]:
        faults.append(f"{board[Slot.CAME]} came of {board[Slot.SENT]}")
    singly = board[Slot.PROBED] + board[Slot.WELCOMED]
    if singly != board[Slot.CAME_SINGLY]:
        faults.append(f"{board[Slot.CAME_SINGLY]} single ones came of {singly}")
    mean = (alone.messages + after.messages) / (alone.seconds + after.seconds)
    if faults:
        faults.append(receiver.logged()[-2000:].decode(errors="replace"))
    return Figures(
        attack=plan.attack,
        done=done,
        seconds=beside.seconds,
        alone=mean,
        beside=beside.rate,
        ratio=beside.rate / mean,
        efficiency=efficiency(beside) / efficiency(alone, after),
        probe_alone=max(board[Slot.PROBE_SLOWEST + each] for each in (0, 2)) / 1e9,
        probe_beside=board[Slot.PROBE_SLOWEST + Phase.BESIDE] / 1e9,
        newcomer_alone=max(board[Slot.NEWCOMER_SLOWEST + each] for each in (0, 2)) / 1e9,
        newcomer_beside=board[Slot.NEWCOMER_SLOWEST + Phase.BESIDE] / 1e9,
        growth=max(0, beside.peak - alone.peak),
        descriptors=beside.descriptors - alone.descriptors,
        released=released,
        log_lines=beside.logged.count(b"\n"),
        log_bytes=len(beside.logged),
        processor=beside.processor_time / beside.seconds,
        connects=board[Slot.FLOOD_CONNECTS] + board[Slot.PROBE_CONNECTS],
        faults=faults,
    )


def efficiency(*stretches: Stretch) -> float:
    """Return the messages of the flood for a second of the receiver's processor time."""
    took = sum(each.processor_time for each in stretches)
    return sum(each.messages for each in stretches) / max(took, 1 / TICKS)


def ended_well(pid: int, seconds: float) -> bool:
    """Wait for the end of a child; tell whether it ended well, and in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def wait_for_release(receiver: Receiver, baseline: int) -> float:
    """Return the seconds until the receiver has no more descriptors than before; -1 if never."""
    since = time.monotonic()
    while receiver.descriptors() > baseline:
        if time.monotonic() - since > PATIENCE:
            return -1
        time.sleep(0.005)
    return time.monotonic() - since


# -- from outside -------------------------------------------------------------------------------


def run(plan: Plan, stages: Forks) -> Figures:
    """Besiege, in processes of their own, all of which end with it."""
    return Figures(*stage(stages, plan, timeout=plan.most + 5 * PATIENCE))


def stage(stages: Forks, request: object, *, timeout: float) -> Any:
    """Fork a stage, with a directory; return what it prints, and end its children."""
    directory = tempfile.mkdtemp(prefix="mpsr-")
    os.chmod(directory, 0o755)  # others are to reach the socket
    stderr = os.memfd_create("stderr")
    stage = stages.start([directory, request], stderr)
    try:
        said = stage.said(timeout)
        status = stage.wait(PATIENCE)
        complaint = os.pread(stderr, 1 << 20, 0).decode(errors="replace")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(stage.pid, signal.SIGKILL)
        stage.close()
        os.close(stderr)
        shutil.rmtree(directory, ignore_errors=True)
    if status:
        raise RuntimeError(f"the stage failed: {complaint}")
    return json.loads(said)


def main() -> NoReturn:
    """Fork the stages; each says what came of its siege."""
    logging.raiseExceptions = False
    _ = mpsr.Producer, mpsr.Receiver  # loaded while the files can be read
    directory, plan = serve(int(sys.argv[1]))
    print(json.dumps(besiege(Plan(*plan), directory)))  # noqa: T201 - it is what a caller reads
    sys.exit()


if __name__ == "__main__":
    main()
