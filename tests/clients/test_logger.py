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
@pytest.mark.parametrize("form", ["--rfc3164", "--rfc5424"])
def test_each_line_of_logger_is_a_message_in_either_form(show: Show, title: str, form: str) -> None:
    """Whatever stands in front of it, the text ends the message."""
    section = show("logger", title)
    lines = ["first", "zweite, größer", "<34>is no priority here", "x" * 900]
    options = ["--octet-count"] if title == "Octet counts" else []
    command = [*section.command("logger")[:3], *options, form, "--tag", "me"]
    with section.receiving() as receiving:
        pid = run(command, "".join(f"{line}\n" for line in lines))
        came = receiving.take(len(lines))
    assert {message.pid for message in came} == {pid}
    for message, line in zip(came, lines, strict=True):
        assert message.body.startswith("<13>")
        assert message.body.endswith(f" {line}")
