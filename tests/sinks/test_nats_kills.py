"""Each message of each producer is in a stream once, whatever is killed or cut meanwhile."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mpsr
from mpsr.sinks.nats.layout import POSITION, unpack
from mpsr.store.reader import Reader
from tests.chance import Chance
from tests.ports import free_port
from tests.sinks.conftest import Funnel
from tests.sinks.natsservers import Link, NatsServer, cluster

SCALE = float(os.environ.get("MPSR_NATS_SCALE", "1"))  # of the soak's counts
PRODUCERS, MANY_PRODUCERS = 4, 8


class Producers:
    """Producers that each send a part of their messages at a time, without waiting."""

    def __init__(self, funnel: Funnel, count: int, parts: int, number: int = PRODUCERS) -> None:
        self.number = number
        self.count = count // number
        self.total = self.count * number
        self._size = -(-self.count // parts)
        self._begin = 0
        self._producers = {
            name: mpsr.Producer(funnel.address, label=name)
            for name in (f"p{each}" for each in range(number))
        }

    def go_on(self) -> None:
        end = min(self._begin + self._size, self.count)
        for name, producer in self._producers.items():
            producer.send_many(
                [b"%s %d " % (name.encode(), n) + b"x" * 80 for n in range(self._begin, end)]
            )
        self._begin = end

    def wait(self) -> None:
        for producer in self._producers.values():
            producer.flush(300)
            producer.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    found = NatsServer(tmp_path / "nats", free_port()).start()
    yield found
    found.kill()


@pytest.fixture
def link(server: NatsServer) -> Iterator[Link]:
    found = Link(server.port)
    yield found
    found.close()


def check(server: NatsServer, stream: str, producers: Producers) -> None:
    """All messages of each producer are there, once and in order."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for _, headers, data in server.messages(stream):
        stored = unpack(headers, data)
        for seq, body in enumerate(stored.bodies, stored.first_seq):
            sender, number, _ = body.decode().split(" ")
            assert seq == int(number)
            assert stored.producer is not None
            assert stored.producer.label == sender
            found[sender].append(int(number))
    wanted = list(range(producers.count))
    assert {name: len(each) for name, each in found.items()} == {
        f"p{each}": producers.count for each in range(producers.number)
    }
    for name, numbers in found.items():
        assert numbers == wanted, name


def acknowledged(funnel: Funnel) -> int:
    """Return the position up to which the sink has told the journal that the stream has all."""
    with Reader(str(funnel.journal)) as reader:
        return max(reader.recover().state.cursors.values(), default=0)


def run(
    chance: Chance,
    funnel: Funnel,
    server: NatsServer,
    events: list[Callable[[], None]],
    count: int,
    *,
    packed: bool = False,
    number: int = PRODUCERS,
) -> None:
    """Send messages while this and that happens; then all must be in the stream."""
    chance.shuffle(events)
    producers = Producers(funnel, count, len(events) + 1, number)
    for event in events:
        producers.go_on()
        time.sleep(chance.uniform(0, 0.12))  # anywhere in its work
        event()
    producers.go_on()
    producers.wait()
    if not packed:
        server.await_count("S", producers.total, 60 + count / 1000)
    funnel.await_commit()
    assert funnel.end() == 0, funnel.told
    check(server, "S", producers)


def events_of(
    chance: Chance,
    funnel: Funnel,
    server: NatsServer,
    link: Link,
    *,
    receiver_kills: int,
    server_kills: int,
    cuts: int,
    outage: tuple[float, float],
) -> list[Callable[[], None]]:
    def kill_receiver() -> None:
        funnel.kill()
        funnel.start()

    def kill_server() -> None:
        server.kill()
        time.sleep(chance.uniform(*outage))
        server.start()

    def cut_link() -> None:
        link.cut()
        time.sleep(chance.uniform(*outage))
        link.restore()

    return [
        *[kill_receiver] * receiver_kills,
        *[kill_server] * server_kills,
        *[cut_link] * cuts,
    ]


@pytest.mark.parametrize("options", ["", "?pack=100"], ids=["single", "packed"])
@pytest.mark.parametrize(
    ("count", "times"),
    [(10_000, 1), pytest.param(100_000, 10, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
def test_messages_are_in_the_stream_once_though_all_is_killed(  # noqa: PLR0917 - fixtures
    funnels: Callable[..., Funnel],
    server: NatsServer,
    link: Link,
    chance: Chance,
    options: str,
    count: int,
    times: int,
) -> None:
    """The receiver, the server and the link between them."""
    server.create("S", "events", duplicate_window=100_000_000)
    funnel = funnels(f"nats://127.0.0.1:{link.port}/S/events{options}").start()
    kills = {"receiver_kills": 2 * times, "server_kills": times, "cuts": times}
    events = events_of(chance, funnel, server, link, **kills, outage=(0, 0.3))
    run(chance, funnel, server, events, count, packed=bool(options))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("window", "outage"), [(120.0, (0, 0.5)), (1.0, (1.1, 2.5))], ids=["two-minutes", "a-second"]
)
@pytest.mark.parametrize("subject", ["events", "events.{label}"], ids=["one", "several"])
def test_a_million_messages_are_in_the_stream_once_though_all_is_killed(  # noqa: PLR0917 - fixtures
    funnels: Callable[..., Funnel],
    server: NatsServer,
    link: Link,
    chance: Chance,
    window: float,
    outage: tuple[float, float],
    subject: str,
) -> None:
    """Outages are longer than the window in which the server knows repeated ids, or shorter."""
    pattern = subject.replace("{label}", "*")
    server.create("S", pattern, duplicate_window=int(window * 1e9))
    funnel = funnels(f"nats://127.0.0.1:{link.port}/S/{subject}").start()
    events = events_of(
        chance, funnel, server, link, receiver_kills=20, server_kills=10, cuts=10, outage=outage
    )
    run(chance, funnel, server, events, int(1_000_000 * SCALE), number=MANY_PRODUCERS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_messages_are_in_a_cluster_once_though_its_nodes_are_killed(
    funnels: Callable[..., Funnel], tmp_path: Path, chance: Chance
) -> None:
    """What was acknowledged is looked for after each."""
    nodes = cluster(tmp_path)
    for node in nodes:
        node.start()
    try:
        nodes[0].create("S", "events", num_replicas=3)
        servers = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        funnel = funnels(f"nats://{servers}/S/events").start()

        def kill_node() -> None:
            node = chance.choice(nodes)
            node.kill()
            time.sleep(chance.uniform(0, 2))
            safe = acknowledged(funnel)
            other = chance.choice([each for each in nodes if each is not node])
            other.await_count("S", safe)
            node.start()

        count = int(1_000_000 * SCALE)
        run(chance, funnel, nodes[0], [kill_node] * 20, count, number=MANY_PRODUCERS)
    finally:
        for node in nodes:
            node.kill()


def test_positions_of_each_subject_rise_and_are_its_own(
    funnels: Callable[..., Funnel], server: NatsServer
) -> None:
    server.create("S", "events.>")
    funnel = funnels(f"{server.url}/S/events.{{label}}").start()
    for life in range(2):
        if life:
            funnel.kill()
            funnel.start()
        producers = Producers(funnel, 1000, 4)
        for _ in range(4):
            producers.go_on()
        producers.wait()
    server.await_count("S", 2000)
    assert funnel.end() == 0, funnel.told
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for subject, headers, _ in server.messages("S"):
        if POSITION in headers:
            positions[subject].append(int(headers[POSITION]))
    assert set(positions) == {f"events.p{each}" for each in range(PRODUCERS)}
    for each in positions.values():
        assert each == sorted(set(each))
