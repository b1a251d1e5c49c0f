"""rsyslog is received as its page says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import beside, run, shape

if TYPE_CHECKING:
    from tests.clients.conftest import Show

# What a system's own configuration has in front: where rsyslog gets its messages.
INPUT = """
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{directory}/input.sock")
"""


@pytest.mark.needs("rsyslogd", "logger")
def test_rsyslog_is_received_as_its_page_says(show: Show) -> None:
    """What it got from others comes in datagrams of its own."""
    section = show("rsyslog")
    directory = section.directory
    source = f"{directory}/input.sock"
    Path(f"{directory}/rsyslog.conf").write_text(
        INPUT.format(directory=directory) + section.code("text")
    )
    options = ["-n", "-i", f"{directory}/rsyslog.pid", "-f", f"{directory}/rsyslog.conf"]
    with section.receiving() as receiving:
        with beside(["rsyslogd", *options], listens_at=source) as pid:
            run(["logger", "--socket", source, "--tag", "me"], "hello\ngrößer\n")
            came = receiving.take(2)
    assert shape(receiving.printed(came)) == shape(section.arriving)
    assert {(message.pid, message.uid) for message in came} == {(pid, os.getuid())}
