"""Records become records again, and garbage ends nothing."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

import mpsr
import mpsr.logging
from mpsr.batch import Peer, batch_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20  # seconds: longer means that it hangs


class Keeping(logging.Handler):
    """Keeps records, and stops the receiver with the last."""

    def __init__(self, receiver: mpsr.Receiver[bytes], last: str) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._receiver, self._last = receiver, last

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if record.getMessage() == self._last:
            self._receiver.stop()


@pytest.fixture
def receiver(address: str) -> Iterator[mpsr.Receiver[bytes]]:
    with mpsr.Receiver(address) as receiver:
        yield receiver


def listened(
    receiver: mpsr.Receiver[bytes], *bodies: bytes, level: int | str = 0
) -> list[logging.LogRecord]:
    """Return what a logger gets of these messages."""
    logger = logging.Logger("local")  # noqa: LOG001 - nobody else is to have it
    keeping = Keeping(receiver, "the last")
    logger.addHandler(keeping)
    with mpsr.Producer[bytes](str(receiver.address), label="web") as producer:
        last = b'{"level":"ERROR","message":"the last"}'
        producer.send_many([*bodies, last])
        thread = threading.Thread(target=producer.flush, args=(PATIENCE,))
        thread.start()
        mpsr.logging.listen(receiver, level=level, logger=logger)
        receiver.close()
        thread.join()
    return keeping.records[:-1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain text",
        b"\xff\0",
        b"{",
        b"[1]",
        b'{"level":1,"message":"x"}',
        b'{"level":"INFO"}',
        b'{"a":' * 100_000,
        b'{"level":"INFO","message":"x","n":' + b"9" * 10_000 + b"}",
    ],
)
def test_message_that_is_no_record_comes_as_a_warning(
    receiver: mpsr.Receiver[bytes], body: bytes
) -> None:
    """With its text, and who sent it; the next message is handled as ever."""
    (record,) = listened(receiver, body)
    assert (record.name, record.levelname) == ("mpsr.logging", "WARNING")
    assert record.getMessage() == body.decode("utf-8", "backslashreplace")
    assert record.__dict__["producer"] == "web"
    with pytest.raises(mpsr.DecodeError, match="no log record"):
        mpsr.logging.decode(body)


def test_fields_of_wrong_types_are_left_out() -> None:
    """And no extra takes the place of what a record has by itself."""
    body = (
        b'{"level":"INFO","message":"%d \\ud800","levelno":"x","logger":7,"time":1e300,"line":true,'
        b'"process":"a","exception":[],"stack":{},"extra":{"getMessage":1,"msg":2,"peer":3,"a":4}}'
    )
    record = mpsr.logging.decode(body)
    assert record.getMessage() == "%d ?"
    assert (record.levelno, record.name, record.lineno, record.process) == (20, "root", 0, None)
    assert record.__dict__["a"] == 4
    assert "peer" not in record.__dict__
    assert logging.Formatter("%(asctime)s %(message)s").format(record)


def test_level_filters_what_is_handed_on(receiver: mpsr.Receiver[bytes]) -> None:
    """By name or number; the rest is acknowledged all the same."""
    bodies = [b'{"level":"%s","message":"x"}' % name for name in (b"DEBUG", b"INFO", b"ERROR")]
    assert [each.levelname for each in listened(receiver, *bodies, level="info")] == [
        "INFO",
        "ERROR",
    ]


def test_unknown_level_is_refused(receiver: mpsr.Receiver[bytes]) -> None:
    """Before anything is received."""
    with pytest.raises(mpsr.ConfigurationError, match="choose one of"):
        mpsr.logging.listen(receiver, level="LOUD")


def test_losses_come_as_a_warning() -> None:
    """A batch that has only this to say gives one record."""
    (record,) = mpsr.logging.records(batch_of([], Peer(7, 0, 0), lost=3))
    assert record.getMessage() == "producer (pid 7) lost 3 messages before this"
    assert record.__dict__["peer"].pid == 7
