"""Fixtures for tests with programs that others wrote, set up as the pages in docs/clients say."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import pytest

from tests.processes import eventually_by

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ROOT / "docs" / "clients"
DIRECTORY: Final = "/run/app"  # where the pages have their sockets
PATIENCE: Final = 20.0  # seconds: far beyond what anything here takes, below the test's own limit


class Message(NamedTuple):
    """One message, and who sent it in the kernel's word."""

    body: str
    pid: int | None
    uid: int | None


def shape(text: str) -> str:
    """Return a text with all alike that differs from run to run: numbers, dates, hosts.

    Priorities stay.
    """
    host = re.escape(socket.gethostname().partition(".")[0])
    text = re.sub(rf"\b{host}\b(\.[\w.-]+)?", "host", text)
    text = re.sub(r"[+-]\d\d:?\d\d\b", "+0000", text)
    text = re.sub(r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b( +)?", "Jan ", text)
    return re.sub(r"(?<![<\d])\d+", "0", text)


class Receiving:
    """The ``mpsr recv`` of a page, under way."""

    def __init__(self, command: list[str], directory: str) -> None:
        program, *arguments = command
        assert program == "mpsr"
        if "--group" in arguments and os.geteuid() != 0:
            pytest.skip("takes the right to give a socket to another group")
        self._raw = "raw" in arguments
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "mpsr", *arguments, "--output", "json"],
            bufsize=0,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._popen.stderr is not None
        line = self._popen.stderr.readline()
        assert line.startswith(b"mpsr: listening on "), line

    def take(self, count: int) -> list[Message]:
        """Wait for so many messages, end it, and return them; none more came, nor a complaint."""
        assert self._popen.stdout is not None
        lines = [self._popen.stdout.readline() for _ in range(count)]
        self._popen.send_signal(signal.SIGTERM)
        rest, told = self._popen.communicate(timeout=PATIENCE)
        assert rest == b""
        assert re.fullmatch(rf"mpsr: received {count} messages?, .*\n", told.decode())
        assert self._popen.returncode == 0
        return [self._message(json.loads(line)) for line in lines]

    @staticmethod
    def _message(told: dict[str, Any]) -> Message:
        return Message(told["body"], told["peer"]["pid"], told["peer"]["uid"])

    def printed(self, messages: list[Message]) -> str:
        """Return what the command of the page would have printed."""
        return "".join(message.body + ("" if self._raw else "\n") for message in messages)

    def kill(self) -> None:
        with self._popen:  # closes the pipes
            self._popen.kill()


class Section:
    """A page's beginning and one of its sections: configuration, commands, and what arrives."""

    def __init__(self, page: str, title: str | None, directory: str) -> None:
        text = (PAGES / f"{page}.md").read_text().replace(DIRECTORY, directory)
        beginning, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
        titled = dict(section.split("\n", 1) for section in sections)
        self._text = beginning if title is None else beginning + titled[title]
        self.directory = directory

    def code(self, language: str) -> str:
        """Return the only block of code in this language."""
        (block,) = self._blocks(language)
        return block

    def command(self, program: str) -> list[str]:
        """Return the only command that runs this program."""
        ((command, _),) = [told for told in self._commands() if told[0][0] == program]
        return command

    @property
    def arriving(self) -> str:
        """What the page says that its receiver prints."""
        ((_, output),) = [told for told in self._commands() if told[0][0] == "mpsr"]
        return output

    @contextmanager
    def receiving(self) -> Iterator[Receiving]:
        """Run the receiver of the page; it listens already."""
        receiving = Receiving(self.command("mpsr"), self.directory)
        try:
            yield receiving
        finally:
            receiving.kill()

    def _blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self._text, re.DOTALL | re.MULTILINE)

    def _commands(self) -> Iterator[tuple[list[str], str]]:
        for block in self._blocks("console"):
            for told in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, output = told.split("\n", 1)
                yield shlex.split(line), output


class Show(Protocol):
    """Gives a page, or one section of it, with its sockets in a directory of the test's own."""

    def __call__(self, page: str, title: str | None = None) -> Section: ...


@pytest.fixture
def show(address: str) -> Show:
    """Give a function that opens a page."""
    directory = os.path.dirname(address)
    os.chmod(directory, 0o755)  # for programs of other users

    def show(page: str, title: str | None = None) -> Section:
        return Section(page, title, directory)

    return show


def run(command: list[str], data: str = "", **environment: str) -> int:
    """Run a client to its good end; return its process id."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, **environment}
    ) as client:
        try:
            client.communicate(data.encode(), timeout=PATIENCE)
        finally:
            client.kill()
    assert client.returncode == 0
    return client.pid


@contextmanager
def beside(command: list[str], listens_at: str) -> Iterator[int]:
    """Run a server beside the block, which begins when it listens; give its process id."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        eventually_by(server, lambda: listens(listens_at))
        yield server.pid
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        finally:
            server.kill()


def listens(path: str) -> bool:
    """Tell whether somebody receives at a path, on a socket of either type."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            if sock.connect_ex(path) == 0:
                return True
    return False


def request(path: str, target: str) -> None:
    """Ask a web server for something."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        sock.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        while sock.recv(4096):
            pass
