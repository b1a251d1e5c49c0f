"""util-linux's logger is received as its page says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import Message, run, shape

if TYPE_CHECKING:
    from tests.clients.conftest import Show

pytestmark = pytest.mark.needs("logger")


@pytest.mark.parametrize("title", ["Datagrams", "Streams", "Octet counts"])
def test_logger_is_received_as_its_page_says(show: Show, title: str) -> None:
    """One message, from the process that was logger."""
    section = show("logger", title)
    with section.receiving() as receiving:
        pid = run(section.command("logger"))
        came = receiving.take(1)
    assert shape(receiving.printed(came)) == shape(section.arriving)
    assert came == [Message(came[0].body, pid, os.getuid())]


@pytest.mark.parametrize("title", ["Datagrams", "Streams", "Octet counts"])
def test_each_line_of_logger_is_a_message_in_either_form(show: Show, title: str) -> None:
    """The text ends the message, after any header."""
    section = show("logger", title)
    lines = ["first", "zweite, größer", "<34>is no priority here", "x" * 900]
    options = ["--octet-count"] if title == "Octet counts" else []
    command = [*section.command("logger")[:3], *options, "--tag", "me"]
    text = "".join(f"{line}\n" for line in lines)
    forms = {"--rfc3164": "<13>", "--rfc5424": "<13>1 "}
    with section.receiving() as receiving:
        pids = [run([*command, form], text) for form in forms]
        came = receiving.take(2 * len(lines))
    assert [message.pid for message in came] == [pid for pid in pids for _ in lines]
    starts = [start for start in forms.values() for _ in lines]
    for message, line, start in zip(came, 2 * lines, starts, strict=True):
        assert message.body.startswith(start)
        assert message.body.endswith(f" {line}")
