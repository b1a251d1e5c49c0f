"""Receive and send in the process of the test, in threads, where no process is under test."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import mpsr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def receiving(address: str | Path, **options: Any) -> Iterator[mpsr.Receiver]:
    """Run a receiver, with these options, whose consumer takes every message at once."""
    with mpsr.Receiver(address, **options) as receiver:

        def take() -> None:
            for _ in receiver.batches():
                pass

        taking = Thread(target=take)
        taking.start()
        try:
            yield receiver
        finally:
            receiver.stop()
            taking.join()


@contextmanager
def producing(address: str | Path, **counts: int) -> Iterator[None]:
    """Run a producer with each label, which sends its count of messages fifty times a second.

    A message for which there is no room is dropped, so that no producer waits.
    """
    ended = Event()

    def produce(label: str, count: int) -> None:
        producer = mpsr.Producer(address, label=label, on_full="drop_newest")
        while not ended.wait(0.02):
            producer.send_many([bytes(100)] * count)
        with suppress(mpsr.Undelivered):
            producer.close(0)

    threads = [Thread(target=produce, args=each) for each in counts.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
