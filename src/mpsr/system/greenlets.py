"""Let a greenlet wait while the others of its thread run on."""

from __future__ import annotations

import sys
from typing import Protocol

from mpsr.system.wakeup import Wakeup


class GreenletEvent(Protocol):
    """Wakes one greenlet; it counts from the moment it is made."""

    def wait(self, seconds: float | None) -> None:
        """Let others run until it is notified, or the time is over."""

    def notify(self) -> None:
        """End the wait; safe in any thread and in a signal handler."""

    def close(self) -> None:
        """Give back what it holds; it is neither waited for nor rung any more."""


class World(Protocol):
    """What runs the greenlets of a thread."""

    def wait_readable(self, descriptor: int, seconds: float | None) -> None:
        """Let others run until the descriptor is readable, or the time is over."""

    def make_event(self) -> GreenletEvent:
        """Return a new event for the calling greenlet; raise OSError if there is none."""


def world() -> World | None:
    """Return what runs the calling greenlet; None if the caller has to sleep as a thread.

    That is also the caller whom the hub itself calls: nobody else can run while it waits. A
    program that uses gevent but has patched nothing expects what waits to stop its thread.
    """
    monkey, patcher = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if monkey is not None and monkey.saved and _Gevent.runs_caller():
        return _Gevent()
    if patcher is not None and patcher.already_patched and _Eventlet.runs_caller():
        return _Eventlet()
    return None


class _TooLate(Exception):
    """The time is over."""


class _Gevent:
    @staticmethod
    def runs_caller() -> bool:
        from gevent._hub_local import get_hub_if_exists  # noqa: PLC0415 - here it is loaded
        from greenlet import getcurrent  # noqa: PLC0415

        hub = get_hub_if_exists()
        return hub is not None and getcurrent() is not hub

    def wait_readable(self, descriptor: int, seconds: float | None) -> None:
        from gevent.socket import wait_read  # noqa: PLC0415

        try:
            wait_read(descriptor, seconds, _TooLate())
        except _TooLate:
            pass

    def make_event(self) -> GreenletEvent:
        return _GeventEvent()


class _GeventEvent:
    def __init__(self) -> None:
        from gevent.hub import Waiter, get_hub  # noqa: PLC0415

        hub = get_hub()
        self._waiter = Waiter(hub)
        self._watcher = hub.loop.async_()  # unlike a pipe, no other process's after a fork
        self._watcher.start(self._waiter.switch, None)

    def wait(self, seconds: float | None) -> None:
        from gevent import Timeout  # noqa: PLC0415

        with Timeout(seconds, False):
            self._waiter.get()

    def notify(self) -> None:
        self._watcher.send()

    def close(self) -> None:
        self._watcher.close()


class _Eventlet:
    @staticmethod
    def runs_caller() -> bool:
        from eventlet import hubs  # noqa: PLC0415
        from greenlet import getcurrent  # noqa: PLC0415

        hub = getattr(hubs._threadlocal, "hub", None)  # noqa: SLF001 - get_hub() would make one
        return hub is not None and getcurrent() is not hub.greenlet

    def wait_readable(self, descriptor: int, seconds: float | None) -> None:
        from eventlet.hubs import trampoline  # noqa: PLC0415

        try:
            trampoline(descriptor, read=True, timeout=seconds, timeout_exc=_TooLate)
        except _TooLate:
            pass

    def make_event(self) -> GreenletEvent:
        return _EventletEvent(self)


class _EventletEvent(Wakeup):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, seconds: float | None) -> None:
        self._world.wait_readable(self.fileno(), seconds)

    def notify(self) -> None:
        self.set()
