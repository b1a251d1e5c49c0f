"""Take batches for one sink: behind a cursor of the journal, or from the receiver itself."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, Final, Protocol

from mpsr.engine.receiving.journaled import MAIN_CURSOR
from mpsr.errors import Closed
from mpsr.front.following import follower_of
from mpsr.system import primitives
from mpsr.system.wakeup import Wakeup

if TYPE_CHECKING:
    from mpsr.batch import Batch
    from mpsr.store.journal import Journal
    from mpsr.sync.receiver import Receiver

_LOOK: Final = 2000  # milliseconds until a receiver that waits looks after its path


class Source(Protocol):
    """What a sink is given messages from."""

    @property
    def finished(self) -> bool:
        """Whether nothing more comes."""

    @property
    def lag(self) -> int:
        """How many messages are not done."""

    @property
    def cursor(self) -> int:
        """The position up to which all is done; 0 without a journal."""

    def begin(self, after: int | None) -> int:
        """Go on behind a position, or behind what is done; return how many are gone there."""

    def take(self) -> Batch[Any] | None:
        """Return the next batch, or None where there is none now."""

    def wait(self, seconds: float | None) -> None:
        """Wait until there may be one, or for ``wake``."""

    def wake(self) -> None:
        """End the wait, or the next one; in any thread."""

    def done(self, batch: Batch[Any]) -> None:
        """Say that everything up to the end of this batch is safe."""

    def leave(self) -> None:
        """Take no more, until it begins again."""

    def close(self) -> None:
        """Close the descriptors; it never begins again."""


class JournalSource:
    """Follows a journal, with a cursor of its own."""

    def __init__(self, receiver: Receiver[Any], journal: Journal, name: str) -> None:
        self._receiver = receiver
        self._journal = journal
        self._name = name
        self._new = name not in journal.cursors()
        self._journal.cursor(name)  # from now on nothing is trimmed that it has not passed
        self._follower = follower_of(receiver, name)

    @property
    def finished(self) -> bool:
        """Whether nothing more comes."""
        return self._follower.finished

    @property
    def lag(self) -> int:
        """How many messages are not done."""
        return max(0, self._journal.last - self.cursor)

    @property
    def cursor(self) -> int:
        """The position up to which all is done."""
        return self._journal.cursor(self._name)

    def begin(self, after: int | None) -> int:
        """Go on behind a position, or behind the cursor; return how many are gone there."""
        self._follower.leave(handled=False)
        begin = None if after is None else self._journal.rewind(self._name, after)
        self._follower = follower_of(self._receiver, self._name, after=begin)
        if self._new or after is None or begin is None:
            return 0
        return begin - after

    def take(self) -> Batch[Any] | None:
        """Return the next batch, or None where there is none now."""
        batch = self._follower.next_batch()
        self._follower.disown()  # until it is done
        return batch

    def wait(self, seconds: float | None) -> None:
        """Wait until there may be one, or for ``wake``."""
        self._follower.wait(seconds)

    def wake(self) -> None:
        """End the wait, or the next one; in any thread."""
        self._follower.wake()

    def done(self, batch: Batch[Any]) -> None:
        """Move the cursor behind this batch."""
        self._new = False
        self._follower.in_hand = batch
        self._follower.acknowledge()

    def leave(self) -> None:
        """Take no more, until it begins again."""
        self._follower.leave(handled=False)

    def close(self) -> None:
        """Close the descriptors; it never begins again."""
        self.leave()


class ReceiverSource:
    """Takes what a receiver without a journal receives."""

    lag: int = 0
    cursor: int = 0

    def __init__(self, receiver: Receiver[Any]) -> None:
        self._receiver = receiver
        self._wakeup = Wakeup()
        self._in_hand: Batch[Any] | None = None
        self._again = False
        self.finished: bool = False

    def begin(self, after: int | None) -> int:  # noqa: ARG002 - there are no positions
        """Go on with what is not done."""
        self._again = self._in_hand is not None
        return 0

    def take(self) -> Batch[Any] | None:
        """Return the next batch, or None where there is none now, or the last is not done."""
        self._wakeup.clear()
        if self._in_hand is not None:
            again, self._again = self._again, False
            return self._in_hand if again else None
        try:
            self._in_hand = self._receiver.try_receive_batch()
        except Closed:
            self.finished = True
        return self._in_hand

    def wait(self, seconds: float | None) -> None:
        """Wait until there may be one, or for ``wake``."""
        if self.finished:
            return
        poll = primitives.poll()
        poll.register(self._wakeup.fileno(), select.POLLIN)
        if self._in_hand is None:
            poll.register(self._receiver.fileno(), select.POLLIN)
        poll.poll(_LOOK if seconds is None else min(_LOOK, seconds * 1000))

    def wake(self) -> None:
        """End the wait, or the next one; in any thread."""
        self._wakeup.set()

    def done(self, batch: Batch[Any]) -> None:  # noqa: ARG002 - there is one at a time
        """Acknowledge the batch to who sent it."""
        self._in_hand = None
        self._receiver.acknowledge()

    def leave(self) -> None:
        """Take no more, until it begins again."""

    def close(self) -> None:
        """Close the descriptors; it never begins again."""
        self._wakeup.close()


def source_of(receiver: Receiver[Any], journal: Journal | None, name: str) -> Source:
    """Return what a sink of this name is given messages from."""
    return ReceiverSource(receiver) if journal is None else JournalSource(receiver, journal, name)


__all__ = ["MAIN_CURSOR", "Source", "source_of"]
