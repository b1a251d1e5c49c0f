"""Close descriptors in threads that may sleep, and count those of each owner that are still open.

To close the last descriptor of a file may take long: a TCP socket with SO_LINGER sleeps until its
data are acknowledged, a file of a user's own file system until that user lets it. Owners take
turns, and one owner never has more than one of the threads.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from mpsr.limits import MAX_CLOSERS
from mpsr.system import primitives
from mpsr.system.descriptors import Registry, registry
from mpsr.system.threads import start_thread

_NO_LINGER: Final = struct.pack("ii", 1, 0)  # struct linger: at once, whatever is unsent


class _Closers:
    """Threads that close, and the descriptors that wait for them.

    A finalizer or a signal handler may call ``add`` in the middle of any other method, so that
    ``add`` waits for no lock: the current holder of the lock does its work afterwards.
    """

    def __init__(self) -> None:
        self._lock = primitives.Lock()
        self._added: deque[tuple[Hashable, Callable[[], object]]] = deque()
        self._waiting: dict[Hashable, deque[Callable[[], object]]] = {}  # by owner; first: in work
        self._turns: deque[Hashable] = deque()  # owners for which no thread works
        self._threads: list[None] = []  # one for each
        self._awaiting: deque[tuple[Hashable, int, Callable[[], object]]] = deque()

    def add(self, owner: Hashable, calls: Iterable[Callable[[], object]]) -> None:
        """Have calls made, each of which closes a descriptor."""
        self._added.extend((owner, each) for each in calls)
        self._settle()

    def _settle(self) -> None:
        """Give each owner that was added to its turn, and start a thread if one is needed."""
        needed = bool(self._turns) and not self._threads
        while self._added and self._lock.acquire(blocking=False):
            try:
                while self._added:
                    owner, call = self._added.popleft()
                    waiting = self._waiting.setdefault(owner, deque())
                    if not waiting:
                        self._turns.append(owner)
                        needed = True
                    waiting.append(call)
            finally:
                self._lock.release()
        if needed and len(self._threads) < MAX_CLOSERS:
            self._threads.append(None)
            try:
                start_thread(self._work, name="mpsr closes descriptors")
            except RuntimeError:  # the program ends, and its descriptors with it
                self._threads.pop()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._turns:
                    self._threads.pop()
                    break
                owner = self._turns.popleft()
                waiting = self._waiting[owner]
            self._settle()
            with suppress(OSError):
                waiting[0]()
            with self._lock:
                waiting.popleft()
                if waiting:
                    self._turns.append(owner)
                else:
                    del self._waiting[owner]
            self._notify()
        self._settle()  # a finalizer may have added something since

    def _notify(self) -> None:
        """Call the functions that have waited for this."""
        for each in tuple(self._awaiting):
            owner, most, call = each
            if self.unclosed(owner) <= most:
                with suppress(ValueError):  # another thread is quicker
                    self._awaiting.remove(each)
                    call()

    def unclosed(self, owner: Hashable) -> int:
        """Return how many descriptors of an owner are not closed yet."""
        return len(self._waiting.get(owner, ()))

    def owners(self) -> list[Hashable]:
        """Return the owners of descriptors that are not closed yet."""
        return list(self._waiting)

    def call_at(self, owner: Hashable, most: int, call: Callable[[], object]) -> bool:
        """Call a function once an owner has at most ``most`` unclosed descriptors."""
        self._settle()
        each = (owner, most, call)
        if each not in self._awaiting:
            self._awaiting.append(each)
        if self.unclosed(owner) > most and self._threads:  # asked after it was added
            return True
        with suppress(ValueError):
            self._awaiting.remove(each)
        return False


_closers = _Closers()


def close_apart(descriptors: Iterable[int], owner: Hashable = None) -> None:
    """Close descriptors that a user, the ``owner``, has passed; None: the program's own."""
    known = registry()
    close_by((partial(_close, known, each) for each in descriptors), owner)


def close_by(calls: Iterable[Callable[[], object]], owner: Hashable = None) -> None:
    """Have calls made, each of which closes a descriptor, in a thread that may sleep."""
    _closers.add(owner, calls)


def unclosed(owner: Hashable = None) -> int:
    """Return how many descriptors of an owner are not closed yet."""
    return _closers.unclosed(owner)


def owners() -> list[Hashable]:
    """Return the owners of descriptors that are not closed yet."""
    return _closers.owners()


def call_at(owner: Hashable, most: int, call: Callable[[], object]) -> bool:
    """Call a function once an owner has ``most`` unclosed descriptors; False if it never will be.

    It is called in another thread, once. It is not called, and the answer is False, if the owner
    has no more of them now, or if the system gives no thread that would close them.
    """
    return _closers.call_at(owner, most, call)


def _close(known: Registry | None, descriptor: int) -> None:
    """Close a descriptor, whatever it is of, as soon as can be.

    To ask which file it is could block. So the program has closed it meanwhile if it has closed
    the registry, which was there before.
    """
    if known is not None and not known.intact:
        return
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            stranger = primitives.socket(fileno=descriptor)
            with suppress(OSError):
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            stranger.detach()
    finally:
        primitives.close(descriptor)


def _forget() -> None:
    global _closers  # noqa: PLW0603 - the threads stayed with the parent
    _closers = _Closers()


os.register_at_fork(after_in_child=_forget)
