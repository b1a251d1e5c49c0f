"""Every hostile peer that the suite knows, and an honest producer that is served meanwhile."""

from __future__ import annotations

import os
import sys

import pytest

from tests.process import siege
from tests.process.peers import LIMIT, known

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="takes the right to be another user"
    ),
    pytest.mark.timing,
]


@pytest.mark.parametrize("kind", ["plain", "journal"])
def test_honest_producer_is_served_within_a_second_while_each_hostile_peer_is_active(
    kind: str,
) -> None:
    """A connected producer and a new one have a message acknowledged in time."""
    waits = siege.stage("peers", kind, timeout=50)
    assert list(waits) == known(kind)
    assert {name: each for name, each in waits.items() if max(each) >= LIMIT} == {}
