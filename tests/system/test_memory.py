"""What mpsr does where the system gives a process little memory, as under ``ulimit -v``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = """
import resource, sys
def limit(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""

PASS = (
    LIMIT
    + """
import mpsr
mpsr.Receiver, mpsr.Producer
sending = sys.argv[2] == "send"
more, count = int(sys.argv[3]), 3000
if sending:
    with mpsr.Producer(sys.argv[1], buffer=1 << 20) as producer:
        limit(more)
        for _ in range(count):
            producer.send(bytes(3000))
else:
    limit(more)
    with mpsr.Receiver(sys.argv[1]) as receiver:
        print("listening", flush=True)
        got = 0
        while got < count:
            got += len(receiver.receive_batch(20))
"""
)

COMMAND = (
    LIMIT
    + """
import threading
from mpsr.cli import recv
from mpsr.cli.entry import run
from mpsr.sync.receiver import Receiver
threading.stack_size(64 << 20)
limit(6 << 20)
sys.exit(run(["recv", *sys.argv[1:]]))
"""
)


@pytest.mark.parametrize("more", [6 << 20, 28 << 20])  # bytes: less than an optimisation asks for
def test_messages_pass_with_little_memory(tmp_path: Path, more: int) -> None:
    """More than 4 MiB, after which there would be a ring; no allocation for speed is an error."""
    address = str(tmp_path / "app.sock")
    with subprocess.Popen(
        [sys.executable, "-c", PASS, address, "receive", str(more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        sender = [sys.executable, "-c", PASS, address, "send", str(more)]
        sent = subprocess.run(sender, check=False, capture_output=True, text=True, timeout=30)
        _, told = receiver.communicate(timeout=30)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert (receiver.returncode, told) == (0, "")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--type", "dgram"], "there is no memory to read datagrams"),
        (["--journal", "app.journal"], "cannot start a thread"),
    ],
)
def test_command_names_what_there_is_no_memory_for(
    tmp_path: Path, options: list[str], what: str
) -> None:
    """Where it cannot do without: in three lines, and it is no bug of mpsr."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "app.sock", *options],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert re.fullmatch(rf"mpsr: {what}.*\n  why: .+\n  try: .+\n", done.stderr)
    assert "defect" not in done.stderr
