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
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.errors import MpsrError, Undelivered

_LAST = -1_000_000  # a priority of multiprocessing.util.Finalize: below all others


class Finish(Protocol):
    """Method that delivers, and closes its object, before the program ends."""

    def __call__(self, since: float, *, at_once: bool) -> Undelivered | None:
        """Deliver and close; the time-out counts from ``since``. Return what is left."""


_unfinished: WeakKeyDictionary[Any, Callable[..., Undelivered | None]] = WeakKeyDictionary()
_kept: set[Any] = set()  # those that nothing else keeps alive
_children_finish = False  # whether those of multiprocessing do
ended_at: float | None = None
"""When the end of the program began for producers, if it has: none has a thread from then on."""


def finish_at_exit(finish: Finish) -> None:
    """Call a method of an object before this process ends, if the object lives by then."""
    method = cast("MethodType", finish)
    _unfinished[method.__self__] = method.__func__
    _register()
    _register_in_children()


def keep(finish: Finish) -> None:
    """Keep the object alive until it is finished: it was discarded, and has still to deliver."""
    _kept.add(cast("MethodType", finish).__self__)
    finish_at_exit(finish)  # the garbage collector may have removed it


def is_finished(finish: Finish) -> None:
    """Note that the object has nothing left to do."""
    holder = cast("MethodType", finish).__self__
    _unfinished.pop(holder, None)
    _kept.discard(holder)


def tell(error: MpsrError | None) -> None:
    """Say on stderr what is lost: nobody is left to raise it to."""
    if error is not None and sys.stderr is not None:
        with suppress(OSError, ValueError):  # stderr may be closed
            sys.stderr.write(f"mpsr: {error}\n")


def _finish_all() -> None:
    global ended_at  # noqa: PLW0603 - the process ends once
    since = ended_at = monotonic()
    interruption: BaseException | None = None
    for holder, finish in list(_unfinished.items()):
        undelivered = None
        for at_once in (interruption is not None, True):
            try:
                undelivered = finish(holder, since, at_once=at_once)
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


# A child of multiprocessing ends with os._exit(), so that atexit runs nothing. It runs finalizers
# instead. It clears those when it begins; but a forkserver's child has unpickled its arguments by
# then. It calls the functions of register_after_fork() after that; a fork inherits them.


def _register_in_children() -> None:
    global _children_finish  # noqa: PLW0603 - once in a process, and inherited
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _children_finish:
        _children_finish = True
        util.register_after_fork(util, _register_in_child)
        _register_in_child(util)


def _register_in_child(util: Any) -> None:  # noqa: ANN401 - a module
    from multiprocessing.process import parent_process  # noqa: PLC0415 - its util is loaded

    if parent_process() is not None:
        util.Finalize(None, _finish_child, exitpriority=_LAST)


def _finish_child() -> None:
    import threading  # noqa: PLC0415 - a child has loaded it

    # A program's threads end before its exit hooks, but those of a child after its finalizers.
    # The child calls this next, in any case; the second call does nothing.
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    _finish_all()


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
