"""Find the sockets that systemd, or a program like it, has passed to this process.

It is the protocol of sd_listen_fds(3): LISTEN_FDS descriptors from 3 on, meant for the process
LISTEN_PID, with the names LISTEN_FDNAMES, separated by colons.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mpsr.errors import InvalidAddress
from mpsr.system.refusals import cannot, translating

if TYPE_CHECKING:
    from mpsr.system.address import Address

_FIRST: Final = 3  # SD_LISTEN_FDS_START
_MOST: Final = 65_536  # descriptors: more are a slip


def passed(address: Address) -> list[tuple[int, str]]:
    """Return the descriptors that an address stands for, and their names.

    ``systemd:`` stands for all of them, ``systemd:NAME`` for those of that name. None of them is
    inherited by the programs that this process starts.

    Raises:
        InvalidAddress: none were passed to this process, or none of that name.

    """
    found = list(zip(_descriptors(address), _names(), strict=False))
    with translating(address, "a descriptor that LISTEN_FDS counts is not open"):
        for descriptor, _ in found:
            os.set_inheritable(descriptor, False)
    chosen = [each for each in found if not address.value or each[1] == address.value]
    if not chosen:
        names = ", ".join(dict.fromkeys(name for _, name in found if name)) or "none with a name"
        why = f"no socket of that name was passed; passed were: {names}"
        raise cannot(address, why, "see FileDescriptorName=", InvalidAddress)
    return chosen


def _descriptors(address: Address) -> range:
    pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    if not (pid and count):
        why = "no sockets were passed to this process (LISTEN_FDS is not set)"
        advice = "start it by its .socket unit, or try systemd-socket-activate"
        raise cannot(address, why, advice, InvalidAddress)
    if pid != str(os.getpid()):
        why = f"the sockets were passed to process {pid}, and this is {os.getpid()}"
        advice = "let the service run the receiver itself (exec)"
        raise cannot(address, why, advice, InvalidAddress)
    if not (count.isascii() and count.isdecimal() and 0 < int(count) <= _MOST):
        why = f"LISTEN_FDS={count} is no number of sockets"
        raise cannot(address, why, "start it by its .socket unit", InvalidAddress)
    return range(_FIRST, _FIRST + int(count))


def _names() -> list[str]:
    names = os.environ.get("LISTEN_FDNAMES", "")
    return names.split(":") + [""] * _MOST
