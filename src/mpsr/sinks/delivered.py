"""Count what a sink has committed, each message once."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.batch import Batch, Peer, ProducerIdentity


class Loss(NamedTuple):
    """Messages that a producer reported as dropped, before messages that a sink has committed."""

    messages: int
    peer: Peer
    producer: ProducerIdentity | None


class _Part(NamedTuple):
    """A batch that was written and is not committed."""

    position: int | None
    messages: int
    nbytes: int
    loss: Loss


class Delivered:
    """Counts of one sink; an attempt that fails counts nothing.

    Attributes:
        messages: messages that the sink has committed.
        nbytes: bytes of these messages.
        lost: messages that their producers reported as dropped.
        pending: whether anything was written since the last commit.

    """

    def __init__(self) -> None:
        self.messages: int = 0
        self.nbytes: int = 0
        self.lost: int = 0
        self._written: deque[_Part] = deque()
        self._counted = 0  # the position up to which messages are counted

    @property
    def pending(self) -> bool:
        """Whether anything was written since the last commit."""
        return bool(self._written)

    def write(self, batch: Batch[Any]) -> None:
        """Note a batch that was written, and may yet have to be written again."""
        loss = Loss(batch.lost, batch.peer, batch.producer)
        self._written.append(_Part(batch.position, len(batch), batch.nbytes, loss))

    def commit(self, after: int | None = None) -> Iterator[Loss]:
        """Count the batches up to a position, or all, as committed; yield the losses in them.

        A batch that is delivered again, because the sink's output was removed, is not counted
        again.
        """
        while self._written:
            position = self._written[0].position
            if after is not None and (position is None or position > after):
                return
            part = self._written.popleft()
            if position is not None:
                if position <= self._counted:
                    continue
                self._counted = position
            self.messages += part.messages
            self.nbytes += part.nbytes
            self.lost += part.loss.messages
            if part.loss.messages:
                yield part.loss

    def forget(self) -> None:
        """Forget batches that are not committed: they will be written again."""
        self._written.clear()
