"""nginx is received as its page says."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import beside, request, shape

if TYPE_CHECKING:
    from tests.clients.conftest import Show

# What Debian's own configuration has around it, and something to serve.
AROUND = """
daemon off;
user www-data;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    {page}
    set_real_ip_from unix:;
    real_ip_header X-Real-IP;
    server {{
        listen unix:{directory}/web.sock;
        root {directory};
        location = /hello {{ return 204; }}
    }}
}}
"""


@pytest.mark.needs("nginx")
def test_nginx_is_received_as_its_page_says(show: Show) -> None:
    """Its workers, of another user, write both logs to one socket."""
    section = show("nginx")
    directory = section.directory
    Path(f"{directory}/nginx.conf").write_text(
        AROUND.format(directory=directory, page=section.code("nginx"))
    )
    command = ["nginx", "-e", "stderr", "-p", directory, "-c", f"{directory}/nginx.conf"]
    with section.receiving() as receiving:
        with beside(command, listens_at=f"{directory}/web.sock") as pid:
            request(f"{directory}/web.sock", "/hello")
            request(f"{directory}/web.sock", "/missing")
            came = receiving.take(3)
            workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    printed = receiving.printed(came).replace(directory, "").replace("unix:", "192.0.2.7")
    assert shape(printed) == shape(section.arriving)
    assert ' 204 0 "-" "-"' in came[0].body
    assert {str(message.pid) for message in came} == set(workers)
    assert {message.uid for message in came} == {pwd.getpwnam("www-data").pw_uid}
