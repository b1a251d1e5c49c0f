"""Keep the messages that were dropped although nobody asked for it, until a call reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mpsr.limits import MESSAGE_COST
from mpsr.wire.frames import LostReason

if TYPE_CHECKING:
    from collections.abc import Sequence

REPORTED: Final = (LostReason.FILE_REFUSED, LostReason.TOO_LARGE)
"""The reasons that ``on_full=`` does not ask for: ``flush()`` and ``close()`` report them."""


class Drops:
    """Messages that were dropped and not reported yet, each reason by itself.

    Once ``room`` bytes are kept, further messages are only counted: a program that never calls
    ``flush()`` is not to run out of memory.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._used = 0
        self._counts = dict.fromkeys(REPORTED, 0)
        self._messages: dict[LostReason, list[bytes]] = {reason: [] for reason in REPORTED}

    def add(self, reason: LostReason, messages: Sequence[bytes]) -> None:
        """Note messages that were dropped for one of the reported reasons."""
        self._counts[reason] += len(messages)
        for message in messages:
            cost = len(message) + MESSAGE_COST
            if not self._used or self._used + cost <= self._room:
                self._used += cost
                self._messages[reason].append(message)

    def take(self, reason: LostReason) -> tuple[int, list[bytes]]:
        """Return how many messages were dropped for a reason, and those kept; forget them."""
        count, messages = self._counts[reason], self._messages[reason]
        self._counts[reason], self._messages[reason] = 0, []
        self._used -= sum(len(message) + MESSAGE_COST for message in messages)
        return count, messages
