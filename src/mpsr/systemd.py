"""Tell the service manager how a service gets on, by the protocol of sd_notify(3).

systemd, and programs like it, name in NOTIFY_SOCKET where they listen; a unit asks for it with
``Type=notify``. Each function returns False, and does nothing, where nobody listens: so a program
works alike under a service manager and without one::

    with mpsr.Receiver("systemd:") as receiver:
        mpsr.systemd.ready("receives at /run/app/events.sock")
        for batch in receiver.batches():
            ...
            mpsr.systemd.keep_alive()
    mpsr.systemd.stopping()
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from mpsr.names import in_utf8
from mpsr.system import passing, primitives
from mpsr.system.poller import READ, ready_events, wait_readable

_BARRIER_TIMEOUT: Final = 5.0  # seconds: what sd_notify_barrier(3) is usually given
_MICROSECOND: Final = 1e-6


def ready(status: str | None = None) -> bool:
    """Say that the service is up, or has loaded its configuration anew (READY=1).

    Args:
        status: a line for people, as ``status`` sends it; None sends none.

    Returns:
        Whether somebody listened.

    """
    return notify("READY=1", *_status(status))


def reloading(status: str | None = None) -> bool:
    """Say that the service loads its configuration anew (RELOADING=1, MONOTONIC_USEC=).

    ``ready`` must follow.

    Args:
        status: a line for people, as ``status`` sends it; None sends none.

    Returns:
        Whether somebody listened.

    """
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={now}", *_status(status))


def stopping(status: str | None = None) -> bool:
    """Say that the service begins to end (STOPPING=1).

    Args:
        status: a line for people, as ``status`` sends it; None sends none.

    Returns:
        Whether somebody listened.

    """
    return notify("STOPPING=1", *_status(status))


def status(text: str) -> bool:
    """Say in a line, for people, what the service does (STATUS=).

    Args:
        text: the line; what stands in several lines is put into one.

    Returns:
        Whether somebody listened.

    """
    return notify(*_status(text))


def keep_alive() -> bool:
    """Say that the service lives, if that is watched (WATCHDOG=1); see ``watchdog_interval``."""
    return watchdog_interval() is not None and notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Return the seconds within which ``keep_alive`` is to be called again; None: never.

    It is half of WatchdogSec=, as sd_watchdog_enabled(3) advises.
    """
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if pid not in (None, str(os.getpid())) or not microseconds.isdecimal():
        return None
    return int(microseconds) * _MICROSECOND / 2 or None


def barrier(timeout: float = _BARRIER_TIMEOUT) -> bool:
    """Wait until all that was said before is taken note of (BARRIER=1).

    A process that ends at once behind a notification may be gone before the manager has looked
    who it was, and what it said is then ignored.

    Args:
        timeout: seconds to wait at most.

    Returns:
        Whether it was answered in time.

    """
    descriptor, writer = os.pipe()
    with os.fdopen(descriptor, "rb", buffering=0) as reader:
        try:
            sent = _send(b"BARRIER=1", writer)
        finally:
            primitives.close(writer)
        if sent:
            wait_readable(reader, timeout)  # it hangs up once the manager closes its copy
        return sent and bool(ready_events(descriptor, READ))


def notify(*assignments: str) -> bool:
    """Send assignments of sd_notify(3) to the service manager.

    Args:
        assignments: each a str, such as ``"EXTEND_TIMEOUT_USEC=5000000"``.

    Returns:
        Whether somebody listened.

    """
    return _send(in_utf8("\n".join(assignments)).encode())


def _send(message: bytes, descriptor: int | None = None) -> bool:
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return False
    target = b"\0" + os.fsencode(name[1:]) if name.startswith("@") else os.fsencode(name)
    along = passing.along() if descriptor is None else passing.along(descriptor)
    try:
        with primitives.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendmsg([message], along, 0, target)
    except OSError:  # the manager is gone: it does not care
        return False
    return True


def _status(text: str | None) -> list[str]:
    return [] if text is None else ["STATUS=" + " ".join(text.split())]
