"""Deliver what producers hold when the program ends, after all else that runs then.

What a program sends in its own exit hooks, and what ``logging`` flushes in its, comes before: so
producers are finished last, whatever was imported first. ``atexit`` runs its hooks in an order that
only imports decide, but drops their arguments once all have run; one of those is an object of ours.
What is sent later still, as modules are taken down, is delivered message by message.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import ReferenceType, ref

from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from mpsr.errors import MpsrError, Undelivered

_LAST = -1_000_000  # a priority of multiprocessing.util.Finalize: below all others


class Finish(Protocol):
    """Delivers and closes something before the program ends."""

    def __call__(self, since: float, *, at_once: bool) -> Undelivered | None:
        """Deliver and close; the time-out counts from ``since``. Return what is left."""


_unfinished: set[Finish] = set()  # kept alive, as nothing else may
_drained_by_multiprocessing: set[int] = set()  # process ids
ended_at: float | None = None
"""When the end of the program began for producers, if it has: none has a thread from then on."""


def finish_at_exit(finish: Finish) -> None:
    """Call it before this process ends, unless ``is_finished`` was called by then."""
    _unfinished.add(finish)
    _register()
    # A child of multiprocessing ends without atexit, but runs these.
    util = sys.modules.get("multiprocessing.util")
    if util is not None and os.getpid() not in _drained_by_multiprocessing:
        _drained_by_multiprocessing.add(os.getpid())
        util.Finalize(None, _finish_all, exitpriority=_LAST)


def is_finished(finish: Finish) -> None:
    """Note that it has nothing left to do."""
    _unfinished.discard(finish)


def tell(error: MpsrError | None) -> None:
    """Say on stderr what is lost: nobody is left to raise it to."""
    if error is not None and sys.stderr is not None:
        with suppress(OSError, ValueError):  # stderr may be closed
            sys.stderr.write(f"mpsr: {error}\n")


def _finish_all() -> None:
    global ended_at  # noqa: PLW0603 - the process ends once
    since = ended_at = monotonic()
    interruption: BaseException | None = None
    for finish in list(_unfinished):
        undelivered = None
        for at_once in (interruption is not None, True):
            try:
                undelivered = finish(since, at_once=at_once)
                break
            except BaseException as exc:  # noqa: BLE001 - Ctrl-C, or whatever a handler raises
                interruption = exc
        tell(undelivered)
    if interruption is not None:
        _end(interruption)


def _end(interruption: BaseException) -> None:
    """End the process as the interruption asks: an exit hook cannot raise."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    if isinstance(interruption, SystemExit):
        os._exit(interruption.code if isinstance(interruption.code, int) else 1)
    if isinstance(interruption, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.excepthook(type(interruption), interruption, interruption.__traceback__)


class _Last:
    """Finishes all when it is dropped, once all hooks have run."""

    def __init__(self) -> None:
        self.reached = False  # whether its own has; not if it was registered by one that runs
        self._process = os.getpid()

    def __del__(self) -> None:
        global _last  # noqa: PLW0603 - there is one
        _last = None
        # Else this is a child of multiprocessing, which clears what its parent has registered.
        if self.reached or self._process == os.getpid():
            _finish_all()


_last: ReferenceType[_Last] | None = None  # what is registered


def _register() -> None:
    global _last  # noqa: PLW0603 - there is one
    if _last is None:
        last = _Last()
        _last = ref(last)
        atexit.register(_reach, last)


def _reach(last: _Last) -> None:
    last.reached = True
