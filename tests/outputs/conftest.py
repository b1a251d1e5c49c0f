"""Run ``mpsr recv`` as the tests of the sinks do, and other commands as those of the command do."""

from __future__ import annotations

from tests.cli.conftest import cli
from tests.sinks.conftest import funnels, own_funnels

__all__ = ["cli", "funnels", "own_funnels"]
