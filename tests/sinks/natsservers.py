"""Run NATS servers, alone or as a cluster, and the links that lead to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import nats
import nats.errors
from nats.aio.client import Client

from tests.eventually import eventually
from tests.ports import free_port, free_ports
from tests.processes import eventually_by

T = TypeVar("T")
PROGRAM = Path(sysconfig.get_path("scripts")) / "nats-server"
PATIENCE = 30.0  # seconds: longer means that it hangs
INTERVAL = 0.02  # seconds: each check is a connection to the server


async def _ignore(_: Exception) -> None:
    """Do nothing."""


async def connected(port: int, **more: Any) -> Client:
    return await nats.connect(
        more.pop("url", f"nats://127.0.0.1:{port}"),
        allow_reconnect=False,
        error_cb=_ignore,
        connect_timeout=1,
        **more,
    )


class NatsServer:
    """A server, which can be killed and started again with the same data."""

    def __init__(
        self, directory: Path, port: int, *, more: str = "", sync: str = "", name: str = "one"
    ) -> None:
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self.directory = directory
        self.log = directory / "log"
        directory.mkdir(parents=True, exist_ok=True)
        store = f'store_dir: "{directory / "data"}"'
        if sync:
            store += f"\n  sync_interval: {sync}"
        self._config = directory / "nats.conf"
        self._config.write_text(
            f"server_name: {name}\nlisten: 127.0.0.1:{port}\njetstream {{\n  {store}\n}}\n{more}\n"
        )
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> NatsServer:
        """Start it; return once it listens."""
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen([PROGRAM, "-c", self._config], stdout=log, stderr=log)
        eventually_by(self.popen, self._listens, reason=self.log.read_text)
        return self

    def _listens(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self, signum: int = signal.SIGKILL) -> None:
        if self.popen is not None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.send_signal(signum)
            self.popen.wait(PATIENCE)

    def pause(self) -> None:
        assert self.popen is not None
        self.popen.send_signal(signal.SIGSTOP)

    # -- asking ---------------------------------------------------------------------------------

    def call(self, subject: str, content: object = None, **more: Any) -> dict[str, Any]:
        """Ask JetStream's API."""

        async def ask() -> dict[str, Any]:
            client = await connected(self.port, **more)
            try:
                data = b"" if content is None else json.dumps(content).encode()
                answer = await client.request(f"$JS.API.{subject}", data, 5)
                found: dict[str, Any] = json.loads(answer.data)
                return found
            finally:
                await client.close()

        return asyncio.run(ask())

    def create(self, stream: str, subject: str, **config: Any) -> None:
        """Create a stream, once the server or its cluster can."""
        wanted = {"name": stream, "subjects": [subject], "allow_atomic": True, **config}

        def created() -> bool:
            try:
                answer = self.call(f"STREAM.CREATE.{stream}", {"storage": "file", **wanted})
            except (nats.errors.Error, OSError) as exc:
                answer = {"error": repr(exc)}
            assert "error" not in answer, answer
            return True

        eventually(created, within=PATIENCE, interval=INTERVAL)

    def delete_streams(self) -> None:
        """Delete all streams."""
        for name in self.call("STREAM.NAMES").get("streams") or ():
            self.call(f"STREAM.DELETE.{name}")

    def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Publish a message, as any other program may."""

        async def send() -> None:
            client = await connected(self.port)
            try:
                await client.jetstream().publish(subject, data, headers=dict(headers))
            finally:
                await client.close()

        asyncio.run(send())

    def count(self, stream: str, **more: Any) -> int:
        """Return how many messages a stream has; -1 while nobody tells."""
        try:
            found = self.call(f"STREAM.INFO.{stream}", **more)
            return int(found["state"]["messages"])
        except (nats.errors.Error, OSError, KeyError):
            return -1

    def await_count(self, stream: str, count: int, patience: float = PATIENCE) -> None:
        """Return when a stream has this many messages."""

        def stored() -> bool:
            found = self.count(stream)
            assert found >= count, f"{found} of {count} messages are stored"
            return True

        eventually(stored, within=patience, interval=INTERVAL)

    def messages(self, stream: str) -> list[tuple[str, Mapping[str, str], bytes]]:
        """Return all messages of a stream, oldest first: subject, headers and body."""

        async def read() -> list[tuple[str, Mapping[str, str], bytes]]:
            client = await connected(self.port)
            try:
                js = client.jetstream()
                left = (await js.stream_info(stream)).state.messages
                found: list[tuple[str, Mapping[str, str], bytes]] = []
                subscription = await js.subscribe(">", stream=stream, ordered_consumer=True)
                while len(found) < left:
                    message = await subscription.next_msg(PATIENCE)
                    found.append((message.subject, message.headers or {}, message.data))
                return found
            finally:
                await client.close()

        return asyncio.run(read())


def cluster(directory: Path, count: int = 3) -> list[NatsServer]:
    """Return the servers of a cluster, not started."""
    ports = free_ports(2 * count)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports[count:])
    return [
        NatsServer(
            directory / f"n{number}",
            ports[number],
            name=f"n{number}",
            more=(
                f"cluster {{\n  name: c\n  listen: 127.0.0.1:{ports[count + number]}\n"
                f"  routes: [{routes}]\n}}"
            ),
        )
        for number in range(count)
    ]


class Link:
    """Carries connections to a server, until it is cut; what is under way is then gone."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = free_port()
        self.restore()

    def restore(self) -> None:
        self._call(self._listen())

    def cut(self) -> None:
        self._call(self._abort())

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _abort(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._carry(reader, far)),
                    asyncio.ensure_future(self._carry(far_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            if far is not None:
                far.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
