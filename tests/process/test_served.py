"""Every hostile peer that the suite knows, and an honest producer that is served meanwhile."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process import siege
from tests.process.forking import Forks
from tests.process.peers import LIMIT, known

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="takes the right to be another user"
)


@pytest.fixture(scope="module")
def stages() -> Iterator[Forks]:
    """Give the process that forks the stages."""
    with Forks("tests.process.peers") as stages:
        yield stages


@pytest.mark.parametrize("kind", ["plain", "journal"])
def test_honest_producer_is_served_within_a_second_while_each_hostile_peer_is_active(
    stages: Forks, kind: str
) -> None:
    """A connected producer and a new one have a message acknowledged in time."""
    waits = siege.stage(stages, kind, timeout=50)
    assert list(waits) == known(kind)
    assert {name: each for name, each in waits.items() if max(each) >= LIMIT} == {}
