"""Compare ``mpsr.queue`` with ``multiprocessing.Queue``: four processes put, and one gets.

    python -m benchmarks.queues [OBJECTS]

Objects are small dictionaries; mpsr carries them as JSON, by msgspec, and the other pickles them.
The clock runs from the first object that is got to the last.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import msgspec

import mpsr

PRODUCERS = 4
ROUNDS = 5
CONTEXT = multiprocessing.get_context("fork")


@contextmanager
def theirs() -> Iterator[tuple[Any, Any]]:
    both: Any = CONTEXT.Queue()
    yield both, both


@contextmanager
def ours() -> Iterator[tuple[Any, Any]]:
    with tempfile.TemporaryDirectory(prefix="mpsr-") as folder:
        path = f"{folder}/socket"
        receiver = mpsr.Receiver[Any](path, decode=msgspec.json.decode)
        with (
            mpsr.queue(path, encode=msgspec.json.encode) as writer,
            mpsr.QueueReader(receiver) as reader,
        ):
            yield writer, reader


def put(writer: Any, producer: int, count: int) -> None:
    for number in range(count):
        writer.put({"producer": producer, "number": number, "level": "info", "text": "a message"})
    writer.close()
    writer.join_thread()


def rate(halves: Any, count: int) -> float:
    """Return objects a second, and check that each producer's came once and in order."""
    with halves() as (writer, reader):
        shares = [(writer, each, count // PRODUCERS) for each in range(PRODUCERS)]
        processes = [CONTEXT.Process(target=put, args=each) for each in shares]
        for each in processes:
            each.start()
        expected = [0] * PRODUCERS
        since = 0.0
        for _ in range(PRODUCERS * (count // PRODUCERS)):
            got = reader.get()
            since = since or time.monotonic()
            if got["number"] != expected[got["producer"]]:
                sys.exit(f"out of order: {got}")
            expected[got["producer"]] += 1
        took = time.monotonic() - since
        if reader is not writer:
            reader.acknowledge()
        for each in processes:
            each.join()
    return count / took


def main(count: int) -> None:
    pairs = [(rate(ours, count), rate(theirs, count)) for _ in range(ROUNDS)]
    mine, other = (median(rates) for rates in zip(*pairs, strict=True))
    ratios = sorted(first / second for first, second in pairs)
    print(f"mpsr.queue             {mine:12,.0f} objects/s")
    print(f"multiprocessing.Queue  {other:12,.0f} objects/s")
    print(f"ratio                  {median(ratios):12.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
