"""Say why messages were not taken, not accepted or not delivered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpsr.errors import Explanation, MpsrError
from mpsr.system.calls import RefusedCall
from mpsr.wire.frames import LostReason

if TYPE_CHECKING:
    from mpsr.engine.sending.outbox import Outbox
    from mpsr.system.address import Address

_INTERRUPTED = (
    "it was called from a signal handler or finalizer, in the middle of another call of this "
    "producer, and would wait for that call"
)

TAKES_NO_FILES = "takes no files: it has to be made with accept_files=True"
FILES_REFUSED = Explanation(
    f"the system does not pass such a file, or the receiver {TAKES_NO_FILES}"
)


def why(outbox: Outbox, spool_obstacle: Exception | None) -> Explanation:
    """Return why messages are not being accepted."""
    error = outbox.failure or spool_obstacle or outbox.obstacle
    if error is None:
        which = "" if outbox.peer_pid is None else f" (pid {outbox.peer_pid})"
        reason = Explanation(f"the receiver{which} has not come back for more")
    else:
        reason = Explanation.of(error)
    if outbox.failure is None and outbox.peer_pid == os.getpid():
        here = (
            "it is in this very process: a thread that both iterates a receiver and waits "
            "for a producer to it waits for itself"
        )
        return Explanation(str(reason), advice=here)
    return reason


def no_room(address: Address, left: Sequence[Any], waited: float | None, reason: str) -> str:
    """Return what to say of messages that the buffer had no room for, at once or in time."""
    within = "" if waited is None else f" within {waited:g} s"
    return f"no room for {_messages(len(left))} to {address}{within}: {reason}"


def no_room_inside(address: Address, left: Sequence[Any]) -> str:
    """Return what to say of messages for which a call that cannot wait had no room."""
    return f"no room for {_messages(len(left))} to {address}: {_INTERRUPTED}, to make room"


def reentrant(address: Address, name: str) -> str:
    """Return what to say of a call that would wait for the one that it has interrupted."""
    return f"{name}() of the producer for {address}: {_INTERRUPTED}; nothing is lost by it"


def not_accepted(address: Address, count: int, waited: float, reason: Explanation) -> Explanation:
    """Return what to say of messages that were not accepted in time."""
    return reason.caused(f"{address} has not accepted {_messages(count)} within {waited:g} s")


def not_spooled(count: int, waited: float, reason: str) -> str:
    """Return what to say of messages that were not in the spool in time."""
    return f"{_messages(count)} not in the spool within {waited:g} s: {reason}"


def not_delivered(
    address: Address, count: int, reason: Explanation, in_flight: int = 0
) -> Explanation:
    """Return the text for messages that were given up.

    ``in_flight`` of them are written to the connection, from which the receiver can still read.
    """
    outcome = "accepted" if in_flight == count else "delivered"
    error = reason.caused(f"{_messages(count)} to {address} not {outcome}")
    if not in_flight:
        return error
    which = "they" if in_flight == count else f"{in_flight} of them"
    why = f"{error.why}; {which} were sent to it, and arrive if it continues"
    return Explanation(error.what, why, error.advice)


def dropped(outbox: Outbox, reason: LostReason, count: int) -> Explanation:
    """Return the text for messages that were dropped unasked."""
    beside = " with a file" if reason is LostReason.FILE_REFUSED else ""
    return why_dropped(outbox, reason).caused(
        f"{_messages(count)}{beside} to {outbox.address} dropped"
    )


def why_dropped(outbox: Outbox, reason: LostReason) -> Explanation:
    """Return why messages were dropped, and how to have them delivered."""
    if reason is LostReason.FILE_REFUSED:
        return FILES_REFUSED
    if outbox.packets:
        return Explanation("the receiver takes no message so large, or the system no such packet")
    return Explanation(
        f"the receiver takes messages of {outbox.window.largest} bytes at most",
        advice="raise max_message= at the receiver, and journal_limit= to four times as much",
    )


def failed(address: Address, cause: BaseException) -> MpsrError:
    """Return the error for what has ended the work in the background."""
    if isinstance(cause, RefusedCall):
        what = f"the producer for {address} has failed"
        return MpsrError(Explanation(what, cause.strerror or str(cause)))
    what = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
    error = MpsrError(f"the producer for {address} has failed, within mpsr itself: {what}")
    error.__cause__ = cause
    return error


def _messages(count: int) -> str:
    return f"{count} message{'s'[: count != 1]}"
