"""Name a process in a message, as far as its id is known here.

A process id is valid in one pid namespace: another container may give the same number to another
process.
"""

from __future__ import annotations

import os

OUTSIDE = "a process in another pid namespace, such as a container"


def pid_namespace() -> int | None:
    """Return the number of this process's pid namespace; None if the system does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def named(pid: int | None, *, outside: bool = False) -> str:
    """Return a name for a process; ``outside``: it has no id in this pid namespace."""
    if outside:
        return OUTSIDE
    if pid is None:
        return "another process"
    return "this very process" if pid == os.getpid() else f"process {pid}"


def peer_named(pid: int | None, uid: int | None) -> str:
    """Return a name for a peer, from the credentials that the kernel reports.

    The kernel reports the user of a process in another pid namespace, but no id.
    """
    if pid is None:
        return OUTSIDE if uid is not None else "an unknown process"
    return f"process {pid}"
