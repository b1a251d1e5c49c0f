"""Read a whole stream, and check that each message is there once and in its producer's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from nats.aio.client import Client

from mpsr.sinks.nats.layout import unpack

PATIENCE: Final = 30  # seconds that the next message may take


class Findings(NamedTuple):
    """What is wrong with a stream."""

    missing: int
    """Messages that were accepted, and are not there."""
    doubled: int
    """Messages that are there more than once."""
    disordered: int
    """Messages that stand behind a later one of their producer."""
    strange: int
    """Messages that nobody is known to have sent."""

    def __str__(self) -> str:
        if not any(self):
            return "each message exactly once, in order per producer"
        return ", ".join(f"{count} {name}" for name, count in self._asdict().items() if count)


class Audit:
    """Takes the messages of a stream in its order.

    Args:
        expected: how many messages each producer has had accepted, by its name.

    """

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = expected
        self._seen = {name: bytearray(count) for name, count in expected.items()}
        self._last = dict.fromkeys(expected, -1)
        self._doubled = self._disordered = self._strange = 0

    def take(self, body: bytes) -> None:
        name, number = _parsed(body)
        if not 0 <= number < self._expected.get(name, 0):
            self._strange += 1
        elif self._seen[name][number]:
            self._doubled += 1
        else:
            self._seen[name][number] = 1
            self._disordered += number < self._last[name]
            self._last[name] = max(self._last[name], number)

    def findings(self) -> Findings:
        missing = sum(each.count(0) for each in self._seen.values())
        return Findings(missing, self._doubled, self._disordered, self._strange)


def _parsed(body: bytes) -> tuple[str, int]:
    try:
        name, number, _ = body.split(b" ", 2)
        return name.decode(), int(number)
    except ValueError:
        return "", -1


async def audit(client: Client, stream: str, expected: Mapping[str, int]) -> Findings:
    """Read the stream from its begin, and compare."""
    found = Audit(expected)
    context = client.jetstream()
    left = (await context.stream_info(stream)).state.messages
    subscription = await context.subscribe(">", stream=stream, ordered_consumer=True)
    for _ in range(left):
        message = await subscription.next_msg(PATIENCE)
        for body in unpack(message.headers, message.data).bodies:
            found.take(body)
    await subscription.unsubscribe()
    return found.findings()
