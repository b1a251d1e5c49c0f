"""Aggregate producers into one channel, so short that a slow worker makes them wait (asyncio)."""

import asyncio
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

import mpsr


async def produce(path: Path, i: int) -> None:
    async with mpsr.AsyncProducer(path, label=f"sensor {i}") as producer:
        for reading in range(1000):
            await producer.send(b"%d" % reading)


async def main(path: Path) -> None:
    inlet, outlet = anyio.create_memory_object_stream[mpsr.Batch](2)
    totals = Counter[str]()

    async def work() -> None:
        async with outlet:
            async for batch in outlet:
                totals[batch.producer.label if batch.producer else "?"] += sum(map(int, batch))

    async with asyncio.TaskGroup() as tasks, mpsr.AsyncReceiver(path) as receiver, inlet:
        producers = asyncio.gather(*(produce(path, i) for i in range(3)))
        producers.add_done_callback(lambda _: receiver.stop())
        tasks.create_task(work())
        async for batch in receiver.batches():
            await inlet.send(batch)  # coming back for the next acknowledges this one
        await producers
    print(*(f"[Worker] {name}: {total}" for name, total in sorted(totals.items())), sep="\n")


with TemporaryDirectory() as directory:
    asyncio.run(main(Path(directory, "demo.sock")))
