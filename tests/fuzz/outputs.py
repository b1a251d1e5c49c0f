"""Feed every output with what a producer sends: each writes it, and the honest message after it."""

from __future__ import annotations

from typing import Final

from mpsr.batch import Peer
from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_INTEGER, MAX_LABEL
from tests.fuzz.feeding import Source
from tests.outputs.everywhere import check
from tests.outputs.sending import Sent, received

MOST: Final = 20  # messages: more reach nothing else
CREDENTIALS: Final = (None, 0, 1, 2**31 - 1, 2**32 - 1)


def sent(source: Source) -> Sent:
    """Return what the producer sends, of which the receiver may refuse numbers and label."""
    journaled = source.number() & 1
    credential = CREDENTIALS[source.number() % len(CREDENTIALS)]
    lowest, lost = source.number(8), source.number(8)
    label = source.take(source.number()).decode("utf-8", "replace")
    received_at = source.number(8) - MAX_INTEGER - 1
    groups: list[list[bytes]] = [[]]
    for _ in range(MOST):
        size = source.number(2)
        if not source:
            break
        if size >> 15:
            groups.append([])
        groups[-1].append(source.take(size & 0x7FFF))
    return Sent(
        label.encode()[:MAX_LABEL].decode("utf-8", "ignore"),
        lowest & MAX_INTEGER,
        lost & MAX_INTEGER,
        [group for group in groups if group],
        Peer(credential, credential, credential),
        received_at,
        1 if journaled else None,
    )


def run(data: bytes) -> None:
    """Give what was accepted to every output."""
    try:
        batches = received(sent(Source(data)))
    except (RemoteProtocolError, ValueError):  # numbers that no frame can have
        return
    check(batches)
