"""The examples do what they say, with one another and with clients that know nothing of mpsr."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import mpsr
from tests.chance import Chance
from tests.eventually import eventually

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 30  # seconds: longer means that it hangs

# Without a buffer Python cuts a line short when a signal breaks into the write of it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run(name: str, *arguments: str, cwd: Path) -> tuple[int, list[str], str]:
    """Run an example to its end; return the exit status, the lines of stdout, and stderr."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the server on its default path; it listens already."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / "server.py")]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "Server listening on demo.sock\n"
        yield server
        server.kill()


def test_five_clients_reach_the_server(server: subprocess.Popen[str], tmp_path: Path) -> None:
    """Every hello arrives, and the server ends in order."""
    status, lines, told = run("client.py", cwd=tmp_path)
    assert (status, told) == (0, "")
    assert sorted(lines) == [f"[Producer {i}] Sent: Hello from producer {i}" for i in range(5)]
    server.send_signal(signal.SIGINT)
    out, told = server.communicate(timeout=PATIENCE)
    assert (server.returncode, told) == (0, "")
    assert sorted(out.splitlines()) == [
        f"[Server] Received: Hello from producer {i}" for i in range(5)
    ]


def test_server_takes_unframed_text(server: subprocess.Popen[str], tmp_path: Path) -> None:
    """Text without a line end, longer than any buffer, and not always UTF-8."""
    texts = [b"hello", b"x" * 100_000, b"\xff"]
    for text in texts:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "demo.sock"))
            client.sendall(text)
    server.send_signal(signal.SIGTERM)
    out, _ = server.communicate(timeout=PATIENCE)
    received = {line.removeprefix("[Server] Received: ") for line in out.splitlines()}
    assert {(len(text), text[:9]) for text in received} == {
        (5, "hello"),
        (100_000, "xxxxxxxxx"),
        (1, "\ufffd"),
    }


def test_server_steals_no_address(server: subprocess.Popen[str], tmp_path: Path) -> None:
    """A second server is told who is there, in one line."""
    status, lines, told = run("server.py", "demo.sock", cwd=tmp_path)
    assert (status, lines) == (1, [])
    assert told.startswith(f"cannot claim demo.sock: process {server.pid} is receiving there")


def test_clients_reach_a_foreign_server(tmp_path: Path) -> None:
    """A server that reads each connection once gets the bare text."""
    path = tmp_path / "foreign.sock"
    command = [sys.executable, str(EXAMPLES / "client.py"), str(path), "plain"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
        ) as clients:
            texts = []
            for _ in range(5):
                connection, _ = listener.accept()
                with connection:
                    texts.append(connection.recv(1024))
            out, _ = clients.communicate(timeout=PATIENCE)
    assert sorted(texts) == [b"Hello from producer %d" % i for i in range(5)]
    assert out.count("Sent: ") == 5


def test_clients_without_a_server_say_why(tmp_path: Path) -> None:
    """Each failure to connect is a line that says what is missing."""
    status, lines, told = run("client.py", cwd=tmp_path)
    assert (status, told) == (1, "")
    assert sorted(line.partition(": ")[0] for line in lines) == [
        f"[Producer {i}] Failed" for i in range(5)
    ]
    assert all("nothing is there; start the receiver" in line for line in lines)


def test_combined_ends_by_itself(tmp_path: Path) -> None:
    """It listens first; then everything is sent and received, in any order."""
    status, lines, told = run("combined.py", cwd=tmp_path)
    assert (status, told) == (0, "")
    assert lines[0] == "[Server] Listening..."
    assert sorted(lines[1:]) == [
        *(f"[Producer {i}] Sent." for i in range(5)),
        *(f"[Server] Got: Message from producer {i}" for i in range(5)),
    ]


def test_aggregate_loses_nothing(tmp_path: Path) -> None:
    """The worker has seen every reading of every producer."""
    assert run("aggregate.py", cwd=tmp_path) == (
        0,
        [f"[Worker] sensor {i}: {sum(range(1000))}" for i in range(3)],
        "",
    )


@contextmanager
def exactly_once(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the example on its default paths; it listens already."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / "exactly_once.py")]
    with subprocess.Popen(
        command, cwd=directory, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Receiving at demo.sock, after position")
        yield process
        process.kill()


def handled(directory: Path, columns: str = "name, value", table: str = "results") -> list[Any]:
    """Return the rows that the example has committed so far."""
    with closing(sqlite3.connect(directory / "demo.db")) as results:
        return results.execute(f"SELECT {columns} FROM {table} ORDER BY rowid").fetchall()


def is_handled(directory: Path, row: tuple[str, float]) -> bool:
    return row in handled(directory)


def event(name: str, value: float) -> bytes:
    return json.dumps({"name": name, "value": value}).encode()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_handler_has_handled_everything_exactly_once(
    tmp_path: Path, chance: Chance, kills: int
) -> None:
    """However often it is killed, the results hold each message once, and in order."""
    end = Event()

    def send(place: int) -> int:
        with mpsr.Producer(tmp_path / "demo.sock") as producer:
            for number in count(1):
                producer.send(event(str(place), number))
                if number % 10 == 0:
                    producer.flush(timeout=PATIENCE)
                if end.is_set():
                    return number
        raise AssertionError

    with ThreadPoolExecutor(3) as threads:
        senders = [threads.submit(send, place) for place in range(3)]
        for _ in range(kills):
            with exactly_once(tmp_path) as process:
                time.sleep(chance.uniform(0, 0.2))
                process.kill()
        with exactly_once(tmp_path) as process:
            eventually(lambda: len(handled(tmp_path)) > 100)  # each life may have been a short one
            end.set()
            sent = [sender.result() for sender in senders]
            process.terminate()
            assert process.wait(PATIENCE) == 0
    rows = handled(tmp_path)
    for place, messages in enumerate(sent):
        mine = [value for name, value in rows if name == str(place)]
        assert mine == list(range(1, messages + 1))
    assert len(rows) == sum(sent)


def test_message_that_cannot_be_handled_is_a_dead_letter_once_and_stops_nothing(
    tmp_path: Path,
) -> None:
    """The handler neither ends on it nor gets it again after a restart."""
    bad = [b"no JSON", b'{"name": "b"}', b"[" * 100_000]
    for life in ("first", "second"):
        with exactly_once(tmp_path) as process:
            with mpsr.Producer(tmp_path / "demo.sock") as producer:
                producer.send_many(
                    [event(life, 1), *(bad if life == "first" else []), event(life, 2)]
                )
                producer.flush(timeout=PATIENCE)
            eventually(partial(is_handled, tmp_path, (life, 2)))
            process.kill()
    assert handled(tmp_path) == [("first", 1), ("first", 2), ("second", 1), ("second", 2)]
    letters = handled(tmp_path, "body, reason", "dead_letters")
    assert [body for body, _ in letters] == bad
    assert [reason.partition("(")[0] for _, reason in letters] == [
        "DecodeError",
        "KeyError",
        "DecodeError",
    ]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    """An example is read in a minute: under 50 lines, and its first names its subject."""
    lines = path.read_text().splitlines()
    assert len(lines) < 50
    assert lines[0].startswith('"""')
