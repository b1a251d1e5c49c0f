"""What producers do across fork()."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import mpsr
from tests.process import roles
from tests.process.stamps import Tally
from tests.process.workers import receive_all

if TYPE_CHECKING:
    from tests.process.workers import Start

HOWS = ["fork, exit", "fork, flush and _exit", "multiprocessing fork", "multiprocessing spawn"]


@pytest.mark.parametrize("how", HOWS)
def test_forked_producers_deliver_everything_under_their_own_names(
    start: Start, address: str, how: str
) -> None:
    """A parent and its children, none of which calls close(), are as many producers."""
    children = 2 if how.endswith("spawn") else 8  # each of those is another interpreter
    tally = Tally()
    with mpsr.Receiver(address) as receiver:
        parent = start(roles.fork_after_use, address, how, children=children, messages=1000)
        receive_all(receiver, tally.take, [parent])
        assert receiver.stats().accepted == children + 1
    assert list(tally.counts.values()) == [1000] * (children + 1)
    assert (
        len({source.pid for source in tally.sources.values()}) == len(tally.sources) == children + 1
    )


def test_fork_beside_sending_threads_leaves_a_child_that_can_send(
    start: Start, address: str
) -> None:
    """No lock that another thread held at the fork stays locked in the child."""
    tally = Tally()

    def take(batch: mpsr.Batch) -> None:
        if batch.peer.pid != parent.pid:
            tally.take(batch)

    with mpsr.Receiver(address) as receiver:
        parent = start(roles.fork_while_sending, address, children=30, messages=100)
        receive_all(receiver, take, [parent])
    assert list(tally.counts.values()) == [100] * 30
