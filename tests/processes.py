"""Wait in a test for what a process that it has started brings about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.eventually import PATIENCE, eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

Value = TypeVar("Value")


def eventually_by(
    process: subprocess.Popen[bytes],
    condition: Callable[[], Value],
    *,
    within: float = PATIENCE,
    reason: Callable[[], str] = str,
) -> Value:
    """Return the first true value of a condition; fail at once if the process ends before.

    Args:
        process: the process that brings the condition about.
        condition: as for ``eventually``.
        within: seconds.
        reason: returns the output of the process, which the failure shows.

    """

    def holds() -> Value:
        ended = process.poll() is not None
        value = condition()
        if ended and not value:
            error = f"{process.args!r} ended with status {process.returncode}\n{reason()}"
            raise ChildProcessError(error)  # AssertionError would be tried again
        return value

    return eventually(holds, within=within)


def await_signal_taken(pid: int) -> None:
    """Return when a signal that was sent to a process is no longer pending, and it sleeps again."""

    def taken() -> bool:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        pending = int(fields["ShdPnd"], 16) | int(fields["SigPnd"], 16)
        return not pending and fields["State"].split()[0] == "S"

    eventually(taken)
