"""Warnings of what peers do wrong do not fill the log."""

from __future__ import annotations

import logging

import pytest

from mpsr.engine.receiving import complaints
from mpsr.engine.receiving.complaints import Complaints
from mpsr.limits import COMPLAINT_INTERVAL, COMPLAINTS


def test_warnings_are_limited_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some come at once, then one an interval, which tells how many were left out."""
    now = 100.0
    monkeypatch.setattr(complaints, "monotonic", lambda: now)
    told = Complaints(logging.getLogger("mpsr"))
    for number in range(COMPLAINTS + 7):
        told.tell("peer %d", number)
    assert [record.getMessage() for record in caplog.records] == [
        f"peer {number}" for number in range(COMPLAINTS)
    ]
    caplog.clear()
    now += COMPLAINT_INTERVAL
    told.tell("peer %d", 100)
    told.tell("peer %d", 101)
    now += COMPLAINT_INTERVAL
    told.tell("peer %d", 102)
    assert [record.getMessage() for record in caplog.records] == [
        "peer 100 (and 7 more warnings were left out)",
        "peer 102 (and 1 more warnings were left out)",
    ]
