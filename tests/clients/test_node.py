"""The loggers of Node.js are received as their pages say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import Message, run, shape
from tests.conftest import NODE_MODULES

if TYPE_CHECKING:
    from tests.clients.conftest import Show


@pytest.mark.parametrize(
    ("page", "title"),
    [
        pytest.param(
            "pino", "pino-socket", marks=pytest.mark.needs("node", "npm:pino", "npm:pino-socket")
        ),
        pytest.param(
            "pino", "A connection of your own", marks=pytest.mark.needs("node", "npm:pino")
        ),
        pytest.param("winston", None, marks=pytest.mark.needs("node", "npm:winston")),
    ],
)
def test_logger_of_node_is_received_as_its_page_says(
    show: Show, page: str, title: str | None
) -> None:
    """A record is a line, and a message."""
    section = show(page, title)
    program = Path(f"{section.directory}/program.js")
    program.write_text(section.code("javascript"))
    with section.receiving() as receiving:
        pid = run(["node", str(program)], NODE_PATH=str(NODE_MODULES))
        came = receiving.take(2)
    assert shape(receiving.printed(came)) == shape(section.arriving)
    assert came == [Message(message.body, pid, os.getuid()) for message in came]
