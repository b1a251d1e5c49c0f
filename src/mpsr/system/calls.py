"""Name the system call that was refused, and tell a refusal from a peer that has gone.

A security policy (seccomp, SELinux) may refuse any call, with any error. An unknown error is no
reason to take a peer for gone, or to do nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PEER_GONE: Final = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.EBADF,  # the program has closed the descriptor
        errno.ENOENT,
    }
)
"""Errors of a connection that say that its other end, or this one, is no more."""

NO_SUCH_CALL: Final = frozenset({errno.ENOSYS, errno.EPERM})
"""Errors by which a kernel without a system call, or a policy that does not know it, refuses it."""

_POLICY: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES})


class RefusedCall(OSError):
    """A system call failed; the text names it."""


def refused(call: str, exc: OSError) -> RefusedCall:
    """Return the error for a system call that failed, with its name."""
    return RefusedCall(exc.errno, f"{call}: {exc.strerror}")


@contextmanager
def naming(call: str) -> Iterator[None]:
    """Name the system call in an OSError of the block."""
    try:
        yield
    except OSError as exc:
        raise refused(call, exc) from exc


def advice_for(exc: OSError) -> str:
    """Return what to do about a system call that failed; "" if the error does not tell."""
    if exc.errno in {errno.EMFILE, errno.ENFILE}:
        return "close files, or see ulimit -n"
    if isinstance(exc, RefusedCall) and exc.errno in _POLICY:
        return "if a security policy (seccomp, SELinux) refuses that system call, allow it"
    return ""
