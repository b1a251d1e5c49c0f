"""Read an address: a path, an abstract name or the number of a descriptor."""

from __future__ import annotations

import os
import re
import socket
import sys
from typing import Final, Literal, NamedTuple

from mpsr.errors import Explanation, InvalidAddress
from mpsr.system.refusals import translating

_Complaint = tuple[str, str]  # why it is no address, and what to do

SocketType = Literal["stream", "dgram", "seqpacket"]
SOCKET_TYPES: Final[dict[SocketType, socket.SocketKind]] = {
    "stream": socket.SOCK_STREAM,
    "dgram": socket.SOCK_DGRAM,
    "seqpacket": socket.SOCK_SEQPACKET,
}
LINUX: Final = sys.platform == "linux"
MAX_NAME: Final = 107 if LINUX else 103  # bytes: sun_path, less the NUL that ends or begins it
_MAX_DESCRIPTOR: Final = 2**31 - 1  # a C int
_OF_A_NETWORK: Final = re.compile(r"[a-zA-Z][\w+.-]*://|([\w.-]*|\[[0-9a-fA-F:]+\]):\d+$", re.ASCII)
_PREFIXES: Final = {"path": "", "abstract": "@", "fd": "fd:", "systemd": "systemd:"}


class Address(NamedTuple):
    """Where a receiver is: a path, an abstract name, a descriptor, or what systemd has passed."""

    kind: Literal["path", "abstract", "fd", "systemd"]
    value: str
    typed: str = ""  # where the value is not what was typed

    def __str__(self) -> str:
        """Return the text that people type."""
        return _PREFIXES[self.kind] + (self.typed or self.value)


def are_one(one: Address, other: Address) -> bool:
    """Return whether two addresses lead to one socket: as a name, or as a file."""
    if one.kind == other.kind == "path":
        try:
            return os.path.samefile(one.value, other.value)
        except OSError:
            return False
    return (one.kind, one.value) == (other.kind, other.value)


def parse_address(text: str | os.PathLike[str]) -> Address:
    """Read an address: a path, ``@name``, ``fd:N``, ``systemd:`` or ``systemd:NAME``.

    Each may have ``unix:`` before it.

    A file whose name begins like one of these is written with its directory: ``./@name``.

    Raises:
        InvalidAddress: the text is none of these.

    """
    text = rest = os.fsdecode(text)
    while rest.startswith("unix:"):
        rest = rest.removeprefix("unix:")
    if rest.startswith("@"):
        address, complaint = Address("abstract", rest[1:]), _abstract_complaint(rest[1:])
    elif rest.startswith("fd:"):
        address, complaint = Address("fd", rest[3:].lstrip("0") or "0"), _fd_complaint(rest[3:])
    elif rest.startswith("systemd:"):
        address, complaint = Address("systemd", rest.removeprefix("systemd:")), None
    else:
        address, complaint = Address("path", rest), _path_complaint(rest)
    if complaint is not None:
        error = Explanation(f"{text!r} is no usable address", *complaint)
        raise InvalidAddress(error, address=text)
    return address


def absolute(address: Address) -> Address:
    """Return an address that a later chdir cannot change: a path begins at the root.

    Raises:
        InvalidAddress: the path is relative, and the current directory is gone.

    """
    if address.kind != "path" or os.path.isabs(address.value):
        return address
    with translating(address, "the current directory cannot be told", "use"):
        # Not abspath(): what ".." means behind a symbolic link only the kernel knows.
        return Address("path", os.path.join(os.getcwd(), address.value), address.value)


def _path_complaint(path: str) -> _Complaint | None:
    if not path:
        return "it is empty", "pass a path, @name or fd:N"
    if _OF_A_NETWORK.match(path):
        return (
            "it looks like an address of a network, and mpsr connects processes of one machine",
            f"pass a path, like /run/app.sock (a file of that name is written ./{path})",
        )
    if "\0" in path:
        return "a path holds no NUL", "leave it out, or write @name for an abstract name"
    if os.path.basename(path) in {"", ".", ".."}:
        return "it names a directory", "add the name of a socket"
    return None


def _abstract_complaint(name: str) -> _Complaint | None:
    if not LINUX:
        return "only Linux has abstract names", "pass a path"
    if not 0 < len(os.fsencode(name)) <= MAX_NAME or "\0" in name:
        return f"an abstract name has 1 to {MAX_NAME} bytes and no NUL", "choose another"
    return None


def _fd_complaint(number: str) -> _Complaint | None:
    digits = number.isascii() and number.isdecimal() and len(number) <= len(str(_MAX_DESCRIPTOR))
    if not digits or int(number) > _MAX_DESCRIPTOR:
        return "a descriptor is a small decimal number", "write it like fd:3"
    return None
