"""A command run in this process prints, and ends, as one in a process of its own."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli
from tests.cli.journals import entry, make


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 0),
        (("--help",), 0),
        (("recv", "--help"), 0),
        (("recieve",), 2),
        (("send", "x", "--framing", "auto"), 2),
        (("send", "app.sock", b"\xff"), 69),
        (("journal", "verify", "events.journal"), 0),
        (("log", "events.journal", "-o", "text"), 0),
        (("log", "missing.journal"), 78),
        (("recv", "events.journal"), 78),
        (("recv", "app.sock", "--timeout", "10ms", "--quiet"), 124),
    ],
)
def test_call_in_this_process_is_as_a_run_in_its_own(
    cli: Cli, arguments: tuple[str | bytes, ...], status: int
) -> None:
    """Status, stdout and stderr are the same, and neither shows a traceback."""
    make(cli.directory / "events.journal", [entry(b"one", b"\xff")])
    called = cli.call(*arguments)
    assert called == cli.run(*arguments)
    assert called[0] == status
    assert "Traceback" not in called[2]


def test_call_reads_what_it_is_fed(cli: Cli) -> None:
    """Its stdin and its environment are its own, too."""
    variables = {"MPSR_SEND_TIMEOUT": "soon"}
    assert cli.call("send", "app.sock", feed=b"one\n", env=variables)[0] == 2
    assert cli.call("send", "app.sock", "--framing", "lines", feed=b"one\n") == cli.run(
        "send", "app.sock", "--framing", "lines", feed=b"one\n"
    )
