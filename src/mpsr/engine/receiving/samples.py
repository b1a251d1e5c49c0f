"""Take samples of the messages that a receiver hands out, never so many that it is slowed."""

from __future__ import annotations

from collections import deque
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from mpsr.limits import KIB, MAX_SAMPLE, MAX_SAMPLES, MAX_TAP_RATE, SAMPLES_PER_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch, Peer, ProducerIdentity

_COST = 64 * KIB  # bytes that cost as much as a message: to copy a long one takes time


class Sample(NamedTuple):
    """A message that was handed out."""

    time: float
    peer: Peer
    producer: ProducerIdentity | None
    address: str | None
    seq: int
    size: int
    body: bytes
    skipped: int
    """Messages that passed since the sample before, and are no samples."""


class Sampler:
    """Takes samples for one observer.

    Attributes:
        samples: what was taken, and not fetched yet.

    """

    def __init__(self, rate: int, clip: int, wake: Callable[[], None]) -> None:
        """Take up to ``rate`` messages a second, ``clip`` bytes of each; ``wake`` who fetches."""
        self._rate = min(rate, MAX_TAP_RATE)
        self._clip = min(clip, MAX_SAMPLE)
        self._wake = wake
        self._tokens: float = self._rate
        self._at = 0.0
        self._skipped = 0
        self.samples: deque[Sample] = deque()

    def offer(self, batch: Batch[Any], now: float) -> None:
        """Take samples of a batch, if it is time for some; ``now``: the monotonic clock."""
        count = len(batch)
        room = min(SAMPLES_PER_BATCH, MAX_SAMPLES - len(self.samples))
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        wanted = min(count, room, int(self._tokens))
        if wanted < 1:
            self._skipped += count
            return
        clip, at = self._clip, time()
        for seq, body in enumerate(islice(batch.iter_raw(), wanted), batch.first_seq):
            size = len(body)
            self._tokens -= 1 + size / _COST
            self.samples.append(
                Sample(
                    at,
                    batch.peer,
                    batch.producer,
                    batch.address,
                    seq,
                    size,
                    bytes(body[:clip]),
                    self._skipped,
                )
            )
            self._skipped = 0
        self._skipped = count - wanted
        self._wake()
