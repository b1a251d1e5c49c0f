"""`mpsr demo` shows the whole pattern, with real processes, and cleans up."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chance import Chance
from tests.cli.conftest import Cli


def test_demo_shows_five_producers_and_a_receiver(cli: Cli) -> None:
    """It listens first; everything is sent and received; it ends by itself, with status 0."""
    status, out, told = cli.run("demo")
    lines = out.decode().splitlines()
    assert (status, told) == (0, "")
    assert lines[0] == "[Server] Listening..."
    assert sorted(lines[1:]) == [
        *(f"[Producer {i}] Sent." for i in range(5)),
        *(f"[Server] Got: Message from producer {i}" for i in range(5)),
    ]


def test_lines_of_many_processes_are_whole(cli: Cli) -> None:
    """However many write at once, to a pipe: no line is torn, none is missing."""
    text = "{i} " + "x" * 1500
    status, out, told = cli.run("demo", "--producers", "8", "--messages", "40", "--text", text)
    lines = out.decode().splitlines()
    assert (status, told) == (0, "")
    assert sorted(lines[1:]) == sorted(
        [
            *(f"[Producer {i}] Sent." for i in range(8)),
            *(f"[Server] Got: {i} {'x' * 1500}" for i in range(8) for _ in range(40)),
        ]
    )


def leftovers(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith("mpsr-demo-")]


def test_interrupted_demo_leaves_nothing_behind(cli: Cli) -> None:
    """Ctrl-C, which all its processes get, is status 130: no traceback, no file, no process."""
    demo = cli.start("demo", "--messages", "1000000", env={"TMPDIR": str(cli.directory)})
    assert demo.read_line() == b"[Server] Listening...\n"
    assert demo.read_line()
    assert leftovers(cli.directory)
    os.killpg(demo.pid, signal.SIGINT)
    status, _, told = demo.finish()
    assert (status, told) == (130, "")
    assert not leftovers(cli.directory)
    try:
        os.killpg(demo.pid, 0)
    except ProcessLookupError:
        return
    raise AssertionError("a producer lives on")


@pytest.mark.parametrize("count", [2, pytest.param(100, marks=pytest.mark.soak)])
def test_interrupt_while_producers_are_forked_shows_no_traceback(
    cli: Cli, chance: Chance, count: int
) -> None:
    """Python ignores an exception of a handler in the hooks of a fork, and would print it."""
    for _ in range(count):
        demo = cli.start("demo", "--producers", "256", "--messages", "100")
        assert demo.read_line() == b"[Server] Listening...\n"
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(demo.pid, signal.SIGINT)
        status, _, told = demo.finish()
        assert (status, told) == (130, "")


def test_demo_ends_quietly_with_its_reader(cli: Cli) -> None:
    """As in `mpsr demo | head -1`."""
    demo = cli.start("demo", "--messages", "10000", env={"TMPDIR": str(cli.directory)})
    assert demo.read_line() == b"[Server] Listening...\n"
    assert demo.popen.stdout is not None
    demo.popen.stdout.close()
    demo.popen.stdout = None
    status, _, told = demo.finish()
    assert (status, told) == (141, "")
    assert not leftovers(cli.directory)


def test_text_that_could_be_torn_is_refused(cli: Cli) -> None:
    """A line longer than a pipe takes at once is a usage error."""
    status, out, told = cli.call("demo", "--text", "x" * 5000)
    assert (status, out) == (2, b"")
    assert told == (
        "mpsr: --text is longer than 2048 bytes\n  why: in a pipe, parts of longer lines "
        "could be mixed\n  try: choose a shorter text\n"
    )
