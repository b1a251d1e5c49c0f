"""Serve honest producers of a receiver while one hostile peer after the other is active.

The stage, a process of its own, forks a receiver and the hostile peer for each entry of ``PEERS``.
Once the peer is active, the stage sends one message of a connected producer and one of a new one,
and measures the time until each is acknowledged. It prints the seconds of all peers as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import mpsr
from mpsr._speedups import codec
from mpsr.forwarding import MAGIC
from mpsr.limits import MAX_SAMPLE, MAX_TAP_RATE, MIB, RING_AFTER
from mpsr.system import passing
from mpsr.wire.frames import PREFACE, Hello, Move, Observe, encode
from tests.process import attacks, siege
from tests.process.forking import serve
from tests.process.siege import HOSTILE, Arena, Board, Plan, Slot
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT: Final = 1.0  # seconds until a message is acknowledged
TRIES: Final = 3  # measurements, of which the quickest counts: the machine may stand still
FEW: Final = 48  # connections that a receiver serves: fewer than a peer opens
LOOPS: Final = 32  # observers that one user has at a time
METRICS: Final = ".metrics"  # suffix of the path of the metrics


def observe_in_loops(arena: attacks.Arena) -> None:
    """Ask what the receiver does, wait for the answer, and ask again, on many connections."""
    asking: list[socket.socket | None] = [None] * LOOPS
    for turn in arena.turns():
        sock = asking[turn % LOOPS]
        if sock is None:
            asking[turn % LOOPS] = arena.connect(PREFACE + encode(Observe(0, 0, 0)))
            arena.did()
            continue
        with suppress(BlockingIOError):
            data = b"x"
            while data:
                data = received(sock)
            sock.close()
            asking[turn % LOOPS] = None


def received(sock: socket.socket) -> bytes:
    """Return what a connection has brought; b"" at its end."""
    try:
        return sock.recv(MIB)
    except ConnectionError:
        return b""


def observe_and_never_read(arena: attacks.Arena) -> None:
    """Ask for every status and every sample, and read nothing."""
    asking = PREFACE + encode(Observe(100, MAX_TAP_RATE, MAX_SAMPLE))
    attacks.openings(arena, lambda _: asking, answered=False)


def scrape_and_stay(arena: attacks.Arena) -> None:
    """Connect to the metrics, and begin a request that never ends."""
    arena.address += METRICS
    held = []
    for turn in arena.turns():
        held.append(arena.connect((b"", b"GET /metrics HTTP/1.1\r\n")[turn % 2]))
        arena.did()
    arena.finish()


def send_files(arena: attacks.Arena) -> None:
    """Send one open file after the other."""
    with mpsr.Producer[bytes](arena.address) as producer, open(os.devnull, "rb") as file:
        for _ in arena.turns():
            producer.send_file(file, b"file")
            arena.did()


def break_rings(arena: attacks.Arena) -> None:
    """Get a ring again and again, and claim that it holds more than it can."""
    bulk = b"".join(codec.pack_batch([bytes(MIB)], seq) for seq in range(RING_AFTER // MIB + 1))
    for _ in arena.turns():
        opening = PREFACE + encode(Hello(os.urandom(16), 0, "hostile", takes_ring=True))
        sock = arena.connect(opening, blocking=True)
        if sock is None:
            continue
        with sock:
            sock.settimeout(PATIENCE)
            sock.sendall(bulk)
            ring: list[int] = []
            while not ring:
                data, ring = passing.receive(sock, 4096)
                if not data:
                    break
            for descriptor in ring:
                with mmap(descriptor, 4096) as control:
                    control[:8] = struct.pack("<Q", 1 << 40)
                    sock.sendall(encode(Move()))
                os.close(descriptor)
        arena.did()


def send_poison(arena: attacks.Arena) -> None:
    """Send messages whose origin, or body, is JSON of great depth, or no JSON."""
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = [MAGIC + len(deep).to_bytes(4, "little") + deep, deep, MAGIC + b"\xff" * 4, b"\xff\0"]
    with mpsr.Producer[bytes](arena.address) as producer:
        for _ in arena.turns():
            producer.send_many(bodies)
            arena.did()


class Peer(NamedTuple):
    """A way to harm a receiver, and how often it is done until the peer counts as active."""

    run: Callable[[Arena], None]
    rate: float
    """How many times a second."""
    active: int
    options: dict[str, Any]
    """The receiver's arguments."""


