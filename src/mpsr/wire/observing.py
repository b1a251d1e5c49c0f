"""Follow the observer's end of one connection: what a receiver tells of itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec.json  # noqa: F401 - now, since a program may give up the right to read it later

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
        framed: whether a frame that a receiver sends to observers has arrived.

    """

    def __init__(
        self,
        interval: int = 0,
        rate: int = 0,
        clip: int = 0,
        *,
        status: type[Any] = dict[str, Any],
        head: type[Any] = dict[str, Any],
    ) -> None:
        """Ask for a status every ``interval`` ms, and for ``rate`` samples a second.

        Of each sample the first ``clip`` bytes are wanted. ``status`` is the shape that a document
        must have, ``head`` that of a sample's head: as ``from_json`` takes them.
        """
        self.opening: bytes = PREFACE + encode(Observe(interval, rate, clip))
        self.ended: bool = False
        self.framed: bool = False
        self._shapes = {FrameType.STATUS: status, FrameType.TAP: head}
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
        self.framed = self.framed or kind in (*self._shapes, FrameType.REJECT)
        self._seen.append(self._understood(kind, payload))
        self.ended = kind == FrameType.REJECT
        return True

    def _understood(self, kind: int, payload: bytes) -> Seen:
        if kind == FrameType.STATUS:
            return StatusSeen(self._object(FrameType.STATUS, payload))
        if kind == FrameType.TAP:
            head, body = decode_tap(payload)
            return SampleSeen(self._object(FrameType.TAP, head), body)
        if kind == FrameType.REJECT:
            rejected = decode(kind, payload)
            if isinstance(rejected, Reject):
                return rejected
        name = FrameType(kind).name if kind in set(FrameType) else f"type {kind}"
        error = f"unexpected {name}: an observer is sent STATUS, TAP and REJECT only"
        raise RemoteProtocolError(error, code=RejectCode.UNEXPECTED)

    def _object(self, kind: FrameType, text: bytes) -> dict[str, Any]:
        """Return the object that a frame holds, if it has the shape of such objects."""
        try:
            found: dict[str, Any] = from_json(text, self._shapes[kind], most=MAX_OBSERVED)
        except ValueError as exc:
            raise malformed(kind.name, f"it holds no object of the expected form: {exc}") from None
        return found
