"""Python's SysLogHandler is received as its page says."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import Message, run

if TYPE_CHECKING:
    from tests.clients.conftest import Show


@pytest.mark.parametrize("title", ["Datagrams", "Streams"])
def test_syslog_handler_is_received_as_its_page_says(show: Show, title: str) -> None:
    """A record is a message, also one of several lines."""
    section = show("syslog-handler", title)
    with section.receiving() as receiving:
        pid = run([sys.executable, "-c", section.code("python")])
        came = receiving.take(2)
    assert receiving.printed(came) == section.arriving
    bodies = ["<12>app: hello", "<12>app: two\nlines"]
    assert came == [Message(body, pid, os.getuid()) for body in bodies]
