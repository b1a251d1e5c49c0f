"""Write no message directly: it takes C to do it in one step that nothing can interrupt.

Every message then goes by way of the open batch.
"""

from __future__ import annotations

from typing import final


@final
class DirectWriter:
    """Stands in for the C type of this name.

    That one makes the frame of a short message, writes it to the socket and keeps it, in one
    step. ``send`` may write up to ``burst`` messages so in quick succession, and one each
    ``interval`` (seconds) on average; more than that is a burst, which is batched.
    """

    __slots__ = ("full_at",)

    def __init__(self, interval: float, burst: int, /) -> None:
        del interval, burst
        self.full_at: float = 0.0
        """When all ``burst`` tokens are there again, on the monotonic clock (seconds)."""

    def write(self, message: object, /) -> bool:
        """Write a message and keep its frame; return False if it has to go by the open batch."""
        del message
        return False

    def open(self, descriptor: int, first_seq: int, count: int, longest: int, /) -> None:
        """Forget the frames; accept up to ``count`` messages of up to ``longest`` bytes."""

    def close(self) -> tuple[int, list[bytes]]:
        """Accept none until ``open``; return the first sequence number, and the frames."""
        return 0, []
