"""Start a thread that works in the background, and gets no signals.

The kernel may give a signal to any thread. One that came to a thread of ours would not
interrupt what the main thread waits in, and there its handler is to run.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from mpsr.errors import Explanation
from mpsr.system.primitives import get_ident, start_new_thread
from mpsr.system.waiting import Waiter

# Faults come to the thread that made them.
_FAULTS: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}

_NO_THREAD: Final = "raise ulimit -u or -v, or the limits of the container"


class Thread:
    """A native thread, also where ``threading`` makes greenlets; the program's end ends it.

    To start one takes no lock of ``threading``: a signal handler may do it, whatever it
    interrupted.

    Attributes:
        alive: whether it is at work.
        failure: the exception that ended it, if one did.

    """

    def __init__(self, target: Callable[[], object], *, name: str) -> None:
        self.name = name
        self.alive: bool = False
        self.failure: BaseException | None = None
        self._target = target
        self._ident: int | None = None
        self._joining: list[Waiter] = []

    def start(self) -> None:
        """Start it, once.

        Raises RuntimeError where the system gives no thread, or Python, at its end, allows none.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:  # a thread is born with the mask of the one that starts it
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
            self.alive = True
            start_new_thread(self._run, ())
        except (RuntimeError, MemoryError) as exc:
            self.alive = False
            if isinstance(exc, MemoryError) or are_stopped():
                raise
            raise RuntimeError(Explanation("cannot start a thread", str(exc), _NO_THREAD)) from exc
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def is_current(self) -> bool:
        """Tell whether the caller is this thread."""
        return self._ident == get_ident()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; return False if the time (seconds) has passed before.

        Once all threads are stopped, this does not wait.
        """
        waiter = Waiter()
        self._joining.append(waiter)
        if self.alive and not are_stopped():
            waiter.wait(timeout)
        return not self.alive

    def _run(self) -> None:
        self._ident = get_ident()
        # Debuggers and coverage ask threading for it; they see the calls that follow.
        if threading.gettrace() is not None:
            sys.settrace(threading.gettrace())
        if threading.getprofile() is not None:
            sys.setprofile(threading.getprofile())
        self._work()

    def _work(self) -> None:
        try:
            self._target()
        except BaseException as exc:  # noqa: BLE001 - kept for who started it
            self.failure = exc
        finally:
            self.alive = False
            for waiter in self._joining:
                waiter.wake()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' ended' * (not self.alive)}>"


def are_stopped() -> bool:
    """Return whether the end of the program has stopped all threads but this one.

    Python calls finalizers then. A stopped thread keeps the locks that it holds: a finalizer that
    waits for one of them never ends.
    """
    return sys.is_finalizing()


def start_thread(target: Callable[[], object], *, name: str) -> Thread:
    """Start a thread, and return it; the errors are those of ``Thread.start``."""
    thread = Thread(target, name=name)
    thread.start()
    return thread
