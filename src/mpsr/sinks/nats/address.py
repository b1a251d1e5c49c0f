"""Read what stands behind ``nats:``: servers, a stream, a subject, and how to connect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

from mpsr.errors import ConfigurationError
from mpsr.sinks.nats.subjects import check_filter, check_template
from mpsr.sinks.options import choice, count, options, seconds, size, unnamed, without_user

if TYPE_CHECKING:
    from collections.abc import Callable

_PORT: Final = 4222
_MOST_PORT: Final = 65_535
_SERVER: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?")
_STREAM: Final = re.compile(r"[^\s.*>/\\]+")  # as the server has it
_MOST_PACKED: Final = 100_000
_EXAMPLE: Final = "nats://localhost:4222/EVENTS/events.{host}"


class Target(NamedTuple):
    """Where messages go, and how to get there."""

    servers: tuple[str, ...]
    """Each with its port, and without a user."""
    user: str | None
    password: str | None
    stream: str
    subject: str
    """A template; "" where none was given."""
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"nats://{','.join(self.servers)}"


def _switch(text: str) -> bool:
    return choice("0", "1")(text) == "1"


def _packed(text: str) -> int:
    number = count(text)
    if not 1 <= number <= _MOST_PACKED:
        raise ConfigurationError(f"it must be a number from 1 to {_MOST_PACKED}")
    return number


_CONNECTING: Final[dict[str, Callable[[str], Any]]] = {
    "tls": _switch,
    "tls-ca": str,
    "tls-cert": str,
    "tls-key": str,
    "creds": str,
    "nkey": str,
    "inbox": str,
    "domain": str,
}
_PUBLISHING: Final[dict[str, Callable[[str], Any]]] = {
    "create": _switch,
    "replicas": count,
    "max-age": seconds,
    "max-bytes": size,
    "pack": _packed,
    "origin": choice("headers", "none"),
}


def sink_target(text: str) -> Target:
    """Return what a sink is given: ``//HOST:PORT/STREAM/SUBJECT?options``."""
    target = _target(text, {**_PUBLISHING, **_CONNECTING})
    if not target.subject:
        raise unnamed("stream and subject", _EXAMPLE)
    check_template(target.subject)
    for name in ("replicas", "max-age", "max-bytes"):
        if name in target.options and not target.options.get("create"):
            raise ConfigurationError(f"{name}= has no use without create=1")
    return target


def reader_target(text: str) -> Target:
    """Return what a reader is given: ``//HOST:PORT/STREAM``, and perhaps ``/SUBJECT``."""
    target = _target(text, _CONNECTING)
    if target.subject:
        check_filter(target.subject)
    return target


def _target(text: str, known: dict[str, Callable[[str], Any]]) -> Target:
    without_user(text)  # refuses a URL whose password could be read as another part of it
    before, given = options(text, known)
    hosts, _, path = before.removeprefix("//").partition("/")
    stream, _, subject = path.partition("/")
    if not before.startswith("//") or not hosts or not stream:
        raise unnamed("server, stream and subject", _EXAMPLE)
    user, at, hosts = hosts.rpartition("@")
    name, _, password = user.partition(":")
    if not _STREAM.fullmatch(stream):
        raise ConfigurationError(f"{stream} is no name of a stream")
    if "tls-key" in given and "tls-cert" not in given:
        raise ConfigurationError("tls-key= has no use without tls-cert=")
    if sum((bool(at), "creds" in given, "nkey" in given)) > 1:
        raise ConfigurationError("a user in the URL, creds= and nkey= exclude each other")
    return Target(
        tuple(map(_server, hosts.split(","))),
        unquote(name) if at else None,
        unquote(password) if at else None,
        stream,
        subject,
        given,
    )


def _server(text: str) -> str:
    match = _SERVER.fullmatch(text)
    if match is None or int(match[2] or _PORT) > _MOST_PORT:
        raise ConfigurationError(f"{text!r} is no server; write HOST or HOST:PORT")
    return f"{match[1]}:{match[2] or _PORT}"
