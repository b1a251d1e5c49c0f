"""Hand records that were received to the loggers of this process."""

from __future__ import annotations

import logging
import sys
import traceback
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from mpsr.limits import MAX_LOGGER_NAME, MAX_LOGGER_PARTS, MAX_LOGGERS
from mpsr.logging.decoding import level_of, record_of
from mpsr.logging.fields import RECEIVED, level_number

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from mpsr.batch import Batch
    from mpsr.sync.receiver import Receiver

_NAME: Final = "mpsr.logging"  # the logger of what is told here


def records(batch: Batch[Any]) -> Iterator[logging.LogRecord]:
    """Give the records of a batch, in order; never raises for what a sender has sent.

    Each has two attributes more: ``peer``, who sent it, in the kernel's word, and ``producer``,
    the label of the handler, or None. A message that is no record comes as one of the logger
    ``mpsr.logging``, of the level WARNING, with the message as its text; so does a line that tells
    how many were lost before.

    Args:
        batch: of any receiver, sync or async.

    """
    return _records(batch, logging.NOTSET)


def _records(batch: Batch[Any], least: int) -> Iterator[logging.LogRecord]:
    """Yield the records of a batch that have at least this level."""
    from mpsr.logging.received import fields_of  # noqa: PLC0415 - only to receive

    if batch.lost and least <= logging.WARNING:
        who = "" if batch.producer is None else f' "{batch.producer.label}"'
        text = f"producer{who} (pid {batch.peer.pid}) lost {batch.lost} messages before this"
        yield _from(batch, _warning(text))
    for body in batch.iter_raw():
        fields = fields_of(body)
        level = logging.WARNING if fields is None else level_of(fields.levelno, fields.level)
        if level < least:
            continue  # before a record is made, which takes most of the time
        if fields is None:
            yield _from(batch, _warning(body.decode("utf-8", "backslashreplace")))
        else:
            yield _from(batch, record_of(fields))


def listen(
    receiver: Receiver[Any] | str | os.PathLike[str],
    *,
    level: int | str = logging.NOTSET,
    logger: logging.Logger | None = None,
) -> None:
    """Receive records and hand them to the loggers of their names, until the receiver is stopped.

    A record is acknowledged once the handlers are done with it. The loggers' levels and filters
    hold here, too. An exception of a filter is printed, and the next record handled.

    Args:
        receiver: a Receiver, which stays open, or the address of one to be made: it is closed
            behind the call.
        level: int or str, the least level that is handled.
        logger: a Logger that is to have all records; default: that of each record's name. The
            root logger has records whose name is longer than 255 characters or has more than 16
            parts, and those of new names once there are 4,096 loggers, parents included.
            ``record.name`` is the received name in any case.

    Raises:
        ConfigurationError: the level makes no sense.
        AddressError: the address cannot be claimed.

    """
    least = level_number(level)
    from mpsr.sync.receiver import Receiver  # noqa: PLC0415 - not for those who send alone

    if isinstance(receiver, Receiver):
        _listen(receiver, least, logger)
        return
    with Receiver(receiver) as own:
        _listen(own, least, logger)


def _listen(receiver: Receiver[Any], least: int, logger: logging.Logger | None) -> None:
    names: set[str] = set()
    for batch in receiver.batches():
        for record in _records(batch, least):
            local = logger or _logger(record.name, names)
            if _enabled(local, record.levelno):
                _handle(local, record)


def _logger(name: str, names: set[str]) -> logging.Logger:
    """Return the logger of a name, or the root logger if the name is too long or one too many.

    A logger is never freed, and neither is the placeholder that ``logging`` makes for each parent
    that has no logger. So both count: ``names`` has those of all received names.
    """
    if name not in names:
        parts = name.split(".", MAX_LOGGER_PARTS)
        if len(name) > MAX_LOGGER_NAME or len(parts) > MAX_LOGGER_PARTS:
            return logging.getLogger()
        family = set(accumulate(parts, "{}.{}".format)) - names
        if len(names) + len(family) > MAX_LOGGERS:
            return logging.getLogger()
        names |= family
    return logging.getLogger(name)


def _enabled(logger: logging.Logger, level: int) -> bool:
    """Return whether a logger handles a level.

    ``Logger.isEnabledFor`` keeps its answers for each level and logger, and never frees them.
    """
    return level > logger.manager.disable and level >= logger.getEffectiveLevel()


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    try:
        logger.handle(record)
    except Exception:  # noqa: BLE001 - of a filter: handlers print their own
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()


def _warning(text: str) -> logging.LogRecord:
    return logging.LogRecord(_NAME, logging.WARNING, "", 0, text, None, None)


def _from(batch: Batch[Any], record: logging.LogRecord) -> logging.LogRecord:
    record.peer = batch.peer
    record.producer = None if batch.producer is None else batch.producer.label
    record.__dict__[RECEIVED] = True
    return record
