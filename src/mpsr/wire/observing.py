"""Follow the observer's end of one connection: what a receiver tells of itself."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_OBSERVED
from mpsr.wire.frames import (
    HEADER,
    PREFACE,
    FrameType,
    Observe,
    Reject,
    RejectCode,
    decode,
    decode_tap,
    encode,
    malformed,
)

_ENDS: Final = frozenset({FrameType.REJECT})


class StatusSeen(NamedTuple):
    """What the receiver is doing: the document that docs/protocol.md describes."""

    document: dict[str, Any]


class SampleSeen(NamedTuple):
    """A message that the receiver has handed out."""

    head: dict[str, Any]
    body: bytes


Seen = StatusSeen | SampleSeen | Reject


class ObservingSession:
    """The observer's end of one connection.

    Attributes:
        ended: whether the receiver has sent REJECT: nothing comes behind it.

    """

    def __init__(self, interval: int = 0, rate: int = 0, clip: int = 0) -> None:
        """Ask for a status every ``interval`` ms, and for ``rate`` samples a second.

        Of each sample the first ``clip`` bytes are wanted.
        """
        self.opening: bytes = PREFACE + encode(Observe(interval, rate, clip))
        self.ended: bool = False
        self._data = b""

    def receive_data(self, data: bytes) -> list[Seen]:
        """Take what the connection brought; return what it tells.

        Raises RemoteProtocolError where it breaks the format.
        """
        self._data += data
        seen: list[Seen] = []
        while not self.ended and len(self._data) >= HEADER.size:
            length, kind, flags, zero = HEADER.unpack_from(self._data)
            if flags or zero:
                raise malformed("frame", "its flags and reserved field must be zero")
            if length > MAX_OBSERVED:
                error = f"a frame of {length} bytes, the most is {MAX_OBSERVED}"
                raise RemoteProtocolError(error, code=RejectCode.TOO_LARGE)
            end = HEADER.size + length
            if len(self._data) < end:
                break
            payload, self._data = self._data[HEADER.size : end], self._data[end:]
            seen.append(_understood(kind, payload))
            self.ended = kind in _ENDS
        return seen


def _understood(kind: int, payload: bytes) -> Seen:
    if kind == FrameType.STATUS:
        return StatusSeen(_object(payload, "STATUS"))
    if kind == FrameType.TAP:
        head, body = decode_tap(payload)
        return SampleSeen(_object(head, "TAP"), body)
    if kind == FrameType.REJECT:
        rejected = decode(kind, payload)
        if isinstance(rejected, Reject):
            return rejected
    name = FrameType(kind).name if kind in set(FrameType) else f"type {kind}"
    error = f"unexpected {name}: an observer is sent STATUS, TAP and REJECT only"
    raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise malformed(what, "it holds no JSON object")
    return found
