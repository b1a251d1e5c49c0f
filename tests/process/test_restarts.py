"""What a receiver's death costs."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chance import Chance
from tests.process import roles

if TYPE_CHECKING:
    from tests.process.workers import Start


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.soak)])
def test_killed_receivers_lose_nothing_and_repeat_nothing_acknowledged(
    start: Start, address: str, tmp_path: Path, chance: Chance, rounds: int
) -> None:
    """A receiver killed at any moment causes only repeats of unacknowledged messages."""
    record = tmp_path / "record"
    producers = [
        start(roles.stream, address, str(record), flush_every=10 * 4**place)
        for place in (0, 0, 1, 1, 2, 2, 3, 6)
    ]
    for number in range(rounds):
        if number == 1:
            time.sleep(0.5)  # the producers wait, and back off
        receiver = start(roles.receive, address, str(record))
        assert (receiver.hear(), receiver.hear()) == ("ready", "receiving")
        time.sleep(chance.uniform(0, 0.2))
        receiver.kill()
    last = start(roles.receive, address, str(record))
    for producer in producers:
        producer.tell("end")
    sent = {producer.pid: producer.hear() for producer in producers}
    assert [producer.wait() for producer in producers] == [0] * len(producers)
    last.process.terminate()
    assert last.wait() == 0
    assert check(record, rounds + 1) == sent


def check(record: Path, receivers: int) -> dict[int, int]:
    """Read a record of events in their order; return how many messages of each producer arrived."""
    taken: dict[int, int] = defaultdict(int)  # by producer: all below was given to a receiver
    flushed: dict[int, int] = defaultdict(int)  # by producer: all below was flushed
    lives: dict[tuple[int, int], int] = {}  # by receiver and producer: where it is to go on
    for event in roles.Record.events(record):
        producer = event["producer"]
        if "flushed" in event:
            assert event["flushed"] <= taken[producer], "flushed what nobody took"
            flushed[producer] = event["flushed"]
            continue
        life = event["receiver"], producer
        if life in lives:
            assert event["first"] == lives[life], "a gap or a repeat in one receiver's life"
        assert event["first"] <= taken[producer], "a gap between two receivers"
        assert event["first"] >= flushed[producer], "a repeat of what was acknowledged"
        lives[life] = event["first"] + event["count"]
        taken[producer] = max(taken[producer], lives[life])
    assert len({receiver for receiver, _ in lives}) == receivers
    return dict(taken)
