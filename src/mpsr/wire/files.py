"""Follow the receiver's end of a connection through which files may come."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from mpsr.batch import Batch
from mpsr.errors import RemoteProtocolError
from mpsr.wire.frames import FrameType, RejectCode, decode_file
from mpsr.wire.receiving import ReceivingSession


class FileSession(ReceivingSession):
    """The receiver's end of one connection, in any framing; native producers may send files.

    A descriptor comes along with the first byte of its FILE frame. Who reads puts it into
    ``waiting`` before the bytes are received, and asks ``check_files`` once they were.

    Attributes:
        accepts_files: whether this connection's producer may send files.
        sent_some: whether it has sent one.
        waiting: descriptors whose frames have not come whole, in order.
        unwanted: descriptors of messages that had come before; to be closed.

    """

    __slots__ = ("accepts_files", "sent_some", "unwanted", "waiting")

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as ReceivingSession takes them
        super().__init__(*args, **options)
        self.accepts_files: bool = False
        self.sent_some: bool = False
        self.waiting: deque[int] = deque()
        self.unwanted: list[int] = []

    def accept_files(self) -> None:
        """Let files come from now on, as ``welcome`` then says; their producer must know them."""
        self.accepts_files = True
        if self._native is not None:
            self._native.takes_files = True

    @property
    def max_frame(self) -> int:
        """Bytes of the largest payload that a frame may have."""
        return self._max_frame

    def check_files(self) -> RemoteProtocolError | None:
        """Return what is wrong with the descriptors that have come; None if nothing is."""
        begun = self._native is not None and self._native.may_be(FrameType.FILE)
        if len(self.waiting) <= begun:
            return None
        return _unexpected("a descriptor that does not come with a FILE frame")

    def take_files(self) -> list[int]:
        """Return the descriptors that belong to no message, and forget them."""
        left = [*self.unwanted, *self.waiting]
        self.unwanted = []
        self.waiting.clear()
        return left

    def _receive_control(self, kind: int, payload: bytes, flags: int) -> None:
        if kind != FrameType.FILE:
            super()._receive_control(kind, payload, flags)
            return
        if not self.accepts_files:
            raise _unexpected("FILE: WELCOME did not say that files are accepted")
        self._pass(FrameType.FILE)
        seq, message = decode_file(payload)
        if not self.waiting:
            raise _unexpected("FILE: no descriptor came with it")
        descriptor = self.waiting.popleft()
        try:
            known = self._already(seq, 1)
        except RemoteProtocolError:
            self.unwanted.append(descriptor)
            raise
        if known:
            self.unwanted.append(descriptor)
        else:
            self._receive(seq, partial(iter, [message]), 1, len(message))
            batch = self._events[-1]
            if isinstance(batch, Batch):
                batch.files = (descriptor,)


def _unexpected(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"unexpected {what}", code=RejectCode.UNEXPECTED)
