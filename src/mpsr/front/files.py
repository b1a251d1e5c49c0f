"""Send files: check what is passed, and take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpsr import arguments
from mpsr._speedups import codec
from mpsr.engine.sending.batches import FileMessage
from mpsr.errors import BufferFull, ConfigurationError, FilesRefused, MpsrError, SendTimedOut
from mpsr.front import reasons
from mpsr.front.sender import Sender
from mpsr.front.steps import LET_OTHERS_RUN, Steps, Wait
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


class FileSender(Sender):
    """A sender that passes open files, too."""

    def _checked_beside(self, file: object, message: Buffer) -> bytes:
        """Return the message that goes with a file, once both are found good."""
        if not self._outbox.sends_files:
            error = (
                f"the producer for {self.address} cannot send files: they go with native messages "
                "over stream or seqpacket, and a spool keeps none"
            )
            raise ConfigurationError(error)
        arguments.open_file(file)
        body = codec.to_bytes(message)
        self._window.check(body)
        self._enter("send_file")
        self._check()
        return body

    def _file_steps(self, message: FileMessage, timeout: float | None) -> Steps[None]:
        """Take a message with its file; wait for room, where that is what a full buffer does."""
        deadline = None if timeout is None else monotonic() + timeout
        left = [message.body]
        try:
            while True:
                taken, wrote = self._take([message], patient=self._patient and timeout is None)
                if taken:
                    return
                if wrote:
                    yield LET_OTHERS_RUN
                    continue
                if self._outbox.interrupted_here:
                    text = reasons.no_room_inside(self.address, left)
                    raise BufferFull(text, messages=left)
                if self._on_full == "raise":
                    raise BufferFull(self._no_room(left), messages=left)
                need = self._window.file_cost(len(message.body))
                if not (yield Wait("room", need, deadline)):
                    raise self._noted(SendTimedOut(self._no_room(left, timeout), messages=left))
        except MpsrError:  # which comes before it is taken
            message.file.close()
            raise

    def _offer(self, bodies: Sequence[Any], position: int, now: float) -> int:
        message = bodies[0] if bodies else None
        if not isinstance(message, FileMessage):
            return super()._offer(bodies, position, now)
        if not self._outbox.takes_files:
            error = f"the receiver at {self.address} {reasons.TAKES_NO_FILES}"
            raise FilesRefused(error)
        taken = self._window.offer_file(message)
        self._use_packer()
        return int(taken)
