"""Turn a message back into a log record."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Final

from mpsr.errors import DecodeError
from mpsr.limits import MAX_LOG_LEVEL
from mpsr.logging.fields import RESERVED

if TYPE_CHECKING:
    from mpsr.logging.received import Fields

_UNNAMED: Final = "root"


def decode(body: bytes) -> logging.LogRecord:
    """Return the record that a message holds.

    Its text is whole: ``record.args`` is empty, and ``record.exc_text`` holds the traceback. What
    was ``extra`` is an attribute again, unless a record has an attribute of that name of its own.
    All of it is the sender's word; a field that is missing, or of a wrong type, is as in
    ``logging.makeLogRecord({})``.

    Args:
        body: bytes, a message of ``Handler``, or an object of JSON from another program that has
            at least ``level`` and ``message``, as text; ``time`` is ISO 8601, or seconds since
            1970.

    Raises:
        DecodeError: it is no such object.

    """
    from mpsr.logging.received import fields_of  # noqa: PLC0415 - only to receive

    fields = fields_of(body)
    if fields is None:
        error = (
            f"a message of {len(body)} bytes is no log record: send an object of JSON that has "
            '"level" and "message"'
        )
        raise DecodeError(error, body=body)
    return record_of(fields)


def level_of(number: object, name: str) -> int:
    """Return the number of a record's level, derived from its name if the number is invalid."""
    if type(number) is int and 0 <= number <= MAX_LOG_LEVEL:
        return number
    return logging.getLevelNamesMapping().get(name.upper(), logging.INFO)


def name_of(fields: Fields) -> str:
    """Return the name of a record's logger."""
    return fields.logger or _UNNAMED


def record_of(fields: Fields) -> logging.LogRecord:
    """Return the record that has these fields."""
    extra = fields.extra or {}
    known = {name: value for name, value in extra.items() if name not in RESERVED}
    path = fields.path or ""
    record = logging.makeLogRecord(
        {
            **known,
            "name": name_of(fields),
            "levelno": level_of(fields.levelno, fields.level),
            "levelname": fields.level,
            "msg": fields.message,
            "args": None,
            "process": fields.process,
            "processName": fields.process_name,
            "thread": fields.thread,
            "threadName": fields.thread_name,
            "taskName": fields.task,
            "module": fields.module or "",
            "funcName": fields.function or "",
            "lineno": fields.line or 0,
            "pathname": path,
            "filename": path.rpartition("/")[2],
            "exc_text": fields.traceback,
            "stack_info": fields.stack,
        }
    )
    created = time_of(fields.time)
    if created is not None:
        started = record.created - record.relativeCreated / 1000
        record.created = created
        record.msecs = float(round(created * 1e6) // 1000 % 1000)
        record.relativeCreated = (created - started) * 1000
    return record


def time_of(time: str | float | None) -> float | None:
    """Return when a record was made, in seconds since 1970; None if that is not a time."""
    try:
        if isinstance(time, str):
            time = datetime.fromisoformat(time).timestamp()
        # Whoever formats the time has to be able to.
        datetime.fromtimestamp(time).astimezone()  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return float(time)  # type: ignore[arg-type]  # a number, as it had a date
