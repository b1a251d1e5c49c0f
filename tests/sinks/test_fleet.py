"""A fleet on hosts of its own forwards each message once, though a node is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fleet.audit import Audit, Findings

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="makes network namespaces"
)
@pytest.mark.parametrize("fault", ["kill", "cut-hosts"])
def test_fleet_forwards_each_message_once(fault: str) -> None:
    command = [sys.executable, "-m", "benchmarks.fleet", "--funnels=3", "--seconds=12"]
    done = subprocess.run(
        [*command, f"--fault={fault}"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=230,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "in the stream: each message exactly once, in order per producer" in done.stdout
    assert not [*Path("/run/netns").glob("mpsr-fleet-*")]


def test_audit_finds_what_is_missing_doubled_or_out_of_order() -> None:
    audit = Audit({"a": 4, "b": 1})
    for body in (b"a 0 .", b"a 2 .", b"a 1 .", b"a 2 .", b"c 0 .", b"nonsense"):
        audit.take(body)
    assert audit.findings() == Findings(missing=2, doubled=1, disordered=1, strange=2)
