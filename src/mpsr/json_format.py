"""Write messages, and what is known of them, as JSON, which cannot command a terminal."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from datetime import datetime
from functools import lru_cache
from json import JSONEncoder
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mpsr.batch import Peer, ProducerIdentity

_encode: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Characters that JSON allows unescaped: DEL, C1, and those that change the order of a line.
_COMMANDS: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def to_json(value: object) -> str:
    """Return a value as JSON; a byte of a name that is not UTF-8 becomes ``?``."""
    text = _encode(value)
    return harmless(text if text.isascii() else text.encode("utf-8", "replace").decode())


def host_name() -> str:
    """Return the name of this host; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(os.uname().nodename).decode("utf-8", "replace")


@lru_cache(maxsize=1)  # the messages of a batch came together
def local_time(nanoseconds: int) -> str | None:
    """Return a time since 1970 as ISO 8601 has it, with the time zone; None for 0, if unknown."""
    if not nanoseconds:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    time = datetime.fromtimestamp(seconds).astimezone().replace(microsecond=rest // 1000)
    return time.isoformat(timespec="microseconds")


def origin(time: str | None, peer: Peer, producer: ProducerIdentity | None) -> str:
    """Return the begin of an object: when a message was received, and from whom."""
    identity = None
    if producer is not None:
        identity = {"id": producer.id.hex(), "label": producer.label}
    return to_json({"time": time, "peer": peer._asdict(), "producer": identity})[:-1]


def content(body: bytes) -> str:
    """Return the item of an object that holds the message."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return '"body_b64":"' + b64encode(body).decode() + '"'
    return '"body":' + harmless(encode_basestring(text))


def harmless(text: str) -> str:
    """Return JSON in which control characters are escaped."""
    if text.isascii():
        if "\x7f" not in text:
            return text
    elif text.isprintable():
        return text
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