PEERS: Final[dict[str, Peer]] = {
    name: Peer(
        attack.run,
        attack.rate,
        2 if attack.run is attacks.begin_frames else 2 * FEW,
        {"max_connections": FEW},
    )
    for name, attack in attacks.ATTACKS.items()
    # These differ in the receiver, not in the peer.
    if attack.refuses and not (attack.descriptors or attack.spare_descriptors)
} | {
    "observers in loops": Peer(observe_in_loops, 3000, 2 * LOOPS, {}),
    "observers that never read": Peer(observe_and_never_read, 200, 20, {}),
    "scrapers that stay": Peer(scrape_and_stay, 500, 70, {"metrics": True}),
    "files": Peer(send_files, 1000, 60, {"accept_files": True}),
    "files that are refused": Peer(attacks.pass_descriptors, 500, 60, {"accept_files": True}),
    "broken rings": Peer(break_rings, 20, 2, {}),
    "poison messages": Peer(send_poison, 100, 5, {}),
}


def known(kind: str) -> list[str]:
    """Return the names of the peers for a kind of receiver: one with a journal takes no files."""
    return [
        name
        for name, peer in PEERS.items()
        if kind == "plain" or "accept_files" not in peer.options
    ]


def receive(board: Board, address: str, options: dict[str, Any]) -> None:
    """Take all messages, and drop them; never wait for a peer."""
    with ExitStack() as stack:
        shown = options.pop("metrics", False)
        receiver = stack.enter_context(
            mpsr.Receiver[bytes](address, mode=0o666, observers=[HOSTILE], **options)
        )
        if shown:
            from mpsr.cli.metrics.page import served
            from mpsr.cli.metrics.place import UnixPlace
            from mpsr.system.address import parse_address

            place = UnixPlace(parse_address(address + METRICS), 0o666, None)
            stack.enter_context(served(receiver, place, handover=False, quiet=True))
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        board[Slot.READY] = 1
        for batch in receiver.batches():
            board[Slot.CAME] += len(batch)


def attack(board: Board, address: str, peer: Peer) -> None:
    """Be the peer until the stage ends it."""
    os.nice(19)
    peer.run(Arena(board, address, Plan("", 0, 0, 0, 0, peer.rate)))


def serve_during(directory: str, name: str, *, journal: bool) -> list[float]:
    """Return the seconds that a connected producer and a new one wait while a peer is active."""
    peer, board = PEERS[name], Board()
    address = os.path.join(directory, f"{len(os.listdir(directory))}.sock")
    options = dict(peer.options)
    if journal:
        options["journal"] = f"{address}.journal"
    receiver = siege.fork(0, partial(receive, board, address, options))
    board.wait(Slot.READY, 1, "the receiver")
    with mpsr.Producer[bytes](address) as producer:
        producer.send(b"connected")
        producer.flush(PATIENCE)
        hostile = siege.fork(HOSTILE, partial(attack, board, address, peer))
        board.wait(Slot.DONE, peer.active, name)
        try:
            waits = [min(each) for each in zip(*measured(producer, address), strict=True)]
        except mpsr.TimedOut as exc:
            raise RuntimeError(f"an honest producer was not served: {name}") from exc
    board[Slot.CEASING] = 1
    os.kill(hostile, signal.SIGKILL)  # it may wait for the receiver
    os.waitpid(hostile, 0)
    os.kill(receiver, signal.SIGTERM)
    if not siege.ended_well(receiver, PATIENCE):
        raise RuntimeError(f"the receiver failed: {name}")
    return waits


def measured(producer: mpsr.Producer[bytes], address: str) -> Iterator[tuple[float, float]]:
    """Yield the seconds of a connected producer and of a new one, until both are short enough."""
    for _ in range(TRIES):
        connected = acknowledged(producer)
        with mpsr.Producer[bytes](address) as newcomer:
            waits = connected, acknowledged(newcomer)
        yield waits
        if max(waits) < LIMIT:
            return


def acknowledged(producer: mpsr.Producer[bytes]) -> float:
    """Send one message; return the seconds until it is acknowledged."""
    since = time.monotonic()
    producer.send(b"honest")
    producer.flush(10 * LIMIT)
    return time.monotonic() - since


def main() -> None:
    """Fork the stages."""
    directory, kind = serve(int(sys.argv[1]))
    found = {name: serve_during(directory, name, journal=kind == "journal") for name in known(kind)}
    print(json.dumps(found))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
