"""Measure what a stream takes: ``python -m benchmarks.fleet.capacity``.

Publishers send atomic batches to one stream, each to a subject of its own and one batch at a time,
as sinks do that share a stream. Nodes and publishers share this machine's cores, so a cluster of
machines carries more; what a batch costs, beside its messages, is the figure to keep.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from nats.aio.client import Client

from benchmarks.fleet.cluster import Cluster, connect, make_stream
from benchmarks.fleet.network import Network, NotPermitted

BODY: Final = b"x" * 100
SECONDS: Final = 4.0  # of each measurement
PUBLISHERS: Final = (1, 8)
SIZES: Final = (1, 10, 100, 1000)  # messages in a batch
CONNECTIONS: Final = 1000


def main() -> int:
    """Run, and print a table."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with Network() as network:
                network.add("watcher")
                network.enter("watcher")
                for sync in ("2m", "always"):
                    where = Path(directory, sync)
                    where.mkdir()
                    cluster = Cluster(network, where, sync=sync, prefix=f"{sync}-")
                    cluster.start_all()
                    _measure(cluster, sync)
                    cluster.kill_all()
        except NotPermitted as exc:
            print(f"capacity: {exc}", file=sys.stderr)
            return 77
    return 0


def _measure(cluster: Cluster, sync: str) -> None:
    for replicas, publishers, size in itertools.product((1, 3), PUBLISHERS, SIZES):
        name = f"R{replicas}_{publishers}_{size}"
        asyncio.run(_make(cluster, name, replicas))
        rate = _publish(cluster.servers, name, publishers, size)
        asyncio.run(_delete(cluster, name))
        print(
            f"sync {sync:6} replicas {replicas}  publishers {publishers}  "
            f"messages a batch {size:5}  {rate:9,.0f} messages/s  {rate / size:7,.0f} batches/s",
            flush=True,
        )
    print(f"sync {sync:6} connections made: {asyncio.run(_connect(cluster)):,.0f} a second")


async def _make(cluster: Cluster, name: str, replicas: int) -> None:
    async with await connect(cluster.servers) as client:
        await make_stream(client, name, [f"{name}.*"], replicas)


async def _delete(cluster: Cluster, name: str) -> None:
    async with await connect(cluster.servers) as client:
        await client.jetstream().delete_stream(name)


async def _connect(cluster: Cluster) -> float:
    """Return connections a second, without TLS, that this process opens."""
    begun = time.monotonic()
    clients: list[Client] = []
    for _ in range(CONNECTIONS // 50):
        clients += await asyncio.gather(*(connect(cluster.servers) for _ in range(50)))
    passed = time.monotonic() - begun
    for each in clients:
        await each.close()
    return CONNECTIONS / passed


def _publish(servers: list[str], stream: str, publishers: int, size: int) -> float:
    """Return messages a second, of all publishers."""
    work = [(servers, f"{stream}.{i}", size) for i in range(publishers)]
    with multiprocessing.Pool(publishers) as pool:
        return sum(pool.starmap(_publisher, work))


def _publisher(servers: list[str], subject: str, size: int) -> float:
    return asyncio.run(_send(servers, subject, size))


async def _send(servers: list[str], subject: str, size: int) -> float:
    client = await connect(servers)
    begun = time.monotonic()
    sent = 0
    while (passed := time.monotonic() - begun) < SECONDS:
        await publish(client, subject, [BODY] * size)
        sent += size
    await client.close()
    return sent / passed


async def publish(client: Client, subject: str, bodies: list[bytes]) -> None:
    """Publish an atomic batch, and wait until it is stored."""
    batch = {"Nats-Batch-Id": f"{time.monotonic_ns():x}-{subject}"}
    for number, body in enumerate(bodies[:-1], 1):
        headers = {**batch, "Nats-Batch-Sequence": str(number)}
        await client.publish(subject, body, headers=headers)
    headers = {**batch, "Nats-Batch-Sequence": str(len(bodies)), "Nats-Batch-Commit": "1"}
    answer = await client.request(subject, bodies[-1], timeout=30, headers=headers)
    if "error" in json.loads(answer.data):
        raise SystemExit(f"capacity: a batch was refused: {answer.data.decode()}")


if __name__ == "__main__":
    raise SystemExit(main())
