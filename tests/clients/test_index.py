"""The program on the first of the pages receives what its clients send."""

from __future__ import annotations

import grp
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import PAGES, listens, run
from tests.processes import eventually_by

if TYPE_CHECKING:
    from tests.clients.conftest import Show


@pytest.mark.needs("logger")
@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to give a socket to another group")
def test_program_on_the_index_tells_who_sent(show: Show) -> None:
    """Its socket belongs to the group, and a message comes with its sender's ids."""
    section = show("index")
    path = f"{section.directory}/log.sock"
    with subprocess.Popen(
        [sys.executable, "-c", section.code("python")], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        try:
            eventually_by(program, lambda: listens(path))
            pid = run(["logger", "--socket", path, "--tag", "me", "hello"])
            line = program.stdout.readline().decode()
            status = os.stat(path)
        finally:
            program.kill()
    assert line.startswith(f"{pid} {os.getuid()} [b'<13>")
    assert (status.st_mode & 0o777, grp.getgrgid(status.st_gid).gr_name) == (0o660, "www-data")


def test_each_page_is_listed_on_the_index() -> None:
    """A page that nobody finds is of no use."""
    listed = re.findall(r"^\| \[.*\]\((.*)\.md\)", (PAGES / "index.md").read_text(), re.MULTILINE)
    assert sorted(["index", *listed]) == sorted(page.stem for page in PAGES.glob("*.md"))
