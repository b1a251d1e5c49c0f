"""Hold the counters of producers, receivers and journals: what ``stats()`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ProducerStats(NamedTuple):
    """What a producer has done since it was created: ``sent = accepted + lost + buffered``.

    What its spool held then counts as sent, and what a spool holds is buffered.
    """

    sent: int
    """Messages taken from the caller."""
    accepted: int
    """Messages that the receiver accepted (foreign framings: that the kernel took)."""
    lost: int
    """Messages dropped here, by ``on_full=`` or because the receiver takes no such size."""
    buffered: int
    """Messages taken and not accepted yet."""
    buffered_bytes: int
    """Bytes of buffer in use."""
    connects: int
    """Connections made."""
    connected: bool
    """Whether there is a receiver that has answered."""


class ReceiverStats(NamedTuple):
    """What a receiver has seen since it was created."""

    connections: int
    """Connections open now."""
    accepted: int
    """Connections accepted in all."""
    batches: int
    """Batches handed out."""
    messages: int
    """Messages handed out."""
    nbytes: int
    """Bytes of the messages handed out."""
    lost: int
    """Messages that producers reported as dropped."""
    rejected: int
    """Connections closed, or datagrams discarded, for breaking a rule."""
    refused: int
    """Connections and datagrams of those who may not send."""
    refused_by_uid: Mapping[int | None, int]
    """How many of them, by user id; None stands for all above 1,024 users, and for unknown ones."""
    discarded: int
    """Bytes of foreign messages that were read and not handed out when the receiver closed."""
    paused: bool
    """Whether accepting is suspended because connections or descriptors ran out."""
    limited: bool
    """Whether a user is at a limit of its own, so that it waits to be accepted or read."""
    in_hand: float
    """Seconds since a batch was handed out; 0.0 once the caller is back for more."""


class CursorStats(NamedTuple):
    """How far somebody who follows a journal has come."""

    position: int
    """The position up to which everything is done."""
    lag: int
    """Positions committed and not done yet: about as many messages."""


class JournalStats(NamedTuple):
    """What a receiver's journal holds."""

    directory: str
    """Where it is, in full."""
    first: int
    """The first position that is kept."""
    next: int
    """The position that the next message gets."""
    nbytes: int
    """Bytes taken on the disk."""
    limit: int
    """Bytes that it may take: ``journal_limit=``."""
    full: bool
    """Whether a message waits for room, and producers with it."""
    cursors: Mapping[str, CursorStats]
    """All cursors by name; the receiver's own is ``"main"``."""
