"""Let the other tasks of an event loop run, between calls that do not have to wait."""

from __future__ import annotations

import asyncio
from typing import Final

from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from mpsr.system.clock import monotonic

_TURN: Final = 0.001  # seconds: what another task may have to wait for


class Turns:
    """The turns of a task whose calls need not wait.

    A call that can be done at once is done without suspending, so that a time-out of any length
    does not cancel it: uvloop rounds less than a millisecond to none. asyncio's own queues and
    streams do the same.
    """

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: float | None = None  # when the turn began; None: the event loop has run since

    async def begin(self, *, cancellable: bool = True) -> None:
        """Begin a call: suspend if the turn has been long.

        A cancelled call raises here, before it does anything, unless it is not ``cancellable``.
        """
        pause = checkpoint if cancellable else cancel_shielded_checkpoint
        now = monotonic()
        if self._begun is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # trio, whose time-outs are exact
                await pause()
                return
            self._begun = now
            loop.call_soon(self._end)
        elif now - self._begun > _TURN:
            await pause()
            self._begun = None
            return
        if cancellable:
            await checkpoint_if_cancelled()

    def _end(self) -> None:
        self._begun = None
