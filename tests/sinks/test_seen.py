"""How each sink gets on is seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

import mpsr
from mpsr import observe
from mpsr.metrics import Collector
from mpsr.sinks import Delivery
from tests.eventually import eventually
from tests.sinks.conftest import Funnel


def test_status_shows_lag_and_error_of_each_sink(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """One that works, and one whose directory is missing."""
    funnel = funnels("file:a.jsonl", "file:missing/b.jsonl").start()
    funnel.send(b"one", b"two")

    def seen() -> dict[str, observe.Sink]:
        return {each["name"]: each for each in observe.status(str(funnel.address))["sinks"]}

    eventually(lambda: seen()["file:a.jsonl"]["lag"] == 0)
    failing = seen()["file:missing/b.jsonl"]
    assert (failing["state"], failing["lag"]) == ("failing", 2)
    assert "No such file" in (failing["error"] or "")
    assert seen()["file:a.jsonl"]["error"] is None


def test_metrics_show_lag_and_error_of_each_sink(tmp_path: Path) -> None:
    """With the sink as a label, and why it fails."""
    path = str(tmp_path / "s.sock")
    name = f"file:{tmp_path}/missing/b.jsonl"
    registry = CollectorRegistry()
    with mpsr.Receiver(path, journal=tmp_path / "j") as receiver:
        registry.register(Collector(receiver))
        delivery = Delivery(receiver, [name], tell=lambda _: None)
        delivery.start()
        with mpsr.Producer(path) as producer:
            producer.send(b"one")
            producer.flush(20)
        labels = {"address": path, "sink": name}
        eventually(lambda: registry.get_sample_value("mpsr_sink_lag_messages", labels) == 1)

        def errors() -> list[str]:
            (family,) = [f for f in registry.collect() if f.name == "mpsr_sink_failing"]
            return [each.labels["error"] for each in family.samples if each.value == 1]

        eventually(lambda: bool(errors()))
        assert "No such file" in errors()[0]
        delivery.abandon()
