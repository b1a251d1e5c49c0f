"""Receive, counting by producer."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from mpsr.cli.status import CommandFailed, Status
from mpsr.errors import Closed, Explanation, TimedOut
from mpsr.sync.receiver import Receiver

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from multiprocessing.process import BaseProcess

    from mpsr.batch import Batch
    from mpsr.cli.bench.shared import Board

_LOOK: Final = 0.05  # seconds of silence after which the producers may have ended


@dataclass
class Tally:
    """What came from one producer."""

    messages: int = 0
    nbytes: int = 0
    lost: int = 0


class Meter(Receiver[bytes]):
    """A receiver whose every iteration ends with the producers that it attends to.

    However it is iterated, it works once a batch and not at all for a message, so that what is
    measured is the receiver.

    Attributes:
        tallies: what came from each of the producers, in their order.
        handled_ns: when the caller last came back for more.

    """

    def __init__(self, address: str | os.PathLike[str], board: Board) -> None:
        super().__init__(address, framing="native")
        self._board = board
        self._producers: Sequence[BaseProcess] = ()
        self._by_pid: dict[int | None, Tally] = {}
        self.tallies: list[Tally] = []
        self.handled_ns: int = 0

    def attend(self, producers: Sequence[BaseProcess]) -> None:
        """Count anew, what these send."""
        self._producers = producers
        self.tallies = [Tally() for _ in producers]
        self._by_pid = {p.pid: t for p, t in zip(producers, self.tallies, strict=True)}

    def receive_batch(self, timeout: float | None = None) -> Batch[bytes]:
        """Return the next batch.

        Raises:
            TimedOut: none came in time.
            Closed: none will come any more.
            CommandFailed: somebody else sends, too; the batch is left to him.

        """
        self.handled_ns = monotonic_ns()
        while True:
            try:
                batch = super().receive_batch(_LOOK if timeout is None else timeout)
            except TimedOut:
                if timeout is not None:
                    raise
                if any(producer.is_alive() for producer in self._producers):
                    continue
                raise Closed(f"the producers of {self.address} have ended") from None
            self._count(batch)
            return batch

    def _count(self, batch: Batch[bytes]) -> None:
        tally = self._by_pid.get(batch.peer.pid)
        if tally is None:
            error = Explanation(
                f"the bench at {self.address} is spoilt",
                f"pid {batch.peer.pid} sends there, too",
                "measure where nobody does",
            )
            raise CommandFailed(Status.FAILURE, error)
        count, nbytes, board = len(batch), batch.nbytes, self._board
        tally.messages += count
        tally.nbytes += nbytes
        tally.lost += batch.lost
        board.messages += count
        board.nbytes += nbytes
