"""Fork the workers of these tests from one process that has imported all that they need."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

ROOT: Final = Path(__file__).parents[2]
MOST: Final = 1 << 16  # bytes of a request
NUMBER: Final = struct.Struct("=i")


class Forked:
    """A process that was forked, with the methods of ``subprocess.Popen`` that these tests use."""

    def __init__(self, news: int, stdin: int, stdout: int) -> None:
        self._news = open(news, "rb", 0)  # noqa: SIM115 - closed with the process
        self.stdin = open(stdin, "wb", 0)  # noqa: SIM115
        self.stdout = open(stdout, "rb", 0)  # noqa: SIM115
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid: int = self._number()

    def _number(self) -> int:
        number: int = NUMBER.unpack(self._news.read(NUMBER.size))[0]
        return number

    def poll(self) -> int | None:
        """Return the exit status, as ``subprocess`` has it, or None while the process runs."""
        with self._lock:  # two threads may ask
            if self.returncode is None and select.select([self._news], [], [], 0)[0]:
                self.returncode = os.waitstatus_to_exitcode(self._number())
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return its exit status."""
        if self.returncode is None:
            select.select([self._news], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def said(self, timeout: float) -> bytes:
        """Return all that it says until its end."""
        said = b""
        deadline = monotonic() + timeout
        while select.select([self.stdout], [], [], max(0, deadline - monotonic()))[0]:
            piece = self.stdout.read(MOST)
            if not piece:
                return said
            said += piece
        raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)

    def close(self) -> None:
        """Wait for its end, and close the pipes."""
        self.wait()
        for pipe in (self.stdin, self.stdout, self._news):
            pipe.close()


class Forks:
    """The process that forks, as the tests see it: ``python -m MODULE DESCRIPTOR``."""

    def __init__(self, module: str) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                },
                start_new_session=True,  # Ctrl-C ends the tests, which then end this process
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait()

    def start(self, request: Sequence[object], stderr: int) -> Forked:
        """Fork a process, in a session of its own, which gets the request."""
        their_stdin, stdin = os.pipe()
        stdout, their_stdout = os.pipe()
        news, their_news = os.pipe()
        theirs = their_stdin, their_stdout, stderr, their_news
        socket.send_fds(self._control, [json.dumps(request).encode()], theirs)
        for each in (their_stdin, their_stdout, their_news):
            os.close(each)
        return Forked(news, stdin, stdout)


def serve(descriptor: int) -> Any:
    """Fork a process for each request, and tell of its end; in that process, return the request.

    Its descriptors are its standard ones, as those of a program that was started by itself. So is
    its end: the caller returns to the interpreter.
    """
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    running: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and the pipe for its news
    while True:
        ready, _, _ = select.select([descriptor, *running], [], [])
        for ended in set(ready) - {descriptor}:
            pid, news = running.pop(ended)
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):
                os.write(news, NUMBER.pack(status))
            os.close(news)
            os.close(ended)
        if descriptor not in ready:
            continue
        request, passed, _, _ = socket.recv_fds(control, MOST, 4)
        if not request:
            sys.exit()
        pid = os.fork()
        if not pid:
            os.setsid()
            control.close()
            for ended, (_, news) in running.items():
                os.close(ended)
                os.close(news)
            for standard, each in enumerate(passed[:3]):
                os.dup2(each, standard)
            for each in passed:
                os.close(each)
            return json.loads(request)
        for each in passed[:3]:
            os.close(each)
        os.write(passed[3], NUMBER.pack(pid))
        running[os.pidfd_open(pid)] = pid, passed[3]
