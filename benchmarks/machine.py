"""Describe the machine: what somebody needs to know to repeat the figures."""

from __future__ import annotations

import os
import platform
import subprocess

from benchmarks.results import ROOT


def describe() -> dict[str, str]:
    """Return the facts, in the order in which they are to be read."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "socket buffers": f"{_read('/proc/sys/net/core/wmem_default')} bytes by default",
        "Python": f"{platform.python_version()}, {platform.python_compiler()}",
        "mpsr": f"commit {_commit()}",
    }


def _processor() -> str:
    lines = dict(
        line.split("\t: ", 1) for line in _read("/proc/cpuinfo").splitlines() if "\t: " in line
    )
    flags = next((value for key, value in lines.items() if key.strip() == "flags"), "")
    virtual = ", a virtual machine's" if "hypervisor" in flags.split() else ""
    name = next((v for k, v in lines.items() if k.strip() == "model name"), platform.machine())
    return name + virtual


def _commit() -> str:
    git = ["git", "-C", ROOT, "describe", "--always", "--dirty=, with changes"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
