"""A message that a sink can never write is stored, counted and reported, and stops no other."""

from __future__ import annotations

import base64
import json
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mpsr
from mpsr import observe
from mpsr.batch import batch_of
from mpsr.cli.entry import run
from mpsr.sinks import sqlite as sqlite_sink
from mpsr.sinks.rejected import rest_of
from tests.cli.conftest import Cli
from tests.eventually import eventually
from tests.ports import free_ports
from tests.sinks.conftest import Funnel, OwnFunnel, lines_in
from tests.sinks.natsservers import NatsServer


def stored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_in(path)]


def bodies(path: Path) -> list[bytes]:
    return [
        each["body"].encode() if "body" in each else base64.b64decode(each["body_b64"])
        for each in stored(path)
    ]


def has_line(path: Path, line: bytes) -> bool:
    return line in lines_in(path)


def test_rejected_message_is_stored_with_its_reason_and_the_others_arrive(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path
) -> None:
    funnel = funnels("choosy:a.txt").start("--metrics=127.0.0.1:0")
    funnel.send(b"one", b"bad two", b"three", b"bad \xff", b"five")
    eventually(lambda: lines_in(tmp_path / "a.txt") == [b"0 one", b"0 three", b"0 five"])
    store = tmp_path / "app.journal.choosy_a.txt.rejected"
    first, second = eventually(lambda: stored(store))
    assert (first["body"], first["reason"], first["position"]) == ("bad two", "it is bad", 2)
    assert (first["sink"], first["seq"], first["peer"]["pid"] > 0) == ("choosy:a.txt", 1, True)
    assert (base64.b64decode(second["body_b64"]), second["position"]) == (b"bad \xff", 4)
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    (sink,) = observe.status(str(funnel.address))["sinks"]
    assert (sink["rejected"], sink["error"]) == (2, None)
    assert funnel.end() == 0
    assert "choosy:a.txt rejected position 2 of " in funnel.told
    assert f": it is bad; 1 more were rejected; stored in {store}, and delivery" in funnel.told
    assert "rejected 2" in funnel.told


def test_rejected_messages_can_be_sent_again(
    own_funnels: Callable[..., OwnFunnel], plugin: None, tmp_path: Path
) -> None:
    """To a receiver whose sink takes them, byte by byte as they were."""
    sent = [b"bad \xff\0", "bad é\n".encode(), b"bad " + b"x" * 100_000]
    funnel = own_funnels("choosy:a.txt?rejected=r").start()
    funnel.send(*sent)
    eventually(lambda: len(lines_in(tmp_path / "r")) == len(sent))
    funnel.end()
    other = own_funnels("file:b.jsonl", name="other").start()
    lines = (tmp_path / "r").read_bytes()
    assert Cli(tmp_path).call("send", str(other.address), "--json", feed=lines)[0] == 0
    other.end()
    assert bodies(tmp_path / "b.jsonl") == sent


