"""HAProxy is received as its page says."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import Message, beside, request, shape

if TYPE_CHECKING:
    from tests.clients.conftest import Show

# As in Debian's own configuration, and something to serve.
WEB = """
defaults
    mode http
    log global
    option httplog
    option dontlognull
    timeout client 5s
    timeout server 5s
    timeout connect 5s

frontend web
    bind unix@{directory}/web.sock
    http-request return status 204
"""


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("title", ["Datagrams", "Streams"])
def test_haproxy_is_received_as_its_page_says(show: Show, title: str) -> None:
    """A request is a message, from its own user; so is one with a long name."""
    section = show("haproxy", title)
    directory = section.directory
    config = Path(f"{directory}/haproxy.cfg")
    config.write_text(section.code("text") + WEB.format(directory=directory))
    with section.receiving() as receiving:
        command = ["haproxy", "-db", "-f", str(config)]
        with beside(command, listens_at=f"{directory}/web.sock") as pid:
            request(f"{directory}/web.sock", "/hello")
            request(f"{directory}/web.sock", "/" + "x" * 2000)
            came = receiving.take(2)
    # HAProxy's threads log side by side.
    short, long = sorted(came, key=lambda message: len(message.body))
    assert shape(receiving.printed([short])) == shape(section.arriving)
    assert long.body.endswith("x" * 1000 + '"')
    assert len(long.body) > 1024  # where it ends unless the page's configuration says otherwise
    uid = pwd.getpwnam("haproxy").pw_uid
    assert came == [Message(message.body, pid, uid) for message in came]
