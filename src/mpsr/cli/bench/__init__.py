"""Measure mpsr on this machine: ``mpsr bench``."""

from __future__ import annotations

from mpsr.cli.bench.command import bench

__all__ = ["bench"]
