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


def test_each_millisecond_comes_back_as_it_was() -> None:
    """Although the nearest float may be less than the number of milliseconds."""
    for msecs in range(1000):
        body = b'{"time":"2026-01-02T03:04:05.%03d000Z","level":"INFO","message":"x"}' % msecs
        assert mpsr.logging.decode(body).msecs == msecs


def test_level_filters_what_is_handed_on(receiver: mpsr.Receiver[bytes]) -> None:
    """By name or number; the rest is acknowledged all the same."""
    bodies = [b'{"level":"%s","message":"x"}' % name for name in (b"DEBUG", b"INFO", b"ERROR")]
    assert [each.levelname for each in listened(receiver, *bodies, level="info")] == [
        "INFO",
        "ERROR",
    ]


def handled(receiver: mpsr.Receiver[bytes], *bodies: bytes) -> list[logging.LogRecord]:
    """Return what the loggers of the records' own names get of these messages."""
    keeping = Keeping(receiver, "the last")
    logging.getLogger().addHandler(keeping)
    try:
        with mpsr.Producer[bytes](str(receiver.address)) as producer:
            producer.send_many([*bodies, b'{"level":"ERROR","message":"the last"}'])
            thread = threading.Thread(target=producer.flush, args=(PATIENCE,))
            thread.start()
            mpsr.logging.listen(receiver)
            receiver.close()
            thread.join()
    finally:
        logging.getLogger().removeHandler(keeping)
    return keeping.records[:-1]


def named(name: str, levelno: int = 40) -> bytes:
    return b'{"level":"ERROR","levelno":%d,"message":"x","logger":"%s"}' % (levelno, name.encode())


@pytest.mark.parametrize("name", ["deep" + ".a" * 30_000, "long" * 100, "deep" + ".a" * 16])
def test_long_names_create_no_logger(receiver: mpsr.Receiver[bytes], name: str) -> None:
    """The root logger has the record, which keeps its name."""
    (record,) = handled(receiver, named(name))
    assert record.name == name
    assert not [each for each in logging.root.manager.loggerDict if each.startswith(name[:4])]


def test_names_of_many_parts_create_few_loggers(receiver: mpsr.Receiver[bytes]) -> None:
    """Placeholders for parents count: all together are at most 4,096, and no record is lost."""
    names = [f"p{number}" + ".a" * 15 for number in range(1000)]
    before = set(logging.root.manager.loggerDict)
    found = handled(receiver, *map(named, names))
    created = set(logging.root.manager.loggerDict) - before
    for each in created:
        del logging.root.manager.loggerDict[each]
    assert [record.name for record in found] == names
    assert 4000 < len(created) <= 4096


def test_levels_of_senders_fill_no_cache(receiver: mpsr.Receiver[bytes]) -> None:
    """A level outside 0 to 1,000 is derived from its name, and no logger remembers a level."""
    logger = logging.getLogger("levels")
    digits = b'{"level":"ERROR","levelno":%s,"message":"x","logger":"levels"}' % (b"9" * 4000)
    found = handled(receiver, *(named("levels", level) for level in range(40, 1002)), digits)
    assert [record.levelno for record in found[:-2]] == [*range(40, 1001)]
    assert found[-2].levelno == logging.ERROR
    assert found[-1].name == "mpsr.logging"  # its number is of no JSON that is read
    assert len(vars(logger).get("_cache", {})) <= 1


def test_unknown_level_is_refused(receiver: mpsr.Receiver[bytes]) -> None:
    """Before anything is received."""
    with pytest.raises(mpsr.ConfigurationError, match="choose one of"):
        mpsr.logging.listen(receiver, level="LOUD")


def test_losses_come_as_a_warning() -> None:
    """A batch that has only this to say gives one record."""
    (record,) = mpsr.logging.records(batch_of([], Peer(7, 0, 0), lost=3))
    assert record.getMessage() == "producer (pid 7) lost 3 messages before this"
    assert record.__dict__["peer"].pid == 7
