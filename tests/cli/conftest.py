"""Run the command as a process of its own, or in this process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import IO, Any
from unittest import mock

import pytest

from mpsr.cli.entry import run
from tests.cli.wording import check_words
from tests.commands import command
from tests.processes import await_signal_taken

COMMAND = tuple(command())
PATIENCE = 30  # seconds: longer means that it hangs


class Running:
    """A command under way."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.told = ""  # what it has said on stderr so far

    def await_word(self, text: str) -> None:
        """Return once it says this on stderr."""
        assert self.popen.stderr is not None
        while text not in self.told:
            line = self.popen.stderr.readline()
            assert line, f"it ended, saying {self.told!r}"
            self.told += line.decode()

    def read_line(self) -> bytes:
        """Return the next line of its stdout."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def write(self, data: bytes) -> None:
        """Write to its stdin, which stays open."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(data)

    def kill(self, signum: int) -> None:
        self.popen.send_signal(signum)

    def await_signal_seen(self) -> None:
        """Return once a signal that was sent has been taken, and it sleeps again."""
        await_signal_taken(self.pid)

    def finish(self, signum: int | None = None) -> tuple[int, bytes, str]:
        """Wait for its end; return the exit status, the rest of stdout, and all of stderr."""
        if signum is not None:
            self.kill(signum)
        out, err = self.popen.communicate(timeout=PATIENCE)
        self.told += (err or b"").decode()
        check_words(self.told)
        return self.popen.returncode, out or b"", self.told


class Screen:
    """The far side of a terminal."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.shown = b""

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    def wait_for(self, what: bytes) -> None:
        """Return once this is shown."""
        while what not in self.shown:
            assert select.select([self._master], [], [], PATIENCE)[0], self.shown
            self.shown += os.read(self._master, 4096)

    def rest(self) -> bytes:
        """Return all that was shown, after the last process has closed the terminal."""
        try:
            while data := os.read(self._master, 4096):
                self.shown += data
        except OSError:  # EIO: Linux's end of a terminal
            pass
        return self.shown


class Cli:
    """Starts commands in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Running] = []

    def start(
        self,
        *arguments: str | bytes,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        **options: Any,
    ) -> Running:
        """Start a command, as ``limits={"NAME": value}`` with other limits, in its own session."""
        changes = options.pop("env", {})  # None removes a variable
        environment = {k: v for k, v in {**os.environ, **changes}.items() if v is not None}
        words = [*options.pop("before", ()), *command(**options.pop("limits", {})), *arguments]
        popen = subprocess.Popen(
            words,
            bufsize=0,
            cwd=self.directory,
            env=environment,
            start_new_session=True,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            **options,
        )
        self.started.append(Running(popen))
        return self.started[-1]

    def recv(self, *arguments: str, **options: Any) -> Running:
        """Start ``mpsr recv app.sock``; return once it listens."""
        running = self.start("recv", "app.sock", *arguments, **options)
        running.await_word("mpsr: listening on app.sock")
        return running

    def run(
        self, *arguments: str | bytes, feed: bytes | None = None, **options: Any
    ) -> tuple[int, bytes, str]:
        """Run a command to its end; return the exit status, stdout and stderr."""
        if feed is not None:
            options["stdin"] = subprocess.PIPE
        running = self.start(*arguments, **options)
        out, err = running.popen.communicate(feed, timeout=PATIENCE)
        told = (err or b"").decode()
        check_words(told)
        return running.popen.returncode, out or b"", told

    def call(
        self,
        *arguments: str | bytes,
        feed: bytes = b"",
        env: Mapping[str, str | None] | None = None,
    ) -> tuple[int, bytes, str]:
        """Run a command to its end as ``run`` does, but in this process: ten times as quick.

        It has its own directory, environment and standard streams. A test of start, signals, exit,
        locks or the process itself takes ``run``.
        """
        with ExitStack() as own:
            streams = [own.enter_context(_memory()) for _ in range(3)]
            os.write(streams[0].fileno(), feed)
            os.lseek(streams[0].fileno(), 0, os.SEEK_SET)
            for name, memory in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                # A descriptor of its own: a command may replace that of a stdout that fails.
                stream = own.enter_context(os.fdopen(os.dup(memory.fileno()), "r+", buffering=1))
                own.enter_context(mock.patch.object(sys, name, stream))
            own.enter_context(chdir(self.directory))
            own.enter_context(mock.patch.dict(os.environ))
            for variable, value in (env or {}).items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value
            status = run([os.fsdecode(each) for each in arguments])
            sys.stdout.flush()
            out, err = (os.pread(each.fileno(), _size(each), 0) for each in streams[1:])
        told = err.decode()
        check_words(told)
        return status, out, told

    @property
    def address(self) -> Path:
        """Where ``app.sock`` is."""
        return self.directory / "app.sock"


def _memory() -> IO[bytes]:
    """Open a file in memory."""
    return os.fdopen(os.memfd_create("stream"), "r+b", buffering=0)


def _size(file: IO[bytes]) -> int:
    """Return how many bytes a file has."""
    return os.fstat(file.fileno()).st_size


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    for running in cli.started:
        if running.popen.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.popen.communicate()
        for stream in (running.popen.stdin, running.popen.stdout, running.popen.stderr):
            if stream is not None:
                stream.close()
