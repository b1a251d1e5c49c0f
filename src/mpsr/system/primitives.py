"""Give Python's real primitives, whatever has been monkey-patched, and when.

gevent and eventlet put cooperative things in the place of threads, locks, sockets and selectors.
A native thread of ours, and what it shares with a caller, needs the real ones: what is taken from
here stays real when somebody patches later, and is found again when somebody has patched before.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _socket import socketpair
    from _thread import RLock, get_ident, start_new_thread
    from _thread import allocate_lock as Lock  # noqa: N812 - as threading calls it
    from os import close
    from queue import SimpleQueue
    from select import epoll, poll
    from selectors import DefaultSelector
    from socket import socket
    from time import sleep

__all__ = [
    "DefaultSelector",
    "Lock",
    "RLock",
    "SimpleQueue",
    "close",
    "epoll",
    "get_ident",
    "poll",
    "sleep",
    "socket",
    "socketpair",
    "start_new_thread",
]


def _real(module: ModuleType, name: str) -> Any:  # noqa: ANN401 - whatever stands there
    """Return what stood in a module before it was patched."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_object_patched(module.__name__, name):
        return gevent.get_original(module.__name__, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.already_patched:
        return getattr(eventlet.original(module.__name__), name, None)
    return getattr(module, name, None)


if not TYPE_CHECKING:
    import _queue
    import _socket
    import _thread
    import os
    import select
    import selectors
    import socket as sockets
    import time

    DefaultSelector = _real(selectors, "DefaultSelector")
    Lock = _real(_thread, "allocate_lock")
    RLock = _real(_thread, "RLock")
    SimpleQueue = _real(_queue, "SimpleQueue")
    close = _real(os, "close")
    epoll = _real(select, "epoll")
    get_ident = _real(_thread, "get_ident")
    poll = _real(select, "poll")
    sleep = _real(time, "sleep")
    socket = _real(sockets, "socket")
    socketpair = _real(_socket, "socketpair")
    start_new_thread = _real(_thread, "start_new_thread")
