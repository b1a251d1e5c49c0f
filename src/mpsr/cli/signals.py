"""Turn the first signal to end into an orderly end, and the second into an immediate one."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mpsr.cli.status import Interrupted

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

    A third kills. A signal that our parent ignores (as ``nohup`` and ``&`` in a script may)
    stays ignored.
    """
    first = True

    def handle(signum: int, _: FrameType | None) -> None:
        nonlocal first
        if first:
            first = False
            begin(signum)
        else:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            raise Interrupted(signum)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def immediate_end() -> Iterator[None]:
    """Raise Interrupted at the first signal."""
    with orderly_end(_raise):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Hold the signals back while a child is forked.

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
