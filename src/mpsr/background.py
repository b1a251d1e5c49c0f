"""Start a thread that works in the background, and gets no signals.

The kernel may give a signal to any thread. One that came to a thread of ours would not
interrupt what the main thread waits in, and there its handler is to run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Final

# Faults come to the thread that made them.
_FAULTS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


class Thread:
    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    def is_current(self) -> bool:
        return self._thread.ident == threading.get_ident()


def start_thread(target: Callable[[], object], *, name: str) -> Thread:
    """Start a daemon thread; the program does not wait for it at its end."""

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        target()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return Thread(thread)
