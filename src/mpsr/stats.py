"""Hold the counters of producers, receivers and journals: what ``stats()`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ProducerStats(NamedTuple):
    """What a producer has done since it was created: ``sent = accepted + lost + buffered``.

    What its spool held then counts as sent, and what a spool holds is buffered.

    Attributes:
        sent: messages taken from the caller.
        accepted: messages that the receiver accepted (foreign framings: that the kernel took).
        lost: messages dropped here, by ``on_full=`` or because the receiver takes no such size.
        buffered: messages taken and not accepted yet.
        buffered_bytes: bytes of buffer in use.
        connects: connections made.
        connected: whether there is a receiver that has answered.

    """

    sent: int
    accepted: int
    lost: int
    buffered: int
    buffered_bytes: int
    connects: int
    connected: bool


class ReceiverStats(NamedTuple):
    """What a receiver has seen since it was created.

    Attributes:
        connections: connections open now.
        accepted: connections accepted in all.
        batches: batches received: handed out, or, with a journal, committed to it.
        messages: messages in these batches. Messages that a journal had before are not among them,
            and how many of its messages are handed out is in ``journal_stats()``.
        nbytes: bytes of these messages, without framing.
        lost: messages that producers reported as dropped.
        rejected: connections closed, or datagrams discarded, for breaking a rule.
        refused: connections and datagrams of those who may not send.
        refused_by_uid: how many of them, by user id; None stands for all above 1,024 users, and for
            unknown ones.
        discarded: bytes of foreign messages that were read and not handed out when the receiver
            closed.
        paused: whether accepting is suspended: connections or descriptors ran out, or the system
            refused the call; it is tried again every 0.1 s.
        limited: whether a user is at a limit of its own, so that it waits to be accepted or read.
        in_hand: seconds since a batch was handed out; 0.0 once the caller is back for more.

    """

    connections: int
    accepted: int
    batches: int
    messages: int
    nbytes: int
    lost: int
    rejected: int
    refused: int
    refused_by_uid: Mapping[int | None, int]
    discarded: int
    paused: bool
    limited: bool
    in_hand: float


class CursorStats(NamedTuple):
    """How far somebody who follows a journal has come.

    Attributes:
        position: the position up to which everything is done.
        lag: positions committed and not done yet: about as many messages.

    """

    position: int
    lag: int


class JournalStats(NamedTuple):
    """What a receiver's journal holds.

    Attributes:
        directory: where it is, in full.
        first: the first position that is kept.
        next: the position that the next message gets.
        nbytes: bytes taken on the disk.
        limit: bytes that it may take: ``journal_limit=``.
        full: whether a message waits for room, and producers with it.
        cursors: all cursors by name; the receiver's own is ``"main"``.

    """

    directory: str
    first: int
    next: int
    nbytes: int
    limit: int
    full: bool
    cursors: Mapping[str, CursorStats]
