"""Wait for many descriptors at once, in as few steps as the system allows."""

from __future__ import annotations

import os
import selectors
from typing import TYPE_CHECKING, Any, Final

from mpsr.greenlets import world
from mpsr.primitives import DefaultSelector, close, epoll, poll

if TYPE_CHECKING:
    from _typeshed import HasFileno

# As epoll counts them. An error, or the end, is ready for both; epoll says so with other bits.
READ: Final = 1
WRITE: Final = 4
MOST_EVENTS: Final = 256  # descriptors found ready at once; the next time finds the others


class SelectorPoller:
    """Holds descriptors, what is awaited of each, and what each stands for: on any system."""

    def __init__(self) -> None:
        self._selector = DefaultSelector()

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``poll`` has something to tell."""
        return self._selector.fileno()

    def register(self, file: HasFileno, events: int, data: object) -> None:
        """Await READ, or WRITE, or both."""
        self._selector.register(file, _for_selectors(events), data)

    def modify(self, file: HasFileno, events: int) -> None:
        """Await something else."""
        self._selector.modify(file, _for_selectors(events), self._selector.get_key(file).data)

    def unregister(self, file: HasFileno) -> None:
        """Await nothing more."""
        self._selector.unregister(file)

    def poll(self, seconds: float | None) -> list[tuple[Any, int]]:
        """Wait; return what is ready, and for what: bits other than READ and WRITE mean both."""
        return [
            (key.data, (READ if mask & 1 else 0) | (WRITE if mask & 2 else 0))
            for key, mask in self._selector.select(_wait_among_others(self, seconds))
        ]

    def close(self) -> None:
        """Close the descriptor."""
        self._selector.close()


class EpollPoller:
    """The same, straight on epoll."""

    def __init__(self) -> None:
        self._epoll = epoll()
        self._data: dict[int, object] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``poll`` has something to tell."""
        return self._epoll.fileno()

    def register(self, file: HasFileno, events: int, data: object) -> None:
        """Await READ, or WRITE, or both."""
        self._epoll.register(file.fileno(), events)
        self._data[file.fileno()] = data

    def modify(self, file: HasFileno, events: int) -> None:
        """Await something else."""
        self._epoll.modify(file.fileno(), events)

    def unregister(self, file: HasFileno) -> None:
        """Await nothing more."""
        del self._data[file.fileno()]
        self._epoll.unregister(file.fileno())

    def poll(self, seconds: float | None) -> list[tuple[Any, int]]:
        """Wait; return what is ready, and for what: bits other than READ and WRITE mean both."""
        data = self._data
        left = _wait_among_others(self, seconds)
        if self._epoll.closed:  # meanwhile, by another greenlet or a fork
            return []
        found = self._epoll.poll(left, MOST_EVENTS)
        return [(data[number], events) for number, events in found]

    def close(self) -> None:
        """Close the descriptor."""
        self._epoll.close()


class PollPoller:
    """The same for a few descriptors, without one of its own to wait on; it is only looked at."""

    def __init__(self) -> None:
        self._poll = poll()
        self._data: dict[int, object] = {}

    def register(self, file: HasFileno, events: int, data: object) -> None:
        """Await READ, or WRITE, or both."""
        self._poll.register(file.fileno(), events)
        self._data[file.fileno()] = data

    def modify(self, file: HasFileno, events: int) -> None:
        """Await something else."""
        self._poll.modify(file.fileno(), events)

    def unregister(self, file: HasFileno) -> None:
        """Await nothing more."""
        self._poll.unregister(file.fileno())
        del self._data[file.fileno()]

    def poll(self, seconds: float | None) -> list[tuple[Any, int]]:
        """Wait; return what is ready, and for what: bits other than READ and WRITE mean both."""
        found = self._poll.poll(None if seconds is None else seconds * 1000)
        return [(self._data[number], events) for number, events in found]

    def close(self) -> None:
        """Do nothing: it has no descriptor."""


def wait_readable(file: HasFileno, seconds: float | None) -> None:
    """Wait until a descriptor is readable, or the time is over; other greenlets go on."""
    seconds = _wait_among_others(file, seconds)
    if seconds != 0:
        single = poll()
        single.register(file, READ)
        single.poll(None if seconds is None else max(0.0, seconds) * 1000)


def _wait_among_others(file: HasFileno, seconds: float | None) -> float | None:
    """In a greenlet, wait here, so that the others run; return how long is left to wait."""
    runs = None if seconds == 0 else world()
    if runs is None:
        return seconds
    # A fork's child closes its copy, and libev aborts where it is to watch what is closed.
    try:
        mine = os.dup(file.fileno())
    except OSError:  # there are too many
        runs.wait_readable(file.fileno(), seconds)
        return 0
    try:
        runs.wait_readable(mine, seconds)
    finally:
        close(mine)
    return 0


def _for_selectors(events: int) -> int:
    return (selectors.EVENT_READ if events & READ else 0) | (
        selectors.EVENT_WRITE if events & WRITE else 0
    )


Poller = EpollPoller if epoll is not None else SelectorPoller
AnyPoller = EpollPoller | SelectorPoller | PollPoller
