"""Send numbered messages at a steady rate, and write down when they were accepted.

``python -m benchmarks.fleet.producer ADDRESS NAME RATE SECONDS`` prints a line a tick: the
monotonic time in seconds, the messages accepted by then, and what their acceptance took.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import mpsr

TICK: Final = 0.1  # seconds between two sends
SIZE: Final = 100  # bytes of a message


def main(address: str, name: str, rate: float, seconds: float) -> None:
    with mpsr.Producer(address, label=name) as producer:
        begun = time.monotonic()
        sent = tick = 0
        while tick < seconds / TICK:
            tick += 1
            due = begun + tick * TICK
            time.sleep(max(0.0, due - time.monotonic()))
            wanted = int(tick * TICK * rate)
            before = time.monotonic()
            producer.send_many(body(name, number) for number in range(sent, wanted))
            producer.flush()
            now = time.monotonic()
            sent = wanted
            print(now, sent, now - before, flush=True)


def body(name: str, number: int) -> bytes:
    return f"{name} {number} ".encode().ljust(SIZE, b".")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
