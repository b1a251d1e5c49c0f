"""Datadog's client is received as its page says."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import Message, run

if TYPE_CHECKING:
    from tests.clients.conftest import Show

METRICS = ["page.views:1|c", "room.temperature:21.5|g|#room:kitchen"]


@pytest.mark.parametrize(
    ("title", "bodies"),
    [
        ("Datagrams", METRICS),
        ("Streams", [f"{metric}\n" for metric in METRICS]),
        ("Several metrics in one datagram", METRICS),
    ],
)
def test_dogstatsd_is_received_as_its_page_says(show: Show, title: str, bodies: list[str]) -> None:
    """Each metric is a message; on a stream, with its newline."""
    section = show("dogstatsd", title)
    with section.receiving() as receiving:
        pid = run([sys.executable, "-c", section.code("python")])
        came = receiving.take(len(bodies))
    assert receiving.printed(came) == section.arriving
    assert came == [Message(body, pid, os.getuid()) for body in bodies]
