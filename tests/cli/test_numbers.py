"""A number is the same in every interface."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr import observe
from tests.cli.conftest import PATIENCE, Cli
from tests.cli.test_metrics import connection_to, scrape
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = {"web": 600, "cron": 400}  # messages by producer
EACH = 14  # bytes
TOTAL, SIZE = sum(MANY.values()), EACH * sum(MANY.values())
SHOWN = "14.0 kB"
WAYS = {
    "printed": (),
    "journaled": ("--journal", "j"),
    "delivered": ("--to", "file:a.txt?format=lines"),
    "journaled and delivered": ("--journal", "j", "--to", "file:a.txt?format=lines"),
}


@pytest.fixture
def producers(cli: Cli) -> Iterator[list[mpsr.Producer]]:
    """Connect producers, which stay until the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(mpsr.Producer(cli.address, label=label)) for label in MANY]


@pytest.mark.parametrize("way", WAYS)
def test_received_messages_and_bytes_are_the_same_everywhere(
    cli: Cli, producers: list[mpsr.Producer], way: str
) -> None:
    """In status, top and metrics, as a total and as the sum of its rows, whoever has them next."""
    where = "unix:metrics.sock"
    running = cli.recv(*WAYS[way], "--metrics", where, stdout=subprocess.DEVNULL)
    for producer, count in zip(producers, MANY.values(), strict=True):
        producer.send_many([b"0123456789abcd"] * count)
        producer.flush(PATIENCE)

    def seen() -> observe.Status:
        seen = observe.status(cli.address, timeout=PATIENCE)
        assert not any(each["lag"] for each in seen["sinks"])
        return seen

    status = eventually(seen, interval=0.02)
    assert (status["stats"]["messages"], status["stats"]["nbytes"]) == (TOTAL, SIZE)
    rows = {each["label"]: (each["messages"], each["bytes"]) for each in status["producers"]}
    assert rows == {label: (count, count * EACH) for label, count in MANY.items()}
    text = cli.call("status", "app.sock")[1].decode()
    assert f"received   {TOTAL:,} messages, {SHOWN}, 0 lost" in text
    assert re.findall(r" +(\d+) +([\d.]+ kB)  +0 +0  ", text) == [
        ("600", "8.4 kB"),
        ("400", "5.6 kB"),
    ]
    assert f"; in all {TOTAL:,}; " in cli.call("top", "app.sock", "--once")[1].decode()
    page = scrape(connection_to(cli, running, where))
    assert page["mpsr_received_messages_total"] == TOTAL
    assert page["mpsr_received_bytes_total"] == SIZE
    if status["sinks"]:
        delivered = [(each["delivered"], each["delivered_bytes"]) for each in status["sinks"]]
        assert delivered == [(TOTAL, SIZE)]
        assert page["mpsr_sink_delivered_messages_total"] == TOTAL
        assert page["mpsr_sink_delivered_bytes_total"] == SIZE
    if status["journal"] is not None:
        stats = json.loads(cli.call("journal", "stats", "j", "--json")[1])
        assert (stats["messages"], stats["bytes"]) == (TOTAL, SIZE)
        by_producer = {each["label"]: each["messages"] for each in stats["producers"]}
        assert by_producer == MANY
        assert stats["used_bytes"] == status["journal"]["bytes"] == page["mpsr_journal_bytes"]
        (cursor,) = status["journal"]["cursors"]
        assert cursor["lag"] == page["mpsr_journal_cursor_lag_messages"] == 0
        words = cli.call("journal", "stats", "j")[1].decode()
        assert f"{TOTAL} messages in " in words
        assert f" batches, {SHOWN}\n" in words
    code, _, told = running.finish(signal.SIGTERM)
    assert code == 0, told
    done = "delivered" if status["sinks"] else "received"
    assert f"mpsr: {done} {TOTAL} messages, {SHOWN} from 2 connections\n" in told


def test_messages_of_an_earlier_receiver_are_not_received_again(cli: Cli) -> None:
    """The next receiver prints the messages that its journal still holds, and has received none."""
    for life in (0, 1):
        words = ("--journal", "j", "--to", "file:missing/a.txt", "--metrics", "unix:metrics.sock")
        running = cli.recv(*words)
        if not life:
            with mpsr.Producer(cli.address) as producer:
                producer.send_many([b"x"] * 5)
                producer.flush(PATIENCE)
        page = scrape(connection_to(cli, running, "unix:metrics.sock"))
        assert page["mpsr_received_messages_total"] == 5 * (not life)
        assert page["mpsr_sink_lag_messages"] == 5
        assert page["mpsr_sink_delivered_messages_total"] == 0
        _, _, told = running.finish(signal.SIGTERM)
        assert "mpsr: delivered 0 messages, 0 B" in told


def test_summary_names_each_of_several_sinks(cli: Cli) -> None:
    """One that fails has delivered less than the other."""
    running = cli.recv("--journal", "j", "--to=file:a.txt", "--to=file:missing/b.txt")
    with mpsr.Producer(cli.address) as producer:
        producer.send_many([b"x"] * 5)
        producer.flush(PATIENCE)
    eventually(lambda: observe.status(cli.address)["sinks"][0]["delivered"] == 5, interval=0.02)
    _, _, told = running.finish(signal.SIGTERM)
    line = "delivered 5 messages, 5 B to file:a.txt; 0 messages, 0 B to file:missing/b.txt"
    assert f"mpsr: {line} from 1 connection\n" in told


def test_long_frames_and_messages_sent_again_count_as_one(cli: Cli) -> None:
    """A row counts messages and their bytes, in whatever pieces and framing they come."""
    running = cli.recv(stdout=subprocess.DEVNULL)
    with mpsr.Producer(cli.address, label="long") as producer:
        producer.send_many([bytes(300_000)] * 20)
        producer.send_many([bytes(100)] * 1000)
        producer.flush(PATIENCE)
        with mpsr.Producer(cli.address, framing="lines") as lines:
            lines.send_many([b"12345"] * 100)
            lines.flush(PATIENCE)

            def seen() -> observe.Status:
                seen = observe.status(cli.address, timeout=PATIENCE)
                assert seen["stats"]["messages"] == 1120
                return seen

            status = eventually(seen, interval=0.02)
    rows = {each["framing"]: (each["messages"], each["bytes"]) for each in status["producers"]}
    assert rows == {"native": (1020, 6_100_000), "lines": (100, 500)}
    assert status["stats"]["nbytes"] == 6_100_500
    assert running.finish(signal.SIGTERM)[0] == 0
