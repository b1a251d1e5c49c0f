"""Say why an address cannot be claimed or reached."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mpsr.errors import (
    AddressDenied,
    AddressError,
    AddressInUse,
    AddressOccupied,
    Explanation,
    InvalidAddress,
)
from mpsr.system.calls import advice_for
from mpsr.system.processes import named

_KINDS: Final = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}
_OTHER_FILE_SYSTEM: Final = (
    "its file system fails, or has no sockets or locks; choose a path in /run, or an abstract @name"
)
ADVICE: Final[dict[int | None, tuple[type[AddressError], str]]] = {
    errno.ENOENT: (InvalidAddress, "make sure that its directory exists"),
    errno.ENOTDIR: (InvalidAddress, "make sure that its directory exists"),
    errno.ELOOP: (InvalidAddress, "choose a path without a loop of symbolic links"),
    errno.ENAMETOOLONG: (InvalidAddress, "choose a shorter path"),
    errno.EACCES: (AddressDenied, "change the permissions or the user"),
    errno.EPERM: (AddressDenied, "change the permissions or the user"),
    errno.EROFS: (AddressDenied, "choose a path on a file system that can be written"),
    errno.EADDRINUSE: (AddressOccupied, "something has just appeared there; try again"),
    errno.EOPNOTSUPP: (InvalidAddress, _OTHER_FILE_SYSTEM),
    errno.ENOLCK: (InvalidAddress, _OTHER_FILE_SYSTEM),
    errno.EIO: (InvalidAddress, _OTHER_FILE_SYSTEM),
    errno.EBADF: (InvalidAddress, "pass a descriptor that is open"),
    errno.ENOTSOCK: (InvalidAddress, "pass a socket"),
    errno.ENOTCONN: (InvalidAddress, "pass a connected one (a listening one is a receiver's)"),
}


def described(found: os.stat_result) -> str:
    """Return the kind of a file, in words."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a device")


@contextmanager
def translating(address: object, what: str, doing: str = "claim") -> Iterator[None]:
    """Translate an OSError; ``what`` says what it thwarts."""
    try:
        yield
    except OSError as exc:
        raise translated(address, what, exc, doing) from exc


def translated(address: object, what: str, exc: OSError, doing: str) -> AddressError:
    """Return an error of the system as one of ours, with what to do next."""
    error, advice = ADVICE.get(exc.errno, (AddressError, "try again once that is remedied"))
    if own := advice_for(exc):
        error, advice = AddressError, own
    return cannot(address, f"{what}: {exc.strerror or exc}", advice, error, doing)


def in_use(address: object, pid: int | None, *, outside: bool = False) -> AddressError:
    """Return the error for an address at which another process receives."""
    who = named(pid, outside=outside)
    advice = "stop it or choose another address"
    return cannot(address, f"{who} is receiving there", advice, AddressInUse, pid=pid)


def occupied(address: object, why: str) -> AddressError:
    """Return the error for a path at which there is another file."""
    advice = "choose another path, or remove it if nobody needs it"
    return cannot(address, why, advice, AddressOccupied)


def cannot(
    address: object,
    why: str,
    advice: str,
    error: type[AddressError],
    doing: str = "claim",
    *,
    pid: int | None = None,
) -> AddressError:
    """Return the error for an address that cannot be used."""
    text = Explanation(f"cannot {doing} {address}", why, advice)
    return error(text, address=str(address), pid=pid)
