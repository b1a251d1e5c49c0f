"""Make hosts on one machine: network namespaces that a switch joins.

Everything is made inside namespaces, the switch too: the machine's own interfaces and addresses
stay as they are, and nothing is left once the namespaces are gone.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PREFIX: Final = "mpsr-fleet-"  # of the names of namespaces; the process id follows
SUBNET: Final = "10.213.77"  # only inside the namespaces
MOST: Final = 250  # hosts, in a subnet of 254 addresses
CLONE_NEWNET: Final = 0x40000000
NAMED: Final = Path("/run/netns")


class NotPermitted(Exception):
    """This process may not make network namespaces; the text says why and what to do."""


class Network:
    """Hosts that reach each other, until the network is closed; a context manager."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}{os.getpid()}-"
        self._switch = self._prefix + "switch"
        self._addresses: dict[str, str] = {}
        self._children: list[subprocess.Popen[Any]] = []
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY)

    def __enter__(self) -> Self:
        _remove_abandoned()
        try:
            ip("netns", "add", self._switch)
            ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self._switch, "link", "set", "bridge", "up")
        except (OSError, subprocess.CalledProcessError) as exc:
            self.close()
            detail = exc.stderr.strip() if isinstance(exc, subprocess.CalledProcessError) else exc
            raise NotPermitted(
                f"cannot make a network namespace ({detail}); this needs root, the capability "
                "CAP_SYS_ADMIN, and the command `ip` of iproute2"
            ) from exc
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs on the hosts, and remove them."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
        for child in self._children:
            child.wait()
        if self._outside >= 0:
            self.leave()
            os.close(self._outside)
            self._outside = -1
        for name in _existing(self._prefix):
            ip("netns", "del", name)

    def add(self, host: str) -> str:
        """Make a host, and return its address."""
        number = len(self._addresses) + 1
        if number > MOST:
            raise ValueError(f"there is room for {MOST} hosts")
        name = self._prefix + host
        address = f"{SUBNET}.{number}"
        port = f"to-{host}"
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "eth0", "type", "veth",
           "peer", "name", port, "netns", self._switch)  # fmt: skip
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        self._addresses[host] = address
        return address

    def cut(self, host: str) -> None:
        """Take a host's cable out of the switch: what it sends vanishes, and nobody is told."""
        ip("-n", self._switch, "link", "set", f"to-{host}", "nomaster")

    def join(self, host: str) -> None:
        """Put it back."""
        ip("-n", self._switch, "link", "set", f"to-{host}", "master", "bridge")

    def start(self, host: str, command: list[str], **more: Any) -> subprocess.Popen[Any]:
        """Start a program on a host; it is killed when this process ends, however that ends."""
        whole = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._prefix + host]
        child = subprocess.Popen([*whole, *command], **more)
        self._children.append(child)
        return child

    def enter(self, host: str) -> None:
        """Have this thread's new sockets be on that host, until ``leave``."""
        descriptor = os.open(NAMED / (self._prefix + host), os.O_RDONLY)
        try:
            _set_namespace(descriptor)
        finally:
            os.close(descriptor)

    def leave(self) -> None:
        """Have them be where they were at first."""
        _set_namespace(self._outside)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(descriptor, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _existing(prefix: str) -> list[str]:
    return [each.name for each in NAMED.glob(f"{prefix}*")] if NAMED.is_dir() else []


def _remove_abandoned() -> None:
    """Remove what a run left behind that was killed, and could not."""
    for name in _existing(PREFIX):
        process = name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", process).exists():
            ip("netns", "del", name)
