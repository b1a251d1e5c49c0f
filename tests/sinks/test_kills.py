"""A funnel killed at any moment gives each sink each message exactly once."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

import mpsr
from tests.chance import Chance
from tests.sinks.conftest import Funnel, send_while_killed

often = pytest.mark.parametrize(
    ("count", "kills"), [(4_000, 2), pytest.param(30_000, 15, marks=pytest.mark.soak)]
)


def bodies_of(*files: Path) -> list[bytes]:
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    return [json.loads(line)["body"].encode() for line in lines]


@often
def test_killed_funnel_writes_each_message_to_each_sink_once(
    funnels: Callable[..., Funnel], tmp_path: Path, chance: Chance, count: int, kills: int
) -> None:
    """Files of each format, SQLite and DuckDB side by side: all, in order, nothing twice."""
    funnel = funnels(
        "file:a.jsonl", "file:b.txt?format=lines", "file:c.bin?format=length", "sqlite:d.db",
        "duckdb:e.db",
    ).start()  # fmt: skip
    sent = send_while_killed(chance, funnel, count, kills)
    assert bodies_of(tmp_path / "a.jsonl") == sent
    assert (tmp_path / "b.txt").read_bytes().splitlines() == sent
    data, found = (tmp_path / "c.bin").read_bytes(), []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        found.append(data[4:end])
        data = data[end:]
    assert found == sent
    with closing(sqlite3.connect(tmp_path / "d.db")) as database:
        rows = database.execute("SELECT body FROM messages ORDER BY rowid").fetchall()
    assert [body for (body,) in rows] == sent
    with closing(duckdb.connect(str(tmp_path / "e.db"))) as columns:
        found = [body for (body,) in columns.execute("SELECT body FROM messages").fetchall()]
    assert sorted(found) == sorted(sent)


@often
def test_killed_funnel_rotates_without_losing_or_repeating(
    funnels: Callable[..., Funnel], tmp_path: Path, chance: Chance, count: int, kills: int
) -> None:
    """Whether it dies while a file is moved away, compressed or begun."""
    funnel = funnels("file:a.jsonl?rotate=100K&compress=gzip").start()
    sent = send_while_killed(chance, funnel, count, kills)
    files = sorted(tmp_path.glob("a.jsonl.2*"))
    assert files  # at least one, if all messages were in one commit
    found = []
    for file in files:
        assert file.suffix == ".gz"
        lines = gzip.decompress(file.read_bytes()).splitlines()
        found += [json.loads(line)["body"].encode() for line in lines]
    assert found + bodies_of(tmp_path / "a.jsonl") == sent


@often
def test_killed_funnels_pass_each_message_on_once(
    funnels: Callable[..., Funnel], tmp_path: Path, chance: Chance, count: int, kills: int
) -> None:
    """From journal to journal, whichever of the two is killed."""
    upper = funnels("file:up.jsonl", name="upper").start()
    lower = funnels(f"mpsr:{upper.address}", name="lower").start()

    def kill_upper() -> None:
        if chance.random() < 0.7:
            upper.kill()
            upper.start()

    sent = send_while_killed(chance, lower, count, kills, kill_upper)
    assert upper.end() == 0
    assert bodies_of(tmp_path / "up.jsonl") == sent


def test_forwarded_message_tells_who_sent_it_and_who_passed_it_on(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """The hop is the kernel's word, the origin what the hop claims."""
    upper = funnels("-", name="upper").start("-o", "json")
    lower = funnels(f"mpsr:{upper.address}", name="lower").start()
    with mpsr.Producer(lower.address, label="web") as producer:
        producer.send(b"hello")
    assert lower.end() == upper.end() == 0
    (line,) = upper.out.read_bytes().splitlines()
    told = json.loads(line)
    assert told["body"] == "hello"
    assert told["peer"]["pid"] == lower.process.pid
    assert told["origin"]["producer"] == {"id": producer.id.hex(), "label": "web"}
    assert told["origin"]["seq"] == 0


@pytest.mark.parametrize("target", ["file:a.jsonl", "sqlite:a.db"])
def test_sink_without_a_journal_acknowledges_what_it_has_committed(
    funnels: Callable[..., Funnel], tmp_path: Path, chance: Chance, target: str
) -> None:
    """At least once: native producers send again what was not committed."""
    funnel = funnels(target, journal=False).start()
    sent = send_while_killed(chance, funnel, 2_000, 2)
    if target.startswith("file:"):
        found = bodies_of(tmp_path / "a.jsonl")
    else:
        with closing(sqlite3.connect(tmp_path / "a.db")) as database:
            rows = database.execute("SELECT body FROM messages").fetchall()
        found = [body for (body,) in rows]
    assert set(found) == set(sent)


def test_handover_goes_on_where_the_old_receiver_ended(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """The sinks commit before the journal is released; the old one ends with status 0."""
    old = funnels("file:a.txt?format=lines", "sqlite:a.db").start()
    old.send(*(b"%d" % number for number in range(1000)))
    new = funnels("file:a.txt?format=lines", "sqlite:a.db").start("--handover")
    assert old.process.wait(30) == 0, old.told
    new.send(*(b"%d" % number for number in range(1000, 2000)))
    assert new.end() == 0
    sent = [b"%d" % number for number in range(2000)]
    assert (tmp_path / "a.txt").read_bytes().split() == sent
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        rows = database.execute("SELECT body FROM messages ORDER BY rowid").fetchall()
    assert [body for (body,) in rows] == sent
