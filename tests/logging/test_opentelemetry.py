"""The page on OpenTelemetry: records that were received are exported."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest

import mpsr
import mpsr.logging

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "opentelemetry.md"
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of a handler that moves
def test_received_records_are_exported(address: str) -> None:
    """With their text, severity, time, extra and logger's name."""
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # of theirs
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    page: dict[str, object] = {}
    exec(PROGRAM, page)  # the page's own program
    export = page["export"]
    with mpsr.Receiver(address) as receiver:
        arguments = (LoggingHandler(logger_provider=provider), receiver)
        thread = threading.Thread(target=export, args=arguments)  # type: ignore[arg-type]  # it is one
        thread.start()
        sent = logging.makeLogRecord(
            {"name": "app", "levelno": 30, "levelname": "WARNING", "msg": "slow", "host": "db1"}
        )
        handler = mpsr.logging.Handler(address, timeout=20)
        handler.emit(sent)
        handler.close()
        receiver.stop()
        thread.join(20)
    (exported,) = exporter.get_finished_logs()
    record, scope = exported.log_record, exported.instrumentation_scope
    assert record.attributes is not None
    assert scope is not None
    assert record.body == "slow"
    assert record.severity_text == "WARN"
    assert record.timestamp == pytest.approx(sent.created * 1e9, abs=2000)
    assert record.attributes["host"] == "db1"
    assert scope.name == "app"
