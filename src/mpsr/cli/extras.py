"""Tell what to install for what the base install does without."""

from __future__ import annotations

from importlib.util import find_spec

from mpsr.cli.status import CommandFailed, Status
from mpsr.errors import Explanation


def need(package: str, *, extra: str, by: str) -> None:
    """Raise CommandFailed, which names the extra, where a package is not installed."""
    if find_spec(package) is None:
        name = package.replace("_", "-")
        what = f"{by} needs {name}"
        why, advice = "it is not installed", f"pip install 'mpsr[{extra}]'"
        raise CommandFailed(Status.CONFIGURATION, Explanation(what, why, advice))