def test_status_and_metrics_count_rejections(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest

    import mpsr.sinks
    from mpsr.metrics import Collector

    told: list[str] = []
    path = tmp_path / "app.sock"
    with mpsr.Receiver(path, journal=tmp_path / "j") as receiver:
        sinks = [f"choosy:{tmp_path}/a.txt"]
        with mpsr.sinks.Delivery(receiver, sinks, tell=told.append) as delivery:
            registry = CollectorRegistry()
            registry.register(Collector(receiver))
            with mpsr.Producer(path) as producer:
                producer.send(b"bad")
                eventually(lambda: (delivery.wait(0.01), delivery.statuses()[0].rejected)[1])
            assert run(["status", str(path)]) == 0
            assert " behind, 0 delivered, 1 rejected" in capfd.readouterr().out
            page = generate_latest(registry).decode()
    (line,) = [each for each in page.splitlines() if each.startswith("mpsr_sink_rejected_total{")]
    assert line.endswith(" 1.0")
    assert len(told) == 1


@pytest.mark.parametrize("lives", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_killed_between_store_and_commit_stores_a_rejected_message_once(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path, lives: int
) -> None:
    """The sink fails after the message was stored, and the process is killed then."""
    broken = tmp_path / "a.txt.broken"
    funnel = funnels("choosy:a.txt", "file:b.txt?format=lines").start()
    funnel.send(b"bad")
    store = tmp_path / "app.journal.choosy_a.txt.rejected"
    eventually(lambda: stored(store))
    for life in range(lives):
        broken.touch()
        funnel.send(b"bad %d" % life, b"%d" % life)
        funnel.await_word("the flux is low")
        funnel.kill()
        broken.unlink()
        funnel.start()
        eventually(partial(has_line, tmp_path / "a.txt", b"0 %d" % life))
        funnel.kill()
        funnel.start()
    assert funnel.end() == 0
    assert bodies(store) == [b"bad", *(b"bad %d" % life for life in range(lives))]
    kept = {b"0 %d" % life for life in range(lives)}
    assert {*lines_in(tmp_path / "a.txt")} == kept  # at least once
    assert "are gone from the journal" not in funnel.told


def test_without_a_journal_a_message_is_stored_once_while_its_batch_is_tried_again(
    own_funnels: Callable[..., OwnFunnel], plugin: None, tmp_path: Path
) -> None:
    funnel = own_funnels("choosy:a.txt?rejected=r", journal=False).start()
    funnel.send(b"bad one", b"two")
    funnel.send(b"bad three", b"four")
    funnel.end()
    assert bodies(tmp_path / "r") == [b"bad one", b"bad three"]
    assert lines_in(tmp_path / "a.txt") == [b"0 two", b"0 four"]


@pytest.mark.parametrize(
    "case",
    [
        ("choosy:a.txt?on_reject=stop", True, "on_reject=stop"),
        ("choosy:a.txt", False, "there is no file to store it"),
    ],
)
def test_rejected_message_stops_the_sink_if_it_is_to(
    funnels: Callable[..., Funnel],
    plugin: None,
    tmp_path: Path,
    case: tuple[str, bool, str],
) -> None:
    """The messages before it are committed, and it is the next one after a restart."""
    sink, journal, how = case
    funnel = funnels(sink, journal=journal).start()
    with mpsr.Producer(funnel.address) as producer:
        producer.send(b"one")
        producer.flush(30)
        producer.send(b"bad two")
        assert funnel.process.wait(30) == 65
        assert "choosy:a.txt: it can never write " in funnel.told
        assert f": it is bad; it stops here ({how}); give rejected=FILE to store" in funnel.told
        assert lines_in(tmp_path / "a.txt") == [b"0 one"]
        funnel.arguments[1] = "--to=choosy:a.txt?rejected=r"
        funnel.start()
        producer.send(b"three")
        producer.flush(30)
        assert funnel.end() == 0
    assert lines_in(tmp_path / "a.txt") == [b"0 one", b"0 three"]
    assert bodies(tmp_path / "r") == [b"bad two"]


def test_store_that_cannot_be_written_loses_nothing(
    own_funnels: Callable[..., OwnFunnel], plugin: None, tmp_path: Path
) -> None:
    funnel = own_funnels("choosy:a.txt?rejected=mnt/r").start()
    funnel.send(b"bad one", b"two")
    funnel.await_word(f"{tmp_path}/mnt/r")
    assert lines_in(tmp_path / "a.txt") == []
    (tmp_path / "mnt").mkdir()
    eventually(lambda: lines_in(tmp_path / "a.txt") == [b"0 two"])
    funnel.end()
    assert bodies(tmp_path / "mnt" / "r") == [b"bad one"]


def test_rejection_of_a_message_that_is_not_there_is_a_failure(
    funnels: Callable[..., Funnel], plugin: None
) -> None:
    funnel = funnels("confused:x").start()
    funnel.send(b"one")
    funnel.await_word(
        "it rejected message 1 of a batch of 1: this is a bug in the sink; it is tried"
    )
    assert funnel.end() == 74


@pytest.mark.parametrize(
    ("sinks", "line"),
    [
        (["choosy:x?on_reject=later"], "it is none of store, stop"),
        (["choosy:x?on_reject=stop&rejected=r"], "on_reject=stop stores no message"),
        (["choosy:x?rejected="], "rejected= names no file"),
        (["choosy:x?rejected=."], "is a directory"),
        (["choosy:x?rejected=r&rejected=s"], "rejected= is given twice"),
        (["choosy:x?rejected=r", "choosy:y?rejected=r"], "several sinks would write to "),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    capfd: pytest.CaptureFixture[str], plugin: None, tmp_path: Path, sinks: list[str], line: str
) -> None:
    arguments = [f"--to={sink}" for sink in sinks]
    assert run(["recv", str(tmp_path / "a"), f"--journal={tmp_path}/j", *arguments]) in {2, 78}
    assert line in capfd.readouterr().err


def test_message_longer_than_the_upper_receiver_takes_is_stored_once(
    funnels: Callable[..., Funnel], own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """The upper receiver counts a loss and gets the others once, though the lower is killed."""
    upper = own_funnels("file:upper.txt?format=lines", name="upper").start(max_message=10240)
    lower = funnels("mpsr:upper.sock").start()
    lower.send(b"one", b"x" * 20_000, b"three")
    store = tmp_path / "app.journal.mpsr_upper.sock.rejected"
    eventually(lambda: lines_in(tmp_path / "upper.txt") == [b"one", b"three"])
    lower.kill()
    lower.start()
    lower.send(b"y" * 20_000)
    eventually(lambda: len(stored(store)) == 2)
    lower.kill()
    lower.start()
    lower.send(b"four")
    eventually(lambda: lines_in(tmp_path / "upper.txt")[2:] == [b"four"])
    assert lower.end() == 0
    upper.end()
    assert bodies(store) == [b"x" * 20_000, b"y" * 20_000]
    assert "takes 10240" in lower.told


def test_message_larger_than_nats_takes_is_stored_once(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats", *free_ports(1), more="max_payload: 10000")
    server.start()
    try:
        url = f"{server.url}/EVENTS/events?create=1"
        funnel = funnels(url).start()
        funnel.send(b"one", b"x" * 20_000, b"three")
        funnel.await_word("rejected position 2")
        funnel.kill()
        funnel.start()
        funnel.send(b"y" * 20_000, b"five")
        funnel.await_commit()
        assert funnel.end() == 0
        (store,) = tmp_path.glob("app.journal.nats*.rejected")
        assert bodies(store) == [b"x" * 20_000, b"y" * 20_000]
        _, printed, _ = Cli(tmp_path).call("log", f"{server.url}/EVENTS", "-o", "text")
        assert printed.splitlines() == [b"one", b"three", b"five"]
    finally:
        server.kill()


def test_value_that_sqlite_cannot_hold_is_rejected_by_index(tmp_path: Path) -> None:
    """Its limit of 1 GB is lowered here; nothing of the batch was inserted."""
    sink = sqlite_sink.sink(str(tmp_path / "a.db"))
    sink.open("")
    assert sink._database is not None
    sink._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    batch = batch_of([b"one", b"x" * 2000, b"three", b"y" * 2000], mpsr.Peer(1, 2, 3))
    with pytest.raises(mpsr.MessageRejected) as caught:
        sink.write(batch)
    assert caught.value.reasons == dict.fromkeys(
        (1, 3), "SQLite cannot hold it: string or blob too big"
    )
    sink.write(batch_of([b"four"], mpsr.Peer(1, 2, 3)))
    sink.commit()
    sink.close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        assert database.execute("SELECT body FROM messages").fetchall() == [(b"four",)]


def test_message_of_2_gib_is_rejected_by_columnar_files(tmp_path: Path) -> None:
    """It is refused before anything touches its memory."""
    pytest.importorskip("pyarrow")
    from mpsr.sinks import parquet

    sink = parquet.sink(str(tmp_path / "events"))
    sink.open("")
    batch = batch_of([b"one", bytes(2**31 - 1), b"three"], mpsr.Peer(1, 2, 3))
    with pytest.raises(mpsr.MessageRejected) as caught:
        sink.write(batch)
    assert [*caught.value.reasons] == [1]
    for part in rest_of(batch, caught.value.reasons):
        sink.write(part)
    sink.commit()
    sink.close()
    assert len([*tmp_path.rglob("*.parquet")]) == 1


@pytest.mark.parametrize(
    ("rejected", "parts"),
    [
        ([1], [([b"0"], 7, 4, 11), ([b"2"], 9, 0, 13)]),
        ([0], [([b"1", b"2"], 8, 4, 13)]),
        ([0, 1, 2], [([], 10, 4, 13)]),
        ([2], [([b"0", b"1"], 7, 4, 12)]),
    ],
)
def test_rest_of_a_batch_keeps_positions_numbers_and_the_loss(
    rejected: list[int], parts: list[tuple[list[bytes], int, int, int]]
) -> None:
    batch = batch_of([b"0", b"1", b"2"], mpsr.Peer(1, 2, 3), first_seq=7, lost=4, position=13)
    rest = [*rest_of(batch, dict.fromkeys(rejected, ""))]
    assert [(each.raw, each.first_seq, each.lost, each.position) for each in rest] == parts
