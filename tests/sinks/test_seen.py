"""How each sink gets on is seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import mpsr
from mpsr import observe
from mpsr.metrics import Collector
from mpsr.sinks import Delivery
from mpsr.sinks.delivered import Loss
from tests.eventually import eventually
from tests.sinks.conftest import Funnel, OwnFunnel, lines_in


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
    """With the sink as a label; why it fails is in no label, for each text would be a series."""
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
        eventually(lambda: registry.get_sample_value("mpsr_sink_failing", labels) == 1)
        assert registry.get_sample_value("mpsr_sink_delivered_messages_total", labels) == 0
        delivery.abandon()


def test_sink_that_fails_makes_no_series(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page has the same series while a call of a sink does not return, however long it takes."""
    monkeypatch.setattr("mpsr.sinks.runner.SINK_STUCK", 0.01)
    path = str(tmp_path / "s.sock")
    registry = CollectorRegistry()
    labels = {"address": path, "sink": "blocking:x"}

    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        samples = (each for family in registry.collect() for each in family.samples)
        return {(each.name, tuple(each.labels.items())) for each in samples}

    with mpsr.Receiver(path, journal=tmp_path / "j") as receiver:
        registry.register(Collector(receiver))
        delivery = Delivery(receiver, ["blocking:x"], tell=lambda _: None)
        delivery.start()
        before = series()
        with mpsr.Producer(path) as producer:
            producer.send(b"one")
            producer.flush(20)
        eventually(lambda: registry.get_sample_value("mpsr_sink_failing", labels) == 1)
        (error,) = (each.error for each in delivery.statuses())
        assert error == "write() has not returned for 0 s"
        eventually(lambda: "for 0 s" not in str(delivery.statuses()[0].error))
        assert series() == before
        delivery.abandon()


def test_message_that_is_written_again_is_delivered_once(
    own_funnels: Callable[..., OwnFunnel], plugin: None, tmp_path: Path
) -> None:
    """A sink that writes and cannot commit has delivered nothing, however often it is tried."""
    broken = tmp_path / "a.txt.uncommitted"
    broken.touch()
    funnel = own_funnels("raising:a.txt").start()
    funnel.send(b"one", b"three")
    eventually(lambda: len(lines_in(tmp_path / "a.txt")) >= 6)  # three attempts
    (status,) = funnel.statuses
    assert (status.delivered, status.delivered_bytes, status.lag) == (0, 0, 2)
    broken.unlink()
    funnel.await_commit()
    (status,) = funnel.statuses
    assert (status.delivered, status.delivered_bytes, status.lag) == (2, 8, 0)
    funnel.end()


def test_message_of_an_output_that_was_removed_is_delivered_once(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """The file is written again from the journal, and its messages are not counted again."""
    funnel = own_funnels("file:a.txt?format=lines").start()
    funnel.deliver(b"one")
    (tmp_path / "a.txt").unlink()
    funnel.deliver(b"two")
    eventually(lambda: lines_in(tmp_path / "a.txt") == [b"one", b"two"])
    assert [each.delivered for each in funnel.statuses] == [2]
    funnel.end()


def test_loss_before_a_message_that_is_written_again_is_told_once(
    plugin: None, tmp_path: Path
) -> None:
    """As soon as the sink has committed it."""
    broken = tmp_path / "a.txt.uncommitted"
    broken.touch()
    path = tmp_path / "s.sock"
    losses: list[Loss] = []
    with mpsr.Producer(path, label="web", on_full="drop_newest", buffer=1) as producer:
        producer.send_many([b"one", b"two", b"three"])
        dropped = producer.stats().lost
        assert dropped
        with mpsr.Receiver(path, journal=tmp_path / "j") as receiver:
            sinks = [f"raising:{tmp_path}/a.txt"]
            delivery = Delivery(receiver, sinks, tell=lambda _: None, lost=losses.append)
            with delivery:
                producer.flush(20)
                eventually(lambda: len(lines_in(tmp_path / "a.txt")) >= 3 * (3 - dropped))
                assert (losses, delivery.statuses()[0].lost) == ([], 0)
                broken.unlink()
                eventually(lambda: delivery.statuses()[0].lost == dropped)
    assert [(each.messages, each.producer and each.producer.label) for each in losses] == [
        (dropped, "web")
    ]
