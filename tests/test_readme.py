"""The README's snippets, run as pasted: each in a process and a fresh directory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpsr

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
RECEIVING, PRODUCING, RECEIVING_ASYNC = SNIPPETS[:3]  # tests/docs runs the others
SHELL = re.findall(r"```console\n(.*?)```", README, re.DOTALL)[0]
PATH = "events.sock"


@pytest.fixture(autouse=True)
def directory(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Go to a fresh directory."""
    directory = os.path.dirname(address)
    monkeypatch.chdir(directory)
    return directory


@contextmanager
def running(snippet: str) -> Iterator[subprocess.Popen[str]]:
    """Run a snippet until the block ends, then end it as a person would."""
    program = subprocess.Popen(
        [sys.executable, "-u", "-c", snippet],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.send_signal(signal.SIGINT)
        program.communicate()


def send_until_it_listens(*messages: bytes) -> None:
    """Have the receiver of the directory take these."""
    with mpsr.Producer[bytes](PATH) as producer:
        producer.send_many(messages)
        producer.flush(10)


def test_producer_reaches_the_receiver() -> None:
    """The first two snippets work together, in two terminals."""
    with running(RECEIVING) as receiver:
        send_until_it_listens(b"first")
        subprocess.run([sys.executable, "-c", PRODUCING], check=True, timeout=10)
        assert receiver.stdout is not None
        printed = [receiver.stdout.readline() for _ in range(4)]
        assert printed == ["b'first'\n", "b'hello'\n", "b'a'\n", "b'b'\n"]
        assert os.stat(PATH).st_mode & 0o777 == 0o660


def test_async_receiver_prints_who_sent() -> None:
    """The third snippet takes what the second sends, and knows who that was."""
    with running(RECEIVING_ASYNC) as receiver:
        send_until_it_listens(b"first")
        with subprocess.Popen([sys.executable, "-c", PRODUCING]) as producer:
            pass
        assert producer.returncode == 0
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == f"{os.getpid()} {os.getuid()} 1 5\n"
        messages = nbytes = 0
        while messages < 3:
            pid, uid, count, size = map(int, receiver.stdout.readline().split())
            assert (pid, uid) == (producer.pid, os.getuid())
            messages, nbytes = messages + count, nbytes + size
        assert (messages, nbytes) == (3, 7)


def test_producer_without_a_receiver_fails_fast_and_says_why() -> None:
    """It ends within two seconds of the time-out that it states."""
    stated = re.search(r"timeout=(\d+)", PRODUCING)
    assert stated is not None
    since = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", PRODUCING], capture_output=True, text=True, check=False
    )
    assert time.monotonic() - since < int(stated[1]) + 2
    assert ended.returncode == 1
    assert "nothing is there; start the receiver, or check the path" in ended.stderr
    assert "3 messages to events.sock not delivered" in ended.stderr


@pytest.mark.needs("nc")
def test_shell_commands_reach_the_receiver() -> None:
    """Each line as it is typed; the receiver prints all that the others send."""
    lines = [line.removeprefix("$ ") for line in SHELL.splitlines()]
    lines[0] = lines[0].replace("&", ">received &")
    script = "\n".join(["set -e", *lines, "kill %1", "wait %1"])
    environ = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    with suppress(subprocess.CalledProcessError):  # of the receiver that was killed
        subprocess.run(["bash", "-mc", script], env=environ, check=True, timeout=30)
    received = Path("received").read_text().splitlines()
    assert received == ["hello", *map(str, range(1, 100_001)), "no newline"]
