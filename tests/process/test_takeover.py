"""Who holds an address, and when the next may have it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

import mpsr
from tests.process import roles
from tests.process.stamps import Source, Tally, stamped
from tests.process.workers import receive_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.workers import Start


def test_live_receiver_is_named_and_left_alone(start: Start, address: str, tmp_path: Path) -> None:
    """A second receiver is refused with the first one's process id; the first goes on."""
    first = start(roles.receive, address, str(tmp_path / "record"))
    assert first.hear() == "ready"
    with pytest.raises(mpsr.AddressInUse, match=f"process {first.pid} ") as caught:
        mpsr.Receiver(address)
    assert caught.value.pid == first.pid
    with mpsr.Producer(address) as producer:
        producer.send(stamped(0))
    first.process.terminate()
    assert first.hear() == "receiving"
    assert first.hear()["messages"] == 1


@pytest.mark.parametrize("how", ["fork", "multiprocessing", "spawn"])
def test_address_of_a_killed_receiver_is_free_though_its_child_lives(
    start: Start, address: str, how: str
) -> None:
    """The next receiver takes the path at once, with no manual step, and is heard."""
    first = start(roles.receive_with_child, address, how)
    child = first.hear()
    with pytest.raises(mpsr.AddressInUse):
        mpsr.Receiver(address)
    first.kill()
    tally = Tally()
    with mpsr.Receiver(address) as receiver:
        sender = start(roles.send, address, 100)
        receive_all(receiver, tally.take, [sender])
    assert tally.counts == {Source(sender.pid, 0): 100}
    os.kill(child, 0)  # it still lives


@pytest.mark.parametrize("races", [5, pytest.param(200, marks=pytest.mark.soak)])
def test_of_two_that_start_at_once_exactly_one_receives(
    start: Start, address: str, races: int
) -> None:
    """The loser is refused, with the winner's pid; no close or kill leaves an obstacle."""
    racers = [start(roles.race, address) for _ in range(2)]
    assert [racer.hear() for racer in racers] == ["ready", "ready"]
    for number in range(races):
        moment = time.monotonic() + 0.03
        for racer in racers:
            racer.tell(moment)
        results = [racer.hear() for racer in racers]
        assert sorted(result["won"] for result in results) == [False, True]
        winner = results[0]["won"] is False
        rival = results[not winner]["rival"]
        assert rival in (results[winner]["pid"], None)  # None: it had not written it yet
        racers[winner].tell("close" if number % 2 else "die")
        assert [racer.hear() for racer in racers] == ["over", "over"]
    for racer in racers:
        racer.tell(None)
        assert racer.wait() == 0
