"""The producers in other languages do what their page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.clients.conftest import PATIENCE, ROOT
from tests.eventually import eventually
from tests.process.programs import receiving
from tests.processes import eventually_by

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = ROOT / "examples" / "other-languages"
SOURCES: Final = ("node/producer.js", "go/producer.go", "rust/producer.rs")
PAGE: Final = ROOT / "docs" / "how-to" / "other-languages.md"
LINES: Final = [b"message %08d of a producer in another language\n" % n for n in range(20_000)]

# What the page leaves away around the two or three lines of each of the simplest senders.
AROUND_GO: Final = """package main
import ("fmt"; "log"; "net")
func main() {
%s}
"""
AROUND_RUST: Final = """use std::io::Write;
use std::os::unix::net::UnixStream;
fn main() -> std::io::Result<()> {
%sOk(())
}
"""


def built(language: str, source: Path, to: Path) -> list[str]:
    """Return the command that runs a program, built where it has to be."""
    program = to / "program"
    environment = {**os.environ, "GO111MODULE": "off", "CGO_ENABLED": "0"}
    match language:
        case "node":
            return ["node", str(source)]
        case "go":
            command = ["go", "build", "-o", str(program), str(source)]
        case _:
            command = ["rustc", "--edition", "2021", "-o", str(program), str(source)]
    subprocess.run(command, check=True, env=environment, cwd=to)
    return [str(program)]


languages = pytest.mark.parametrize(
    "producer",
    [
        pytest.param("node", marks=pytest.mark.needs("node")),
        pytest.param("go", marks=pytest.mark.needs("go")),
        pytest.param("rust", marks=pytest.mark.needs("rustc")),
    ],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module")
def producer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of a language's producer, which is built once for all workers."""
    (source,) = (PROGRAMS / request.param).glob("producer.*")
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    to = directory / f"producer-{request.param}"
    to.mkdir(exist_ok=True)
    with (to / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        finished = to / "command"
        if not finished.exists():
            finished.write_text(json.dumps(built(request.param, source, to)))
        command: list[str] = json.loads(finished.read_text())
    return command


@contextmanager
def killed(address: str, output: Path) -> Iterator[None]:
    """Run a receiver that writes to a file; it is killed at the end of the block."""
    command = [sys.executable, "-m", "mpsr", "recv", address]
    with (
        output.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE) as receiver,
    ):
        try:
            assert receiver.stderr is not None
            assert receiver.stderr.readline().startswith(b"mpsr: listening on ")
            yield
        finally:
            receiver.kill()


def failing(command: list[str], lines: bytes) -> str:
    """Run a producer that fails, and return what it says."""
    ended = subprocess.run(
        command, input=lines, check=False, stderr=subprocess.PIPE, timeout=PATIENCE
    )
    assert ended.returncode == 1
    return ended.stderr.decode()


@languages
def test_messages_arrive_once_and_in_order(producer: list[str], address: str) -> None:
    """A producer that is there first waits for its receiver."""
    with subprocess.Popen([*producer, address], stdin=subprocess.PIPE) as sending:
        assert sending.stdin is not None
        sending.stdin.write(LINES[0])
        sending.stdin.flush()
        with receiving(address) as received:
            sending.stdin.writelines(LINES[1:])
            sending.stdin.close()
            assert sending.wait(PATIENCE) == 0
    assert received == [line.rstrip(b"\n") for line in LINES]


@languages
def test_nothing_is_lost_through_a_receiver_that_is_killed(
    producer: list[str], address: str, tmp_path: Path
) -> None:
    """The next receiver gets all that was not accepted, in order."""
    first = tmp_path / "first"
    with subprocess.Popen([*producer, address], stdin=subprocess.PIPE) as sending:
        assert sending.stdin is not None
        with killed(address, first):
            sending.stdin.writelines(LINES[: len(LINES) // 2])
            sending.stdin.flush()
            eventually_by(sending, lambda: first.stat().st_size > 0)
        with receiving(address) as received:
            sending.stdin.writelines(LINES[len(LINES) // 2 :])
            sending.stdin.close()
            assert sending.wait(PATIENCE) == 0
    before = first.read_bytes()
    after = [message + b"\n" for message in received]
    assert before
    assert b"".join(LINES).startswith(before)
    assert after == LINES[len(LINES) - len(after) :]
    assert before.count(b"\n") + len(after) >= len(LINES)


@languages
def test_message_that_is_too_large_is_refused_with_its_size(
    producer: list[str], address: str
) -> None:
    """The producer prints the limit, and the messages before it arrive."""
    with receiving(address, max_message=5000) as received:
        told = failing([*producer, address], b"small\n" + bytes(6000) + b"\n")
    assert told == "a message of 6000 bytes: the receiver takes 5000\n"
    assert received == [b"small"]


@languages
def test_producer_that_is_refused_says_why(producer: list[str], address: str) -> None:
    """It ends, since the same would happen again."""
    with receiving(address, allow_uids=[os.getuid() + 1]):
        told = failing([*producer, address], b"hello\n")
    assert told.startswith("the receiver refuses: ")


@pytest.mark.parametrize(
    ("language", "block", "around"),
    [
        pytest.param("node", "javascript", "%s", marks=pytest.mark.needs("node")),
        pytest.param("go", "go", AROUND_GO, marks=pytest.mark.needs("go")),
        pytest.param("rust", "rust", AROUND_RUST, marks=pytest.mark.needs("rustc")),
    ],
)
def test_simplest_sender_of_the_page_is_received(
    language: str, block: str, around: str, address: str, tmp_path: Path
) -> None:
    """A line is a message."""
    (code,) = re.findall(rf"^```{block}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert code.count("\n") <= 3
    source = tmp_path / f"sender.{ {'node': 'js', 'go': 'go', 'rust': 'rs'}[language] }"
    source.write_text((around % code).replace("/run/app/events.sock", address))
    command = built(language, source, tmp_path)
    with receiving(address) as received:
        subprocess.run(command, check=True, timeout=PATIENCE)
        eventually(lambda: received)
    assert received == [b"hello"]


@pytest.mark.parametrize("source", SOURCES)
def test_producer_has_less_than_150_lines_of_code(source: str) -> None:
    """Blank lines and comments not counted; each is on the page."""
    lines = (PROGRAMS / source).read_text().splitlines()
    assert sum(not re.match(r"\s*(//.*)?$", line) for line in lines) < 150
    assert f"```{{literalinclude}} ../../examples/other-languages/{source}\n" in PAGE.read_text()
