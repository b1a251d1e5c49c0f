"""Hold the states of a producer's connection for writing, and what leads from one to the next.

Three tables: whether messages may be written, what carries them, and what an error of a write ends.
``python -m mpsr.engine.sending.states`` prints them.
"""

from __future__ import annotations

import errno
from enum import StrEnum  # hashed in C, as Enum is not
from typing import Final


class WriteState(StrEnum):
    """Whether a producer may write."""

    DOWN = "there is no connection"
    FREE = "a write may begin"
    FULL = "the connection takes no more for now; only a write that waits may begin"
    STALLED = "it took nothing while a write waited; no write may begin"
    WRITING = "a write is under way"
    BREAKING = "a write is under way, and the connection is to be closed behind it"
    TORN = "a write is under way, and an exception has interrupted another call meanwhile"
    INTERRUPTED = "an exception has interrupted a call: nobody knows how much was written"


class WriteEvent(StrEnum):
    """What changes that."""

    CONNECT = "a connection was made"
    BEGIN = "a write begins"
    END = "the write ends"
    FILL = "the write ends: the connection takes no more"
    STALL = "the write ends: it has waited for room in vain"
    ROOM = "the connection takes more"
    CLOSE = "the connection is given up"
    INTERRUPT = "an exception has interrupted the call that writes, or a call while none writes"
    TEAR = "an exception has interrupted a call while another one writes"
    REPAIR = "what an interruption has left half done is restored"


_WRITING: Final = (WriteState.WRITING, WriteState.BREAKING, WriteState.TORN)

#: (state, event) -> next state. What is not listed does not happen.
WRITE_TRANSITIONS: Final[dict[tuple[WriteState, WriteEvent], WriteState]] = {
    (WriteState.DOWN, WriteEvent.CONNECT): WriteState.FREE,
    (WriteState.FREE, WriteEvent.BEGIN): WriteState.WRITING,
    (WriteState.FULL, WriteEvent.BEGIN): WriteState.WRITING,
    (WriteState.WRITING, WriteEvent.END): WriteState.FREE,
    (WriteState.WRITING, WriteEvent.FILL): WriteState.FULL,
    (WriteState.WRITING, WriteEvent.STALL): WriteState.STALLED,
    (WriteState.FULL, WriteEvent.ROOM): WriteState.FREE,
    (WriteState.STALLED, WriteEvent.ROOM): WriteState.FREE,
    (WriteState.BREAKING, WriteEvent.END): WriteState.DOWN,
    (WriteState.TORN, WriteEvent.END): WriteState.INTERRUPTED,
    (WriteState.INTERRUPTED, WriteEvent.REPAIR): WriteState.DOWN,
    (WriteState.FREE, WriteEvent.CLOSE): WriteState.DOWN,
    (WriteState.FULL, WriteEvent.CLOSE): WriteState.DOWN,
    (WriteState.STALLED, WriteEvent.CLOSE): WriteState.DOWN,
    (WriteState.WRITING, WriteEvent.CLOSE): WriteState.BREAKING,
    (WriteState.BREAKING, WriteEvent.CLOSE): WriteState.BREAKING,
    (WriteState.TORN, WriteEvent.CLOSE): WriteState.TORN,
    (WriteState.INTERRUPTED, WriteEvent.CLOSE): WriteState.INTERRUPTED,
    **{(state, WriteEvent.INTERRUPT): WriteState.INTERRUPTED for state in WriteState},
    **{(state, WriteEvent.TEAR): WriteState.TORN for state in _WRITING},
}


class Carrier(StrEnum):
    """What carries the messages of a connection."""

    SOCKET = "the socket"
    SWITCHING = "the socket, until the batch that has begun is whole; then MOVE is written"
    RING = "a ring of shared memory; the socket carries acknowledgements and doorbells"


class CarrierEvent(StrEnum):
    """What changes that."""

    RING = "the receiver has given a ring"
    MOVE = "MOVE was written whole"


CARRIER_TRANSITIONS: Final[dict[tuple[Carrier, CarrierEvent], Carrier]] = {
    (Carrier.SOCKET, CarrierEvent.RING): Carrier.SWITCHING,
    (Carrier.SWITCHING, CarrierEvent.MOVE): Carrier.RING,
}


class Failure(StrEnum):
    """The object that an error of a write ends."""

    FILE = "the file, which this process can never pass; its message is dropped"
    PACKET = "the packet, which is too large for the system; its messages are dropped"
    CONNECTION = "the connection; unaccepted messages are sent again through the next one"


#: (kind of write, errno) -> what ends. An error that is not listed ends the connection: it may be
#: the receiver's, which the next connection need not have. Such are EPERM, while a receiver that
#: closes refuses files, EPIPE and ECONNRESET; and ETOOMANYREFS, until files in flight are received.
FAILURES: Final[dict[tuple[str, int], Failure]] = {
    ("file", errno.EBADF): Failure.FILE,  # the program has closed the duplicate
    ("file", errno.EINVAL): Failure.FILE,  # a kind of file that is never passed: an io_uring
    ("packet", errno.EMSGSIZE): Failure.PACKET,
    ("packet", errno.ENOBUFS): Failure.PACKET,
    ("packet", errno.ENOMEM): Failure.PACKET,
}


def failure_of(error: OSError, *, file: bool, packet: bool) -> Failure:
    """Return what the error of a write ends, which passed a file or wrote a packet, or both."""
    kinds = (["packet"] if packet else []) + (["file"] if file else [])
    number = error.errno or 0
    found = (FAILURES[kind, number] for kind in kinds if (kind, number) in FAILURES)
    return next(found, Failure.CONNECTION)


def _print_tables() -> None:
    for table in (WRITE_TRANSITIONS, CARRIER_TRANSITIONS):
        for (state, event), following in table.items():
            print(f"{state.name:12} {event.name:10} {following.name}")  # noqa: T201 - its purpose
        print()  # noqa: T201 - as above
    for (kind, number), failure in FAILURES.items():
        print(f"{kind:12} {errno.errorcode[number]:10} {failure.name}")  # noqa: T201 - as above


if __name__ == "__main__":
    _print_tables()
