"""Find the stream that is to have messages, or create it, and where it stands."""

from __future__ import annotations

import logging
from base64 import b64decode
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import SinkError
from mpsr.sinks.nats import layout
from mpsr.sinks.nats.connection import NO_STREAM, Config, Connection, Found, Refused
from mpsr.sinks.nats.subjects import matches, pattern_of

if TYPE_CHECKING:
    from mpsr.sinks.nats.address import Target

_OLDEST: Final = (2, 12)  # the first version of nats-server that has atomic batches
_NANOSECONDS: Final = 1_000_000_000
_WALK: Final = 1000  # batches of others that are looked behind for one of ours


async def prepare(connection: Connection, target: Target) -> None:
    """Raise SinkError unless the stream takes what we publish; create it, if that is wanted."""
    version = connection.client.connected_server_version
    if (version.major, version.minor) < _OLDEST:
        error = f"nats-server {version.major}.{version.minor} has no atomic batches: 2.12 has"
        raise SinkError(error)
    config = await _config(connection, target)
    pattern = pattern_of(target.subject)
    if not any(matches(pattern, each) for each in config.get("subjects") or ()):
        subjects = ", ".join(config.get("subjects") or ()) or "no subject"
        error = f"stream {target.stream} has {subjects}, and so not {pattern}"
        raise SinkError(error)
    if not config.get("allow_atomic"):
        error = "does not allow atomic batches: set allow_atomic in its configuration"
        raise SinkError(f"stream {target.stream} {error}")
    if config.get("num_replicas", 1) == 1:
        _warn(
            f"stream {target.stream} has one replica: unless its server has sync_interval: always, "
            "what it acknowledged in the last two minutes is lost if its machine crashes"
        )


async def _config(connection: Connection, target: Target) -> Config:
    try:
        info = await connection.stream_info(f"STREAM.INFO.{target.stream}")
    except Refused as exc:
        if exc.code != NO_STREAM:
            raise
        if not target.options.get("create"):
            error = f"there is no stream {target.stream}: create it, or let create=1 do so"
            raise SinkError(error) from exc
        info = await connection.stream_info(f"STREAM.CREATE.{target.stream}", _wanted(target))
    return info["config"]


def _wanted(target: Target) -> dict[str, Any]:
    given = target.options
    return {
        "name": target.stream,
        "subjects": [pattern_of(target.subject)],
        "storage": "file",
        "num_replicas": given.get("replicas", 1),
        "max_age": int(given.get("max-age", 0) * _NANOSECONDS),
        "max_bytes": given.get("max-bytes", -1),
        "allow_atomic": True,
        "allow_direct": True,
    }


async def place_of(connection: Connection, subject: str, journal: str) -> tuple[int, int | None]:
    """Return where a subject stands.

    Returns:
        The number of its last message, 0 without one; and the position up to which it has what
        is in the journal, None where no message of that tells.

    """
    found = await connection.last_message(subject)
    last = 0 if found is None else found["seq"]
    for _ in range(_WALK):
        if found is None:
            break
        headers = _headers(found)
        position = layout.number(headers.get(layout.POSITION))
        if headers.get(layout.JOURNAL) == journal and position is not None:
            return last, position
        previous = layout.number(headers.get(layout.PREVIOUS))
        found = await connection.message(previous) if previous else None
    if last:
        _warn(
            f"the last message of {subject} was not published from this journal: each journal "
            "needs a subject of its own while it is in use"
        )
    return last, None


def _headers(message: Found) -> dict[str, str]:
    try:
        lines = b64decode(message.get("hdrs", "")).decode("utf-8", "replace").split("\r\n")
    except ValueError as exc:
        raise SinkError("the headers of a message in the stream are not base64") from exc
    return dict(line.split(": ", 1) for line in lines if ": " in line)


@lru_cache(maxsize=256)  # tells each once
def _warn(text: str) -> None:
    logging.getLogger("mpsr").warning("%s", text)
