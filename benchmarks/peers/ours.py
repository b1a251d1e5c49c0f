"""mpsr itself."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from benchmarks.peers.base import Peer
from benchmarks.sink import Sink
from benchmarks.work import Work
from mpsr import AsyncProducer, Producer, Receiver, __version__, _speedups  # before the forks


class Mpsr(Peer):
    """Producers send natively, with every default; the receiver acknowledges as it goes."""

    settings = (
        "every default (for idle connections, room for all): native framing with "
        "acknowledgements; `send` and `for message in receiver`, or `send_many` and `batches()`; "
        "idle connections are held by AsyncProducers"
    )

    @classmethod
    def version(cls) -> str:
        return f"{__version__}, {'C' if _speedups.IN_C else 'Python'} codec"

    def produce(self, work: Work) -> None:
        with Producer(self.path) as producer:
            work.drive(producer.send if self.spec.interface == "message" else producer.send_many)

    def receive(self, sink: Sink) -> None:
        with Receiver(self.path, max_connections=max(1024, self.spec.producers)) as receiver:
            if self.spec.interface == "message":
                sink.pull(receiver)
            else:
                sink.pull_batches(receiver.batches())

    def hold(self, work: Work) -> None:
        asyncio.run(self._hold(work))

    async def _hold(self, work: Work) -> None:
        """Hold AsyncProducers, one task each: a thread each would be the holder's limit."""
        producers: list[AsyncProducer[Any]] = []
        ready, leave = asyncio.Event(), asyncio.Event()

        async def connect() -> None:
            async with AsyncProducer(self.path) as producer:
                await producer.send(work.warm_up)
                await producer.flush()
                producers.append(producer)
                if len(producers) == work.connections:
                    ready.set()
                await leave.wait()

        async def send(message: bytes) -> None:
            await random.choice(producers).send(message)
            await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(work.connections):
                tasks.create_task(connect())
            await ready.wait()
            await work.run_async(send)
            leave.set()
