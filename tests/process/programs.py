"""Run small programs, as a user would write them, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import mpsr
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Outcome(NamedTuple):
    """How a program ended."""

    status: int
    output: str
    complaint: str
    seconds: float


def begin(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program; what it prints is read by whoever has the process."""
    return subprocess.Popen(
        # Since 3.12 Python warns of a fork beside any thread, as the producer's is.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, *arguments: str) -> Outcome:
    """Run a program to its end."""
    since = monotonic()
    with begin(program, *arguments) as process:
        try:
            output, complaint = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return Outcome(process.returncode, output, complaint, monotonic() - since)


@contextmanager
def receiving(address: str, **options: Any) -> Iterator[list[bytes]]:
    """Receive in a thread, with options of the receiver; the list is complete after the block."""
    received: list[bytes] = []
    with mpsr.Receiver(address, **options) as receiver:
        thread = threading.Thread(target=lambda: received.extend(receiver))
        thread.start()
        try:
            yield received
        finally:
            receiver.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()
