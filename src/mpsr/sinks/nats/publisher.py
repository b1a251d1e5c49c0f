"""Publish messages in atomic batches: all of one are in the stream, or none.

NATS ADR-50, https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md
"""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Final

import nats.errors

from mpsr.errors import SinkError
from mpsr.limits import MIB
from mpsr.sinks.nats.connection import WRONG_LAST_SEQUENCE, Connection, Published, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST: Final = 1000  # messages of a batch; the server refuses more
MOST_BYTES: Final = 4 * MIB  # of a batch: so much of it is in memory here, and there
RESERVE: Final = 512  # bytes of a message that its headers for the batch may take


class AtomicBatch:
    """Messages for one subject, which are made ready to be sent as they come.

    Attributes:
        count: how many they are, at most ``MOST``.
        nbytes: their size.

    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.count: int = 0
        self.nbytes: int = 0
        self._id = token_hex(8)
        self._start = f"NATS/1.0\r\nNats-Batch-Id: {self._id}\r\nNats-Batch-Sequence: "
        self._command = f"HPUB {subject} ".encode()
        self._first: tuple[str, bytes] | None = None
        self._last: tuple[str, bytes] | None = None  # behind the first
        self._between: list[bytes] = []

    @property
    def full(self) -> bool:
        """Whether it takes nothing more."""
        return self.count >= MOST or self.nbytes >= MOST_BYTES

    def add(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Add messages: lines of headers, each with its end, and a body."""
        for message in messages:
            if self._first is None:
                self._first = message
            else:
                if self._last is not None:
                    self._between += self._encoded(self.count, *self._last)
                self._last = message
            self.count += 1
            self.nbytes += len(message[0]) + len(message[1])

    def _encoded(self, number: int, lines: str, body: bytes) -> tuple[bytes, bytes, bytes]:
        head = f"{self._start}{number}\r\n{lines}\r\n".encode()
        size = len(head)
        return b"%b%d %d\r\n%b" % (self._command, size, size + len(body), head), body, b"\r\n"

    def ahead(self, condition: str) -> bytes:
        """Return the bytes of all but the last message, the first with one more header."""
        if self._first is None or self._last is None:
            return b""
        lines, body = self._first
        return b"".join((*self._encoded(1, lines + condition, body), *self._between))

    def last(self, condition: str, more: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
        """Return the last message, which commits all: its headers, with more, and its body."""
        lines, body = self._last or self._first or ("", b"")
        if self._last is None:
            lines += condition
        headers = {
            "Nats-Batch-Id": self._id,
            "Nats-Batch-Sequence": str(self.count),
            "Nats-Batch-Commit": "1",
            **dict(line.split(": ", 1) for line in lines.splitlines()),
            **more,
        }
        return headers, body


async def publish(
    connection: Connection,
    stream: str,
    batch: AtomicBatch,
    *,
    expected: int | None,
    more: Mapping[str, str],
) -> int:
    """Publish a batch; return the number that its last message has in the stream.

    Args:
        connection: where to.
        stream: which one is to have it.
        batch: what, one message at least.
        expected: the number of the last message of this subject before; None for any.
        more: headers for the last message.

    Raises:
        SinkError: it was refused, or nobody knows; a lost answer leaves that open.

    """
    condition = f"Nats-Expected-Stream: {stream}\r\n"
    if expected is not None:
        condition += f"Nats-Expected-Last-Subject-Sequence: {expected}\r\n"
    ahead = batch.ahead(condition)
    if ahead:
        # publish() encodes a dict of headers for each message, and takes three times as long.
        await connection.client._send_command(ahead)  # noqa: SLF001 - see above
    headers, body = batch.last(condition, more)
    try:
        answer = await connection.request(batch.subject, body, headers)
    except nats.errors.NoRespondersError:
        error = f"no stream takes {batch.subject} now: it was removed, or has no leader"
        raise SinkError(error) from None
    try:
        acknowledged = connection.checked(answer.data, Published)
    except Refused as exc:
        if exc.code in WRONG_LAST_SEQUENCE:
            error = (
                f"something else was published to {batch.subject} meanwhile: by an earlier "
                "attempt of this sink, or by another publisher, which is to have its own subject"
            )
            raise SinkError(error) from exc
        raise
    return acknowledged["seq"]
