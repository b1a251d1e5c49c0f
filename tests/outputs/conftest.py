"""Run ``mpsr recv`` as the tests of the sinks do."""

from __future__ import annotations

from tests.sinks.conftest import funnels

__all__ = ["funnels"]
