"""Find native frames in a stream of bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr._speedups import codec
from mpsr.limits import MAX_CONTROL_FRAME, READ_IN_PLACE, SEPARATE_MESSAGE
from mpsr.wire.frames import FLAGS, HEADER, FrameType, malformed, max_frame
from mpsr.wire.framing import too_large

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BATCH_HEAD: Final = struct.Struct("<QII")  # first sequence number, count, zero


class RawFrame(NamedTuple):
    """One native frame, its payload not yet decoded."""

    kind: int
    payload: bytes
    flags: int
    bodies: list[bytes] | None = None
    """The messages of a batch of long ones; the payload is then what stands before them."""


class NativeDeframer:
    """Finds native frames.

    A large frame that has begun has a place of its own for the rest (``wanted``), so that
    whoever reads can read straight into it. Where its messages are long, each has its own place,
    so that it never needs another copy.
    """

    def __init__(self, max_message: int) -> None:
        self._max_frame = max_frame(max_message)
        self._header = bytearray()  # a header that is not whole
        self._kind: int | None = None  # the frame whose payload is awaited
        self._flags = 0
        self._length = 0
        self._head: bytes | None = None  # of a batch of long messages
        self._rest: codec.Assembly | None = (
            None  # what has come of the payload, or of those messages
        )
        self._trusted = False  # whether a large frame has come whole before
        self.takes_files: bool = False  # whether a FILE may be as large as a BATCH
        self.apart: bool = False  # whether the last frame's messages came apart

    @property
    def begun(self) -> bool:
        """Whether a frame has begun that is not whole."""
        return self._kind is not None or len(self._header) > 0

    def may_be(self, kind: FrameType) -> bool:
        """Tell whether a frame has begun that is, or may yet turn out to be, of a kind."""
        return self.begun and self._kind in (None, kind)

    @property
    def pending(self) -> int:
        begun = HEADER.size if self._kind is not None else 0
        begun += len(self._header) + len(self._head or b"")
        return begun + (self._rest.filled if self._rest is not None else 0)

    def wanted(self) -> list[memoryview]:
        """Return where the rest of a large frame belongs, if one has begun."""
        rest = self._rest
        return [] if rest is None or rest.missing < READ_IN_PLACE else rest.rooms()

    def feed_wanted(self, size: int, out: list[RawFrame]) -> None:
        """Record that ``size`` bytes were read into what ``wanted`` gave."""
        if self._rest is not None:
            self._rest.advance(size)
            self._finish_rest(self._rest, out)

    def feed(self, data: memoryview, out: list[RawFrame]) -> None:
        while data:
            if self._kind is None:
                data = self._feed_header(data)
                if self._kind is None:
                    return
            if self._rest is None:
                data = self._feed_first(data, out)
                if out and out[-1].kind == FrameType.MOVE:
                    return  # behind it there are no frames, but bells
            else:
                piece, data = data[: self._rest.missing], data[self._rest.missing :]
                self._rest.extend(piece)
                self._finish_rest(self._rest, out)

    def finish(self, out: list[RawFrame]) -> None:
        """Do nothing: a frame that is not whole ends with its connection."""

    def _feed_header(self, data: memoryview) -> memoryview:
        if not self._header and len(data) >= HEADER.size:
            self._begin(data[: HEADER.size])
            return data[HEADER.size :]
        take = HEADER.size - len(self._header)
        self._header += data[:take]
        if len(self._header) == HEADER.size:
            self._begin(self._header)
            self._header = bytearray()
        return data[take:]

    def _begin(self, header: Buffer) -> None:
        length, kind, flags, zero = HEADER.unpack(header)
        if (flags and flags & ~FLAGS.get(kind, 0)) or zero:
            raise malformed("frame", "its flags and reserved field must be zero")
        carries = kind == FrameType.BATCH or (kind == FrameType.FILE and self.takes_files)
        limit = self._max_frame if carries else MAX_CONTROL_FRAME
        if length > limit:
            raise too_large(f"a frame of {length} bytes, the most is {limit}")
        self._kind = kind
        self._flags = flags
        self._length = length

    def _feed_first(self, data: memoryview, out: list[RawFrame]) -> memoryview:
        """Take the first piece of a payload."""
        piece, rest = data[: self._length], data[self._length :]
        if len(piece) == self._length:
            self._finish_frame(bytes(piece), None, out)
            return rest
        sizes = self._sizes(piece)
        if sizes is not None:
            before = self._length - sum(sizes)
            self._head, piece = bytes(piece[:before]), piece[before:]
        self._rest = codec.Assembly([self._length] if sizes is None else sizes, self._trusted)
        self._rest.extend(piece)
        return rest

    def _sizes(self, piece: memoryview) -> list[int] | None:
        """Return the sizes of a batch's messages, if they are long, and all of them have come."""
        if self._kind != FrameType.BATCH or len(piece) < _BATCH_HEAD.size:
            return None
        count = _BATCH_HEAD.unpack_from(piece)[1]
        if count * SEPARATE_MESSAGE > self._length:
            return None
        try:
            return codec.scan_head(piece[: _BATCH_HEAD.size + 4 * (count + 1)], self._length)[1]
        except ValueError:  # all of it is looked at once it has come
            return None

    def _finish_rest(self, rest: codec.Assembly, out: list[RawFrame]) -> None:
        if not rest.missing:
            self._trusted = True
            bodies = rest.take()
            if self._head is None:
                self._finish_frame(bodies[0], None, out)
            else:
                self._finish_frame(self._head, bodies, out)

    def _finish_frame(
        self, payload: bytes, bodies: list[bytes] | None, out: list[RawFrame]
    ) -> None:
        kind, self._kind = self._kind, None
        self._rest = self._head = None
        self.apart = bodies is not None
        if kind is not None:
            out.append(RawFrame(kind, payload, self._flags, bodies))
