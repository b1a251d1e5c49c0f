"""Reserve TCP ports for servers that tests start."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that the kernel gives to no other program while this process runs.

    Each has a socket that is bound and does not listen. So no other socket is given its number,
    but a server that asks for this very port, with SO_REUSEADDR as servers do, can listen there.
    """
    return [_reserved() for _ in range(count)]


def free_port() -> int:
    """Return one such port."""
    return _reserved()


def _reserved() -> int:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        sock.detach()  # stays open until this process ends
    return port
