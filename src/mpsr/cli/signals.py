"""Turn the first signal to end into an orderly end, and the second into an immediate one."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from mpsr.cli.status import Interrupted
from mpsr.limits import SIGNAL_REPEAT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heed_interrupts() -> None:
    """Have SIGINT raise KeyboardInterrupt, where it would end the process at once."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def orderly_end(begin: Callable[[int], None]) -> Iterator[None]:
    """Call ``begin`` with the number of the first signal; raise Interrupted at the second.

    A third kills the process. Within SIGNAL_REPEAT seconds, the same signal again is not another
    one: a wrapper that forwards a signal, and a terminal, both send it. After the block, a signal
    that has ended it is ignored. A signal that our parent ignores (as ``nohup`` and ``&`` in a
    script may) stays ignored.
    """
    counted: dict[int, float] = {}  # the signals, and when each was last counted
    ends = iter((begin, _raise))

    def handle(signum: int, _: FrameType | None) -> None:
        now = monotonic()
        if now - counted.get(signum, -inf) < SIGNAL_REPEAT:
            return
        counted[signum] = now
        next(ends, _kill)(signum)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        with held_back():  # Python complains about a signal that loses its handler on its way
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if number in counted else handler)


@contextmanager
def immediate_end() -> Iterator[None]:
    """Raise Interrupted at the first signal."""
    with orderly_end(_raise):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Hold the signals back while a child is forked, or while handlers change.

    Python ignores what a handler raises in the hooks of a fork. They stay held back in the child,
    until it calls ``end_by_signals`` or ``heed_again``.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_again() -> None:
    """Take the signals in a child as its parent takes them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_by_signals() -> None:
    """Have the signals end a child at once, as they do without a handler."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    heed_again()


def _raise(signum: int) -> None:
    raise Interrupted(signum)


def _kill(signum: int) -> None:
    signal.signal(signum, signal.SIG_DFL)
    signal.raise_signal(signum)
