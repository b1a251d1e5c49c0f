"""Follow a receiver's journal beside the receiver, for what runs in threads of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpsr.engine.receiving.inbox import Inbox

if TYPE_CHECKING:
    from mpsr.engine.receiving.follower import Follower
    from mpsr.front.receiver import ReceiverBase
    from mpsr.store.journal import Journal


def follower_of(
    receiver: ReceiverBase[Any], cursor: str | None = None, *, after: int | None = None
) -> Follower:
    """Return a new follower of the receiver's journal, for a thread of its own."""
    return receiver._follower(after, cursor)  # noqa: SLF001 - what it gives is for the fronts alone


def journal_of(receiver: ReceiverBase[Any]) -> Journal | None:
    """Return the receiver's journal; None if it has none."""
    engine = receiver._engine(closed_too=True)  # noqa: SLF001 - what it gives is for the fronts alone
    return None if isinstance(engine, Inbox) else engine.journal


def stand_aside(receiver: ReceiverBase[Any], *, keep: bool) -> None:
    """Have the receiver's own cursor hold nothing, unless ``keep``: nobody iterates over it."""
    engine = receiver._engine()  # noqa: SLF001 - what it gives is for the fronts alone
    if not isinstance(engine, Inbox):
        engine.stand_aside(keep=keep)


def has_ended(receiver: ReceiverBase[Any]) -> bool:
    """Tell whether nothing more is written to the receiver's journal."""
    engine = receiver._engine(closed_too=True)  # noqa: SLF001 - what it gives is for the fronts alone
    return engine.closed or (not isinstance(engine, Inbox) and engine.ended)
