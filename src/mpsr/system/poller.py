"""Wait for descriptors to become ready."""

from __future__ import annotations

import os
import selectors
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mpsr.system.calls import naming, refused
from mpsr.system.descriptors import Registry
from mpsr.system.greenlets import world
from mpsr.system.primitives import DefaultSelector, close, epoll, poll

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike, HasFileno

# As epoll(7) and poll(2) count them. An error, or the end, is ready for both, and has other bits.
READ: Final = 1
WRITE: Final = 4
MAX_EVENTS: Final = 256  # descriptors found ready at once; the next call finds the others


class EpollPoller:
    """Holds descriptors, what is awaited of each, and what each stands for."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._epoll = self._registry.epoll
        self._data: dict[int, object] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``poll`` has something to tell."""
        return self._epoll.fileno()

    @property
    def intact(self) -> bool:
        """Whether the descriptor is still the one that was made."""
        return self._registry.intact

    def register(self, file: FileDescriptorLike, events: int, data: object) -> None:
        """Await READ, or WRITE, or both."""
        try:
            self._epoll.register(file, events)
        except OSError as exc:
            raise refused("epoll_ctl", exc) from exc
        self._data[_number(file)] = data

    def modify(self, file: FileDescriptorLike, events: int) -> None:
        """Await something else."""
        self._epoll.modify(file, events)

    def unregister(self, file: FileDescriptorLike) -> None:
        """Await nothing more."""
        del self._data[_number(file)]
        with suppress(OSError):  # it is closed, and epoll has forgotten it
            self._epoll.unregister(file)

    def poll(self, seconds: float | None) -> list[tuple[Any, int]]:
        """Wait; return what is ready, and for what: bits other than READ and WRITE mean both."""
        data = self._data
        left = _wait_among_others(self, seconds)
        if self._epoll.closed:  # meanwhile, by another greenlet or a fork
            return []
        try:
            found = self._epoll.poll(left, MAX_EVENTS)
        except OSError as exc:
            raise refused("epoll_wait", exc) from exc
        return [(data[number], events) for number, events in found]

    def close(self) -> None:
        """Close the descriptor, unless the program has closed it."""
        self._registry.close()


class SelectorPoller:
    """The same where there is no epoll."""

    def __init__(self) -> None:
        self._selector = DefaultSelector()

    @property
    def intact(self) -> bool:
        """Return True: the descriptor, if there is one, has nothing that identifies it."""
        return True

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``poll`` has something to tell."""
        return self._selector.fileno()

    def register(self, file: FileDescriptorLike, events: int, data: object) -> None:
        """Await READ, or WRITE, or both."""
        self._selector.register(file, _for_selectors(events), data)

    def modify(self, file: FileDescriptorLike, events: int) -> None:
        """Await something else."""
        self._selector.modify(file, _for_selectors(events), self._selector.get_key(file).data)

    def unregister(self, file: FileDescriptorLike) -> None:
        """Await nothing more."""
        self._selector.unregister(file)

    def poll(self, seconds: float | None) -> list[tuple[Any, int]]:
        """Wait; return what is ready, and whether for READ, WRITE or both."""
        return [
            (key.data, (READ if mask & 1 else 0) | (WRITE if mask & 2 else 0))
            for key, mask in self._selector.select(_wait_among_others(self, seconds))
        ]

    def close(self) -> None:
        """Close the descriptor."""
        self._selector.close()


def ready_events(descriptor: int, events: int) -> int:
    """Return for what a descriptor is ready now; bits other than READ and WRITE mean both."""
    single = poll()
    single.register(descriptor, events)
    with naming("poll"):
        found = single.poll(0)
    return found[0][1] if found else 0


def wait_readable(file: HasFileno, seconds: float | None) -> None:
    """Wait until a descriptor is readable, or the time is over; other greenlets go on."""
    seconds = _wait_among_others(file, seconds)
    if seconds != 0:
        single = poll()
        single.register(file, READ)
        with naming("poll"):
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


def _number(file: FileDescriptorLike) -> int:
    return file if isinstance(file, int) else file.fileno()


def _for_selectors(events: int) -> int:
    return (selectors.EVENT_READ if events & READ else 0) | (
        selectors.EVENT_WRITE if events & WRITE else 0
    )


AnyPoller = EpollPoller | SelectorPoller
Poller: type[AnyPoller] = EpollPoller if epoll is not None else SelectorPoller
