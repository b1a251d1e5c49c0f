"""What a receiver with a journal keeps, whatever kills it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import mpsr
from mpsr.limits import MIB
from mpsr.wire.frames import HEADER, FrameType
from tests.chance import Chance
from tests.process import roles
from tests.process.points import POINTS
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from tests.process.workers import Start

SHORT: Final = ("", *POINTS, "")  # where each receiver dies; "": at a random moment
LONG: Final = ("",) * 200 + POINTS * 20


@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(LONG, marks=[pytest.mark.soak, pytest.mark.timeout(1800)], id="long"),
    ],
)
def test_killed_receivers_lose_and_repeat_nothing_in_the_journal(
    start: Start, address: str, tmp_path: Path, deaths: tuple[str, ...], chance: Chance
) -> None:
    """Wherever it dies: what was confirmed is handed out, once in the journal, in order."""
    record, journal = tmp_path / "record", tmp_path / "events.journal"
    producers = [
        start(roles.stream_counted, address, flush_every=messages, least=250)
        for messages in (1, 1, 20, 100)
    ]

    def receive(**options: Any) -> Any:
        options["journal_limit"] = 4 * MIB  # so small that segments are soon full, and trimmed
        return start(roles.receive_journaled, address, str(record), str(journal), **options)

    for point in deaths:
        if point:
            often = point not in {"segment", "trim"}
            receiver = receive(kill_at=point, hit=chance.randint(1, 30 if often else 3))
            assert receiver.wait() == -signal.SIGKILL, receiver.complaint()
        else:
            receiver = receive()
            assert (receiver.hear(), receiver.hear()) == ("ready", "receiving")
            time.sleep(chance.uniform(0, 0.2))
            receiver.kill()
    last = receive()
    for producer in producers:
        producer.tell("end")
    sent = {producer.pid: producer.hear() for producer in producers}
    assert [producer.wait() for producer in producers] == [0] * len(producers)
    last.process.terminate()
    assert last.wait() == 0
    delivered = check(record)
    assert delivered == {pid: (each["sent"], each["digest"]) for pid, each in sent.items()}
    totals = sum(map(Counter, sent.values()), Counter[str]())
    print(f"{len(deaths)} kills: {dict(totals)}")  # noqa: T201
    assert totals["confirmed"] >= 1000
    assert totals["resent"] >= 50


def check(record: Path) -> dict[int, tuple[int, int]]:
    """Read what was handed out; return each producer's messages and their digest.

    Fails if a position holds two things, or nothing, or if a producer's messages are not, by
    their positions, each there once and in order.
    """
    at: dict[int, tuple[int, int, int, int]] = {}
    lives: dict[int, int] = {}  # by receiver: the last position
    for event in roles.Record.events(record):
        batch = event["producer"], event["first"], event["count"], event["digest"]
        position, receiver = event["position"], event["receiver"]
        assert at.setdefault(position, batch) == batch, "a position that holds two things"
        assert position > lives.get(receiver, 0), "a repeat within one receiver's life"
        lives[receiver] = position
    taken: dict[int, tuple[int, int]] = {}
    end = 0
    for position, (producer, first, count, digest) in sorted(at.items()):
        assert position == end + count, "a position that was never handed out"
        end = position
        expected, digests = taken.get(producer, (0, 0))
        assert first == expected, "a gap or a repeat in the journal"
        taken[producer] = first + count, digests + digest
    return taken


@pytest.mark.needs("strace")
def test_no_acknowledgement_is_written_before_its_sync(address: str, tmp_path: Path) -> None:
    """In 200 groups the kernel sees: the segment written, synced, the producer told."""
    trace = tmp_path / "trace"
    calls = "trace=pwritev,pwritev2,fdatasync,sendto"
    command = [sys.executable, "-m", "mpsr", "recv", "-q", address, "--journal", "events.journal"]
    with (
        subprocess.Popen(
            ["strace", "-f", "-y", "-x", "-s", "8", "-e", calls, "-o", str(trace), *command],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        ) as receiver,
        mpsr.Producer(address) as producer,
    ):
        for number in range(200):  # one group each: the next waits for its acknowledgement
            producer.send(b"%d" % number)
            producer.flush(PATIENCE)
        os.killpg(receiver.pid, signal.SIGTERM)
    acknowledgement = HEADER.pack(8, FrameType.ACK, 0, 0)
    shown = "".join(f"\\x{byte:02x}" for byte in acknowledgement)
    written = synced = acknowledged = 0
    syncing: dict[str, int] = {}  # by thread: how many had been written when its sync began
    for line in trace.read_text().splitlines():
        thread = line.split()[0]
        if "pwritev" in line:
            written += 1
        elif "fdatasync" in line:
            if "fdatasync(" in line:
                syncing[thread] = written
            if "<unfinished" not in line:
                assert line.endswith("= 0"), line
                synced = syncing[thread]
        elif shown in line:
            acknowledged += 1
            assert synced == written > acknowledged, line
    assert acknowledged == 200
