"""Run web servers that log through the handler, under load, and check what arrives."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.ports import free_port
from tests.processes import eventually_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

PATIENCE: Final = 20.0  # seconds: longer means that it hangs
PER_REQUEST: Final = 3  # records

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "logging.md"
(LIFESPAN,) = (
    block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if "lifespan" in block
)
# The page's own lines set logging up. The receiver's restart takes its time on a busy machine.
SETUP: Final = LIFESPAN.replace(
    'Handler("app.sock")', 'Handler(os.environ["LOG_SOCKET"], timeout=10)'
)
assert SETUP != LIFESPAN

APPLICATION: Final = (
    f"import itertools, os\n{SETUP}"
    """
log = logging.getLogger("app")
counts = {}

def work():
    pid = os.getpid()  # a worker counts from 0, also one that was forked with the application
    count = counts.setdefault(pid, itertools.count())
    for _ in range(3):
        last = next(count)
        log.info("record %d of %d " + "x" * 200, last, pid, extra={"n": last})
    return f"{pid} {last}".encode()

def wsgi(environ, start_response):
    body = work()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        async with lifespan(asgi):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    body = work()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
)


class Load:
    """Sends requests, and knows the last record of each worker that has answered."""

    def __init__(self, port: int, clients: int) -> None:
        self._port = port
        self._stopping = False
        self.answers = 0
        self.last: dict[int, int] = {}  # by worker
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        self._changed = threading.Condition()

    def _run(self) -> None:
        while not self._stopping:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
                connection.request("GET", "/")
                answer = connection.getresponse().read()
                connection.close()
            except (OSError, http.client.HTTPException):
                continue  # of a worker that ended: what it had answered counts
            pid, last = map(int, answer.split())
            with self._changed:
                self.answers += 1
                self.last[pid] = max(last, self.last.get(pid, -1))
                self._changed.notify_all()

    def await_more(self, answers: int) -> None:
        """Return once so many more requests were answered."""
        with self._changed:
            due = self.answers + answers
            assert self._changed.wait_for(lambda: self.answers >= due, PATIENCE)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()


class Receiver:
    """``mpsr recv`` that appends to a file, and can be restarted."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.address = str(directory / "log.sock")
        self.output = directory / "log.json"
        self._arguments = arguments
        self.start()

    def start(self) -> None:
        """Start; return once it listens."""
        command = [sys.executable, "-m", "mpsr", "recv", self.address, "--decode", "log"]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "-o", "json", *self._arguments],
                stdout=output,
                stderr=subprocess.PIPE,
            )
        assert self.process.stderr is not None
        assert b"listening on" in self.process.stderr.readline()

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(signum)
        _, told = self.process.communicate(timeout=PATIENCE)
        assert b"lost" not in told, told

    def restart(self, signum: int = signal.SIGTERM) -> None:
        """End it, and start the next one."""
        self.stop(signum)
        self.start()


@contextmanager
def serving(
    directory: Path, address: str, *command: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server of the application; ``{port}`` in its command is the port."""
    (directory / "application.py").write_text(APPLICATION)
    port = free_port()
    environ = {**os.environ, "LOG_SOCKET": address, "PYTHONPATH": path_with(directory)}
    told = (directory / "server.log").open("ab")
    server = subprocess.Popen(
        [sys.executable, "-m", *(part.format(port=port) for part in command)],
        cwd=directory,
        env=environ,
        stdout=told,
        stderr=told,
        start_new_session=True,
    )
    try:
        eventually_by(server, lambda: listens(port), reason=(directory / "server.log").read_text)
        yield server, port
        server.terminate()
        server.wait(PATIENCE)
    finally:
        told.close()
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def path_with(directory: Path) -> str:
    """Return where Python finds modules, a directory's too."""
    return os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))


def listens(port: int) -> bool:
    """Return whether a program listens at a port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def numbers(lines: list[bytes]) -> dict[int, list[int]]:
    """Return the numbers of the records of each worker, in the order of their arrival."""
    found: dict[int, list[int]] = defaultdict(list)
    for line in lines:
        record = json.loads(json.loads(line)["body"])
        if record["logger"] != "app":
            continue  # the server's own
        n, pid = record["extra"]["n"], record["process"]
        assert record["message"] == f"record {n} of {pid} " + "x" * 200
        found[pid].append(n)
    return found


def check_whole(found: dict[int, list[int]], load: Load) -> None:
    """Assert that every record came once, in the order of its worker, and none is missing."""
    for pid, received in found.items():
        assert received == list(range(len(received))), f"of worker {pid}: {_odd(received)}"
    for pid, last in load.last.items():
        assert found[pid][-1] >= last, pid
    assert sum(map(len, found.values())) >= load.answers * PER_REQUEST


def _odd(received: list[int]) -> list[tuple[int, int]]:
    return [pair for pair in enumerate(received) if pair[0] != pair[1]][:3]
