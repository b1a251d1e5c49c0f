"""Write a short message straight to the socket, in one step that nothing can break into.

It takes C to be one step, so in pure Python there is none, and every message goes the way of
those that gather.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.wire import codec


class NoDirectWriter:
    """Stands where there is no C: it writes nothing.

    Of a DirectWriter, ``turn`` are the seconds in which one message may leave at once, on the
    whole; ``turns`` of them may leave in quick succession.
    """

    def __init__(self, turn: float, turns: int, /) -> None:
        del turn, turns
        self.turns_at = 0.0
        """When all turns are there again, on the monotonic clock; whoever takes one moves it."""

    def write(self, message: object, /) -> bool:
        """Write a message to the socket, and remember its frame; False if it is to go otherwise."""
        del message
        return False

    def open(self, descriptor: int, first_seq: int, count: int, longest: int, /) -> None:
        """Forget what was written; take up to ``count`` messages of up to ``longest`` bytes."""

    def close(self) -> tuple[int, list[bytes]]:
        """Take no more until ``open``; return the first sequence number, and the frames written."""
        return 0, []


if TYPE_CHECKING:
    from mpsr._direct import DirectWriter
elif codec.TWIN == "C":
    try:
        from mpsr._direct import DirectWriter
    except ImportError as exc:
        codec.do_without("direct writer", exc)
        DirectWriter = NoDirectWriter
else:
    DirectWriter = NoDirectWriter

__all__ = ["DirectWriter"]
