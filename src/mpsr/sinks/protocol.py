"""Say what a sink is asked for, and what is known of one that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from mpsr.errors import SinkError
from mpsr.limits import SINK_GROUP_IDLE, SINK_GROUP_SIZE, SINK_GROUP_TIME

if TYPE_CHECKING:
    from mpsr.batch import Batch


class Displaced(SinkError):
    """The output of a sink is gone: the sink is closed, and begins again at once.

    ``open`` then returns the position after which the new output begins. The text is told in one
    line, if there is any. This is no failure: the next attempt does not wait.
    """


class Grouping(NamedTuple):
    """When a sink is asked to commit: at whichever comes first."""

    nbytes: int = SINK_GROUP_SIZE
    """Bytes that were written since the last commit."""
    seconds: float = SINK_GROUP_TIME
    """Since the first message that is not committed was written."""
    idle: float = SINK_GROUP_IDLE
    """Seconds without a message."""


class Sink(Protocol):
    """Where messages end. One is made anew for every attempt, and opened and closed once.

    All its methods are called in one thread, in this order: ``open``, then ``write`` and
    ``commit`` in turns, then ``close``. Each may wait as long as it must: other sinks go on. What
    it raises is told in one line; then the sink is closed, and after a pause a new one is made,
    which is given everything that was not committed. Raise ``SinkError`` with a text that says
    what happened and what to do, or let an OSError pass; a ``ConfigurationError`` says that to
    try again is of no use, and ends this sink for good.

    A sink may also have: an attribute ``grouping``, a ``Grouping``; an attribute ``output``, the
    path of its local file or directory, next to which rejected messages are stored; and a method
    ``reopen()``, which is called after a commit when SIGHUP asks for it.
    """

    def open(self, journal: str) -> int | None:
        """Begin, or go on.

        Args:
            journal: 32 hexadecimal digits that name the receiver's journal, to whose positions
                ``batch.position`` belongs; "" without a journal.

        Returns:
            The position of that journal up to which the sink has everything, where it keeps that
            together with what it was given, so that each message comes exactly once. None to go
            on where the journal's cursor stands: then what was written behind the last commit,
            before a crash, is written again.

        """

    def write(self, batch: Batch[Any], /) -> None:
        """Take a batch, which the sink may keep in memory until ``commit``.

        A batch without messages only tells that some were lost (``batch.lost``).

        Raises:
            MessageRejected: The sink can never write some of its messages, and has taken none of
                this batch. They are stored elsewhere, and the others are written again as smaller
                batches. Only ``write`` may raise it.

        """

    def commit(self) -> None:
        """Return once all that was written is safe: the cursor moves behind it."""

    def close(self) -> None:
        """Release what is held; after an error, too. What was not committed may be dropped."""


@runtime_checkable
class Reopening(Protocol):
    """A sink that can part with its file, and make it anew."""

    def reopen(self) -> None:
        """Begin a new file at the path, if the old one was moved away."""


State = Literal["running", "waiting", "failing", "stopped"]


class SinkStatus(NamedTuple):
    """How a sink gets on."""

    name: str
    state: State
    """``running``: it is given messages; ``waiting``: it has all; ``failing``: it is tried again
    and again; ``stopped``: it has ended."""
    lag: int
    """Messages of the journal that it has not committed; 0 without a journal."""
    error: str | None
    """What is wrong, in words."""
    since: float
    """When this state began, in seconds since 1970."""
    rejected: int = 0
    """Messages that it can never write, and that were stored since the receiver was started."""
    delivered: int = 0
    """Messages that it has committed since the receiver was started."""
    delivered_bytes: int = 0
    """Bytes of these messages."""
    lost: int = 0
    """Messages that producers reported as dropped, before or among these."""
