"""Length-prefixed messages over asyncio's streams, as many write them by hand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from importlib.metadata import version
from typing import Any, Final

from benchmarks.peers.base import Peer
from benchmarks.peers.raw import hold_sockets
from benchmarks.sink import Sink
from benchmarks.work import Work

LENGTH: Final = struct.Struct(">I")
READ_SIZE: Final = 262_144  # bytes: what the event loop reads at once
LARGE: Final = 32_768  # bytes: from here on a message is awaited whole


class AsyncioStreams(Peer):
    """start_unix_server on asyncio's own loop."""

    settings = (
        "`start_unix_server`; a length before each message; the receiver reads up to 256 KiB and "
        "cuts out all whole messages (from 32 KiB on, `readexactly`); producers `write` and "
        "`drain` each message, or a whole batch, joined"
    )

    @staticmethod
    def run(main: Coroutine[Any, Any, None]) -> None:
        """Run on the peer's event loop."""
        asyncio.run(main)

    def produce(self, work: Work) -> None:
        self.run(self._produce(work))

    def receive(self, sink: Sink) -> None:
        self.run(self._receive(sink))

    def hold(self, work: Work) -> None:
        hold_sockets(self.path, work, LENGTH.pack(self.spec.size))

    async def _produce(self, work: Work) -> None:
        _, writer = await asyncio.open_unix_connection(self.path)

        async def send(message: bytes) -> None:
            writer.write(LENGTH.pack(len(message)) + message)
            await writer.drain()

        async def send_long(message: bytes) -> None:
            writer.write(LENGTH.pack(len(message)))
            writer.write(message)
            await writer.drain()

        async def send_many(messages: list[bytes]) -> None:
            writer.write(b"".join([LENGTH.pack(len(m)) + m for m in messages]))
            await writer.drain()

        if self.spec.interface == "batch":
            await work.drive_async(send_many)
        else:
            await work.drive_async(send if self.spec.size < LARGE else send_long)
        writer.close()

    async def _receive(self, sink: Sink) -> None:
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        large = self.spec.size >= LARGE

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await (_read_large(reader, sink) if large else _read_small(reader, sink))
                finished.set_result(None)
            except asyncio.IncompleteReadError:
                pass  # this producer is done
            except Exception as exc:  # noqa: BLE001 - whatever it is, the run ends with it
                finished.set_exception(exc)
            writer.close()

        limit = 2 * max(READ_SIZE, self.spec.size)
        server = await asyncio.start_unix_server(handle, self.path, limit=limit, backlog=4096)
        sink.listen()
        await finished
        server.close()


class UvloopStreams(AsyncioStreams):
    """The same on uvloop."""

    distribution = "uvloop"
    settings = "the same as asyncio streams, on uvloop"

    @classmethod
    def version(cls) -> str:
        import uvloop  # noqa: F401, PLC0415 - to see that it is there

        return version("uvloop")

    @staticmethod
    def run(main: Coroutine[Any, Any, None]) -> None:
        import uvloop  # noqa: PLC0415 - asyncio streams do without

        uvloop.run(main)


async def _read_small(reader: asyncio.StreamReader, sink: Sink) -> None:
    """Return once the sink has everything; raise IncompleteReadError where the stream ends."""
    rest = b""
    while data := await reader.read(READ_SIZE):
        messages, rest = _split(rest + data)
        if messages and sink.take(messages):
            return
    raise asyncio.IncompleteReadError(rest, None)


async def _read_large(reader: asyncio.StreamReader, sink: Sink) -> None:
    while True:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if sink.take([await reader.readexactly(length)]):
            return


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole messages in ``data``, and the rest."""
    messages = []
    begin, size = 0, len(data)
    while begin + LENGTH.size <= size:
        end = begin + LENGTH.size + LENGTH.unpack_from(data, begin)[0]
        if end > size:
            break
        messages.append(data[begin + LENGTH.size : end])
        begin = end
    return messages, data[begin:]
