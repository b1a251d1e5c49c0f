"""What Prometheus is shown adds up with what was sent, and the pages name what is shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_page
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import mpsr
from mpsr import metrics
from mpsr.metrics import Collector
from mpsr.sinks import Delivery
from tests.eventually import eventually

DOCS: Final = Path(__file__).parents[1] / "docs"
ALL: Final = (*metrics.RECEIVER, *metrics.JOURNAL, *metrics.SINKS, *metrics.PRODUCER)
NAMES: Final = {metric.name for metric in ALL} | {"mpsr_build_info"}


def numbers(registry: CollectorRegistry) -> dict[str, float]:
    """Return what both text formats say, which is the same, by name and further labels."""
    plain = text_string_to_metric_families(generate_latest(registry).decode())
    page = openmetrics_page.generate_latest(registry)  # type: ignore[no-untyped-call]
    other = openmetrics.text_string_to_metric_families(page.decode())  # type: ignore[no-untyped-call]
    told = [
        {
            " ".join(
                [each.name, *(v for k, v in each.labels.items() if k != "address")]
            ): each.value
            for family in families
            for each in family.samples
        }
        for families in (plain, other)
    ]
    assert told[0].keys() == told[1].keys()
    assert all(told[1][name] >= number for name, number in told[0].items())  # looked at later
    return told[0]


def test_counters_add_up_with_what_was_sent(address: str) -> None:
    registry = CollectorRegistry()
    with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
        registry.register(Collector(receiver, producer))
        producer.send_many([b"one", b"three", b""])
        taken = [receiver.receive(10) for _ in range(3)]
        shown = numbers(registry)
        assert shown["mpsr_received_messages_total"] == len(taken)
        assert shown["mpsr_received_bytes_total"] == sum(map(len, taken))
        assert shown["mpsr_connections"] == shown["mpsr_accepted_connections_total"] == 1
        assert shown["mpsr_consumer_batch_seconds"] > 0
        assert shown["mpsr_producer_sent_messages_total"] == 3
        assert shown["mpsr_producer_connected"] == shown["mpsr_producers"] == 1
        assert receiver.try_receive() is None
        producer.flush()
        shown = numbers(registry)
        assert shown["mpsr_producer_accepted_messages_total"] == 3
        assert shown["mpsr_consumer_batch_seconds"] == 0
    assert numbers(registry)["mpsr_received_messages_total"] == 3  # closed, it goes on counting


def test_journal_and_each_cursor_are_shown(address: str, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    directory = tmp_path / "events.journal"
    with mpsr.Receiver(address, journal=directory) as receiver, mpsr.Producer(address) as producer:
        registry.register(Collector(receiver))
        producer.send_many([b"1", b"2", b"3", b"4"])
        producer.flush()
        audit = receiver.batches(cursor="audit")
        next(audit)
        assert [receiver.receive(10) for _ in range(2)] == [b"1", b"2"]
        receiver.acknowledge()
        shown = numbers(registry)
        stats = receiver.journal_stats()
        audit.close()  # type: ignore[attr-defined]
    assert stats is not None
    assert (stats.first, stats.next, stats.directory) == (1, 5, str(directory))
    assert stats.cursors == {"main": (2, 2), "audit": (0, 4)}
    assert shown["mpsr_journal_positions_total"] == shown["mpsr_journal_kept_messages"] == 4
    assert shown["mpsr_journal_cursor_lag_messages main"] == 2
    assert shown["mpsr_journal_cursor_lag_messages audit"] == 4
    assert shown["mpsr_journal_bytes"] == stats.nbytes > 0
    assert shown["mpsr_journal_limit_bytes"] == stats.limit
    assert shown["mpsr_journal_full"] == 0
    assert "mpsr_producers" not in shown


def test_full_journal_is_shown_until_there_is_room(address: str, tmp_path: Path) -> None:
    limit = 2 * 1024 * 1024
    journal = tmp_path / "events.journal"
    with (
        mpsr.Receiver(address, journal=journal, journal_limit=limit) as receiver,
        mpsr.Producer(address, exit_timeout=0) as producer,
    ):

        def full() -> bool:
            stats = receiver.journal_stats()
            return stats is not None and stats.full

        producer.send_many([bytes(100_000)] * 40)
        while not full():
            os.sched_yield()
        for _ in range(40):
            receiver.receive(10)
        receiver.acknowledge()
        while full():
            os.sched_yield()
        producer.flush(10)


def test_receivers_with_one_address_are_summed_and_others_apart(address: str) -> None:
    """A series is told once, whatever a program has under one address, one after the other."""
    registry = CollectorRegistry()
    sources: list[Any] = []
    for _ in range(2):
        with mpsr.Producer(address) as producer, mpsr.Receiver(address) as receiver:
            producer.send(b"x")
            assert receiver.receive(10) == b"x"
        sources += [receiver, producer]
    other = f"{address}-2"
    with mpsr.Receiver(other) as receiver:
        registry.register(Collector(receiver, *sources))
        labels = {"address": address}
        assert registry.get_sample_value("mpsr_received_messages_total", labels) == 2
        assert registry.get_sample_value("mpsr_producer_sent_messages_total", labels) == 2
        assert registry.get_sample_value("mpsr_received_messages_total", {"address": other}) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_fronts_are_shown(address: str, backend: str) -> None:
    async def main() -> None:
        registry = CollectorRegistry()
        async with mpsr.AsyncProducer(address) as producer, mpsr.AsyncReceiver(address) as receiver:
            registry.register(Collector(receiver, producer))
            await producer.send(b"x")
            assert await receiver.receive(10) == b"x"
            shown = numbers(registry)
            assert shown["mpsr_received_messages_total"] == 1
            assert shown["mpsr_producer_sent_messages_total"] == 1

    anyio.run(main, backend=backend)


def test_forked_child_shows_no_numbers_of_the_parents_receiver(address: str) -> None:
    registry = CollectorRegistry()
    with mpsr.Receiver(address) as receiver:
        registry.register(Collector(receiver))
        pid = os.fork()
        if pid == 0:
            os._exit("mpsr_connections" in numbers(registry))
        assert os.waitpid(pid, 0)[1] == 0
        assert "mpsr_connections" in numbers(registry)


def test_a_registry_refuses_the_same_names_twice(address: str) -> None:
    """That is why a collector takes several: registered without a look at any of them."""
    with mpsr.Receiver(address) as receiver:
        registry = CollectorRegistry()
        registry.register(Collector(receiver))
        with pytest.raises(ValueError, match="mpsr_received_messages"):
            registry.register(Collector(receiver))


def test_what_is_neither_receiver_nor_producer_is_refused() -> None:
    with pytest.raises(mpsr.WrongType, match=r"'app\.sock' is no receiver or producer"):
        Collector("app.sock")  # type: ignore[arg-type]


def test_every_name_follows_prometheus_conventions() -> None:
    """Counters end in _total, units are base units, and no label is a process or a producer."""
    for metric in ALL:
        assert re.fullmatch(r"mpsr(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.family().type == "counter")
        assert not re.search(r"milli|kilo|_ms\b|minutes", metric.name)
        assert set(metric.labels) <= {"address", "cursor", "sink"}
        assert metric.help.endswith(".")


def test_reference_page_has_every_metric_with_its_type_labels_and_meaning() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `mpsr_.*\|$", page, re.MULTILINE))
    build = f"| `mpsr_build_info` | gauge | `version`, `codec` | {metrics.BUILD.documentation}"
    expected = {f"{build} Its value is 1. |"}
    for metric in ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        expected.add(f"| `{metric.name}` | {metric.family().type} | {labels} | {metric.help} |")
    assert rows == expected


def test_dashboard_asks_for_nothing_that_is_not_shown() -> None:
    """Every name in an expression is a metric; every metric of a receiver is drawn somewhere."""
    text = (DOCS / "grafana.json").read_text(encoding="utf-8")
    panels = json.loads(text)["panels"]
    asked: set[str] = set()
    for panel in panels:
        for target in panel["targets"]:
            named = set(re.findall(r"\bmpsr_\w+", target["expr"]))
            assert named
            asked |= named
    assert asked <= NAMES
    assert set(re.findall(r"\bmpsr_\w+", text)) <= NAMES
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_how_to_page_asks_for_nothing_that_is_not_shown() -> None:
    page = (DOCS / "how-to" / "prometheus.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmpsr_\w+", page)) <= NAMES


@pytest.mark.needs("promtool")
def test_promtool_has_no_complaint_about_the_page(address: str, tmp_path: Path) -> None:
    """Every metric is on the page: a journal, a sink that fails, and a producer."""
    registry = CollectorRegistry()
    with (
        mpsr.Producer(address) as producer,
        mpsr.Receiver(address, journal=tmp_path / "j") as receiver,
    ):
        registry.register(Collector(receiver, producer))
        delivery = Delivery(receiver, [f"file:{tmp_path}/missing/a.txt"], tell=lambda _: None)
        delivery.start()
        producer.send(b"x")
        producer.flush(20)
        labels = {"address": address, "sink": f"file:{tmp_path}/missing/a.txt"}
        eventually(lambda: registry.get_sample_value("mpsr_sink_failing", labels) == 1)
        page = generate_latest(registry)
        delivery.abandon()
    shown = {each.name for each in text_string_to_metric_families(page.decode())}
    assert {name.removesuffix("_total") for name in NAMES} - shown <= {"mpsr_build_info"}
    done = subprocess.run(
        ["promtool", "check", "metrics"], check=False, input=page, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.needs("promtool")
def test_promtool_understands_every_expression(tmp_path: Path) -> None:
    """Of the dashboard and of the how-to page, each as an alert."""
    panels = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    page = (DOCS / "how-to" / "prometheus.md").read_text(encoding="utf-8")
    found += re.findall(r"^\| `(.*mpsr_.*)` \|", page, re.MULTILINE)
    rules = [
        {"alert": f"Alert{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(found)
    ]
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "mpsr", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", file], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout


def test_program_of_the_how_to_page_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "how-to" / "prometheus.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "prometheus.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("b'hello'\n")
    assert 'mpsr_received_messages_total{address="shop.sock"} 1.0' in out
