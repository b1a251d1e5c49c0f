"""Follow the observer's end of one connection: what a receiver tells of itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpsr.errors import RemoteProtocolError
from mpsr.json_reader import from_json
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
        opening: what the observer sends, all at once and nothing behind it.
        ended: whether nothing more is understood: the receiver has sent REJECT, or broke the
            format.

    """

    def __init__(self, interval: int = 0, rate: int = 0, clip: int = 0) -> None:
        """Ask for a status every ``interval`` ms, and for ``rate`` samples a second.

        Of each sample the first ``clip`` bytes are wanted.
        """
        self.opening: bytes = PREFACE + encode(Observe(interval, rate, clip))
        self.ended: bool = False
        self._data = b""
        self._seen: list[Seen] = []

    def receive_data(self, data: bytes) -> None:
        """Take what the connection brought.

        Raises RemoteProtocolError where it breaks the format; ``events_received`` still tells all
        that was good before.
        """
        self._data += data
        try:
            while not self.ended and self._take_frame():
                pass
        except RemoteProtocolError:
            self.ended = True
            raise

    def events_received(self) -> list[Seen]:
        """Return what the receiver has told since the last call."""
        seen, self._seen = self._seen, []
        return seen

    def _take_frame(self) -> bool:
        """Understand the next frame; return False if it is not whole."""
        if len(self._data) < HEADER.size:
            return False
        length, kind, flags, zero = HEADER.unpack_from(self._data)
        if flags or zero:
            raise malformed("frame", "its flags and reserved field must be zero")
        if length > MAX_OBSERVED:
            error = f"a frame of {length} bytes, the most is {MAX_OBSERVED}"
            raise RemoteProtocolError(error, code=RejectCode.TOO_LARGE)
        end = HEADER.size + length
        if len(self._data) < end:
            return False
        payload, self._data = self._data[HEADER.size : end], self._data[end:]
        self._seen.append(_understood(kind, payload))
        self.ended = kind == FrameType.REJECT
        return True


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
        return from_json(text, dict[str, Any], most=MAX_OBSERVED)
    except ValueError as exc:
        raise malformed(what, f"it holds no JSON object that can be used: {exc}") from None
