"""Run a fleet, hurt it, and check the stream: ``python -m benchmarks.fleet``.

Each funnel, and each node of the cluster, has a network namespace of its own. A third of the time
all is well, a third something is down, and then all is well again. It needs root; it leaves
nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import nats.errors
from nats.aio.client import Client

from benchmarks.fleet.audit import Findings, audit
from benchmarks.fleet.cluster import Cluster, connect, leader, make_stream
from benchmarks.fleet.funnels import Funnel
from benchmarks.fleet.network import MOST, Network, NotPermitted

STREAM: Final = "FLEET"
FAULTS: Final = {
    "none": "nothing",
    "kill": "the node that leads the stream is killed, and started again",
    "outage": "all nodes are killed, and started again",
    "cut-node": "the node that leads the stream is cut off, with all its connections",
    "cut-hosts": "half of the funnels' hosts are cut off",
}
PATIENCE: Final = 180  # seconds that the funnels may take to catch up
LOOK: Final = 0.25  # seconds between two looks at the stream
NO_PERMISSION: Final = 77  # EX_NOPERM


class Sample(NamedTuple):
    """How many messages the stream had, and when."""

    at: float
    messages: int


class Fleet:
    """A cluster and the funnels that forward to it."""

    def __init__(self, network: Network, directory: Path, options: argparse.Namespace) -> None:
        self._network = network
        self._options = options
        self._samples: list[Sample] = []
        self.cluster = Cluster(network, directory, sync=options.sync)
        self._hosts = [f"f{number:03}" for number in range(options.funnels)]
        self._directory = directory
        self._funnels: list[Funnel] = []
        network.add("watcher")
        network.enter("watcher")

    async def run(self) -> tuple[str, Findings]:
        """Return what came of it, in words and as findings."""
        options = self._options
        self.cluster.start_all()
        client = await connect(self.cluster.servers)
        await make_stream(client, STREAM, ["fleet.>"], options.replicas)
        servers = ",".join(each.removeprefix("nats://") for each in self.cluster.servers)
        self._funnels = [
            Funnel(
                self._network,
                self._directory / host,
                host,
                f"nats://{servers}/{STREAM}/fleet.{host}{options.sink_options}",
            )
            for host in self._hosts
        ]
        for each in self._funnels:
            each.await_start()
        for each in self._funnels:
            each.start_producers(options.producers, options.rate, options.seconds)
        watching = asyncio.create_task(self._watch(client))
        await asyncio.sleep(options.seconds / 3)
        fault = await self._hurt(await leader(client, STREAM), options.seconds / 3)
        while any(each.producing for each in self._funnels):  # noqa: ASYNC110 - processes
            await asyncio.sleep(LOOK)
        accepted = {
            name: ticks for each in self._funnels for name, ticks in each.accepted().items()
        }
        expected = {name: ticks[-1][1] for name, ticks in accepted.items()}
        until = time.monotonic() + PATIENCE
        while not self._has(sum(expected.values())) and time.monotonic() < until:
            if watching.done():
                watching.result()
            await asyncio.sleep(LOOK)
        watching.cancel()
        for each in self._funnels:
            each.end()
        findings = await audit(client, STREAM, expected)
        await client.close()
        return self._report(accepted, fault), findings

    async def _hurt(self, led_by: str, seconds: float) -> tuple[float, float]:
        """Do what was asked for, and undo it; return from when to when it was so."""
        begun = time.monotonic()
        match self._options.fault:
            case "kill":
                self.cluster.kill(led_by)
                await asyncio.sleep(seconds)
                self.cluster.start(led_by)
            case "outage":
                self.cluster.kill_all()
                await asyncio.sleep(seconds)
                self.cluster.start_all()
            case "cut-node" | "cut-hosts":
                half = self._hosts[: len(self._hosts) // 2]
                hosts = [led_by] if self._options.fault == "cut-node" else half
                for host in hosts:
                    self._network.cut(host)
                await asyncio.sleep(seconds)
                for host in hosts:
                    self._network.join(host)
            case _:
                await asyncio.sleep(seconds)
        return begun, time.monotonic()

    async def _watch(self, client: Client) -> NoReturn:
        context = client.jetstream(timeout=1)
        while True:
            try:
                info = await context.stream_info(STREAM)
                self._samples.append(Sample(time.monotonic(), info.state.messages))
            except nats.errors.Error:
                pass  # nobody leads the stream now
            await asyncio.sleep(LOOK)

    def _has(self, total: int) -> bool:
        return bool(self._samples) and self._samples[-1].messages >= total

    def _report(
        self,
        accepted: dict[str, list[tuple[float, int, float]]],
        fault: tuple[float, float],
    ) -> str:
        total = sum(ticks[-1][1] for ticks in accepted.values())
        first = min(ticks[0][0] for ticks in accepted.values())
        last = max(ticks[-1][0] for ticks in accepted.values())
        took = sorted(each[2] for ticks in accepted.values() for each in ticks)
        lag = _lag(accepted, self._samples)
        before = max((each.messages for each in lag if each.at < fault[0]), default=0)
        most = max((each.messages for each in lag), default=0)
        caught_up = next(
            (each.at for each in lag if each.at > fault[1] and each.messages <= before), None
        )
        after = "not" if caught_up is None else f"{max(0.0, caught_up - fault[1]):.1f} s"
        down = [each for each in itertools.pairwise(self._samples) if each[1].at > fault[0]]
        pause = max((b.at - a.at for a, b in _still(down)), default=0.0)
        return f"""\
{len(self._funnels)} funnels, {len(accepted)} producers, {total:,} messages accepted in \
{last - first:.0f} s: {total / (last - first):,.0f}/s
fault: {FAULTS[self._options.fault]}; {fault[1] - fault[0]:.0f} s
acceptance of a tenth of a second's messages: median {_ms(took, 0.5)}, 99 % {_ms(took, 0.99)}, \
most {_ms(took, 1)}
lag: at most {before:,} messages before the fault, {most:,} in all
caught up {after} after the end of the fault; the stream stood still for {pause:.1f} s at most"""


def _lag(
    accepted: dict[str, list[tuple[float, int, float]]], samples: list[Sample]
) -> list[Sample]:
    """Return how many messages were accepted and not in the stream, at each look."""
    events = sorted(
        (now[0], now[1] - before)
        for ticks in accepted.values()
        for now, before in zip(ticks, [0, *(each[1] for each in ticks)], strict=False)
    )
    found, total, index = [], 0, 0
    for sample in samples:
        while index < len(events) and events[index][0] <= sample.at:
            total += events[index][1]
            index += 1
        found.append(Sample(sample.at, max(0, total - sample.messages)))
    return found


def _still(pairs: list[tuple[Sample, Sample]]) -> list[tuple[Sample, Sample]]:
    """Return pairs, joined where the number of messages did not change between them."""
    joined: list[tuple[Sample, Sample]] = []
    for before, after in pairs:
        if joined and joined[-1][1].messages == joined[-1][0].messages == after.messages:
            joined[-1] = (joined[-1][0], after)
        else:
            joined.append((before, after))
    return joined


def _ms(values: list[float], share: float) -> str:
    return f"{1000 * values[min(len(values) - 1, int(share * len(values)))]:,.0f} ms"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--funnels", type=int, default=20, metavar="N")
    parser.add_argument("--producers", type=int, default=1, metavar="N", help="of each funnel")
    parser.add_argument("--rate", type=float, default=100, metavar="N", help="messages/s of each")
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="of producing")
    parser.add_argument("--replicas", type=int, default=3, metavar="N")
    parser.add_argument("--sync", default="2m", help="the nodes' sync_interval: 2m or always")
    parser.add_argument("--sink-options", default="", metavar="?…", help="such as ?pack=1000")
    parser.add_argument("--fault", choices=list(FAULTS), default="none")
    options = parser.parse_args()
    if not 1 <= options.funnels <= MOST - 10:
        parser.error(f"there is room for 1 to {MOST - 10} funnels")
    if not 3 <= options.seconds <= 600:
        parser.error("3 to 600 seconds")
    return options


def main() -> int:
    """Run; 1 if a message was lost, doubled or out of order."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as directory:
        try:
            with Network() as network:
                report, findings = asyncio.run(Fleet(network, Path(directory), options).run())
        except NotPermitted as exc:
            print(f"fleet: {exc}", file=sys.stderr)
            return NO_PERMISSION
    print(report, f"in the stream: {findings}", sep="\n")
    return 1 if any(findings) else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
