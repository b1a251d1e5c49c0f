"""What a producer's death, stall or number does to the others."""

from __future__ import annotations

import time
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.engine.receiving.inbox import Inbox
from mpsr.limits import MIB
from tests.chance import Chance
from tests.eventually import eventually
from tests.process import roles
from tests.process.stamps import Source, Tally
from tests.process.workers import PATIENCE, receive_all, receive_beside

if TYPE_CHECKING:
    from tests.process.workers import Start, Worker

LARGE = 10 * MIB


def unread(receiver: mpsr.Receiver) -> int:
    """Return how many bytes wait in the kernel, or in rings, for the receiver's connections."""
    assert isinstance(receiver._inbox, Inbox)
    size = bytearray(4)
    total = 0
    for connection in receiver._inbox._connections.open:
        ioctl(connection.socket, FIONREAD, size)
        total += int.from_bytes(size, "little")
        total += connection.ring.filled() if connection.ring is not None else 0
    return total


def bring_inside_a_message(receiver: mpsr.Receiver, tally: Tally) -> None:
    """Receive one large message; return when the next has begun, which cannot end unread."""
    tally.take(receiver.receive_batch(timeout=PATIENCE))
    eventually(lambda: unread(receiver))


def test_producer_killed_inside_a_large_message_leaves_no_part_of_it(
    start: Start, address: str
) -> None:
    """What a killed producer had begun is never handed out; the next producer is heard."""
    with mpsr.Receiver(address) as receiver:
        for lives in range(1, 4):
            tally = Tally()
            victim = start(roles.flood, address, size=LARGE)
            bring_inside_a_message(receiver, tally)
            victim.kill()
            while receiver.stats().connections:
                batch = receiver.try_receive_batch()
                assert batch is None
            assert tally.counts == {Source(victim.pid, 0): 1}
            assert receiver.stats().messages == lives


def test_producers_killed_at_any_moment_leave_whole_messages_and_the_others_alone(
    start: Start, address: str, chance: Chance
) -> None:
    """Every message that comes is whole and in order; bystanders deliver all of theirs."""
    tally = Tally()
    bystanders = [start(roles.flood, address, size=100, pause=0.001) for _ in range(2)]
    sent: dict[Source, int] = {}

    def work() -> None:
        for size in (0, 100_000, LARGE):
            victim = start(roles.flood, address, size=size)
            victim.hear()
            time.sleep(chance.uniform(0, 0.2))
            victim.kill()
        for bystander in bystanders:
            assert bystander.hear() == "sending"
            sent[Source(bystander.pid, 0)] = bystander.ask("end")
            assert bystander.wait() == 0

    with mpsr.Receiver(address) as receiver:
        receive_beside(receiver, tally.take, work)
        assert receiver.stats().rejected == 0
    assert {source: tally.counts[source] for source in sent} == sent


def test_producer_stopped_inside_a_message_does_not_disturb_the_others(
    start: Start, address: str
) -> None:
    """While one is stopped, others deliver; once it goes on, so does its message."""
    tally = Tally()
    with mpsr.Receiver(address) as receiver:
        stopped = start(roles.flood, address, size=LARGE)
        bring_inside_a_message(receiver, tally)
        stopped.freeze()
        others = [start(roles.send, address, 5000) for _ in range(2)]

        def work() -> None:
            for other in others:
                assert other.wait() == 0
            stopped.thaw()
            assert stopped.hear() == "sending"
            sent[Source(stopped.pid, 0)] = stopped.ask("end")
            assert stopped.wait() == 0

        sent = {Source(other.pid, 0): 5000 for other in others}
        receive_beside(receiver, tally.take, work)
    assert tally.counts == sent


@pytest.mark.parametrize(
    ("processes", "producers"), [(4, 50), pytest.param(10, 100, marks=pytest.mark.soak)]
)
def test_many_producers_deliver_everything_unmixed(
    start: Start, address: str, processes: int, producers: int
) -> None:
    """Hundreds of producers reach one receiver; all arrives, in order, each by its own name."""
    tally = Tally()
    with mpsr.Receiver(address) as receiver:
        workers = [start(roles.crowd, address, producers, 100) for _ in range(processes)]
        receive_all(receiver, tally.take, workers)
    assert tally.counts == {
        Source(worker.pid, place): 100 for worker in workers for place in range(producers)
    }
    assert len(tally.sources) == processes * producers


def loud(start: Start, address: str, producers: int) -> list[Worker]:
    return [start(roles.flood, address, size=1000) for _ in range(producers)]


def test_loud_producers_do_not_starve_a_quiet_one(start: Start, address: str) -> None:
    """A single message gets through within a few rounds, whatever others send."""
    with mpsr.Receiver(address) as receiver, mpsr.Producer(address) as quiet:
        workers = loud(start, address, 3)
        heard: set[int | None] = set()
        while len(heard) < len(workers) or not quiet.stats().connected:
            heard.add(receiver.receive_batch(timeout=PATIENCE).peer.pid)
        for number in range(20):
            quiet.send(b"%d" % number)  # its producer is idle: it is in the kernel by now
            others = 0
            while (batch := receiver.receive_batch(timeout=PATIENCE)).peer.pid in heard:
                others += 1
            assert list(batch) == [b"%d" % number]
            assert others <= 30
            receiver.acknowledge()
        for worker in workers:
            worker.kill()
