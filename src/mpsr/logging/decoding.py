"""Turn a message back into a log record."""

from __future__ import annotations

import logging
import re
from datetime import datetime
from typing import Any, Final, TypeVar

from mpsr.errors import DecodeError
from mpsr.json_reader import from_json
from mpsr.limits import LARGEST_MESSAGE, MAX_LOG_LEVEL, MAX_REPAIRED
from mpsr.logging.fields import RESERVED

T = TypeVar("T")

_UNNAMED: Final = "root"
_ESCAPE: Final = re.compile(  # a pair of surrogates, or half of one as group 1, or any other escape
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL
)


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
    fields = fields_of(body)
    if fields is None:
        error = (
            f"a message of {len(body)} bytes is no log record: send an object of JSON that has "
            '"level" and "message"'
        )
        raise DecodeError(error, body=body)
    return record_of(fields)


def fields_of(body: bytes) -> dict[str, Any] | None:
    """Return the fields of a record; None for any other message."""
    if not body.startswith(b"{"):
        return None
    fields = _object(body)
    if fields is None and b"\\u" in body and len(body) <= MAX_REPAIRED:
        fields = _object(_ESCAPE.sub(_paired, body))
    if fields is None:
        return None
    if isinstance(fields.get("level"), str) and isinstance(fields.get("message"), str):
        return fields
    return None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        return from_json(body, dict[str, Any], most=LARGEST_MESSAGE)
    except ValueError:
        return None


def _paired(escape: re.Match[bytes]) -> bytes:
    """Replace half of a surrogate pair, as Python's ``json`` writes a byte that is not UTF-8."""
    return b"?" if escape[1] else escape[0]


def level_of(fields: dict[str, Any]) -> int:
    """Return the number of a record's level, by the name of the level if it has no valid number."""
    number = fields.get("levelno")
    if type(number) is int and 0 <= number <= MAX_LOG_LEVEL:
        return number
    return logging.getLevelNamesMapping().get(fields["level"].upper(), logging.INFO)


def name_of(fields: dict[str, Any]) -> str:
    """Return the name of a record's logger."""
    return of_type(fields.get("logger"), str, "") or _UNNAMED


def record_of(fields: dict[str, Any]) -> logging.LogRecord:
    """Return the record that has these fields."""
    extra = of_type(fields.get("extra"), dict, {})
    known = {name: value for name, value in extra.items() if name not in RESERVED}
    exception = of_type(fields.get("exception"), dict, {})
    created = time_of(fields)
    record = logging.makeLogRecord(
        {
            **known,
            "name": name_of(fields),
            "levelno": level_of(fields),
            "levelname": fields["level"],
            "msg": fields["message"],
            "args": None,
            "process": of_type(fields.get("process"), int, None),
            "processName": of_type(fields.get("process_name"), str, None),
            "thread": of_type(fields.get("thread"), int, None),
            "threadName": of_type(fields.get("thread_name"), str, None),
            "taskName": of_type(fields.get("task"), str, None),
            "module": of_type(fields.get("module"), str, ""),
            "funcName": of_type(fields.get("function"), str, ""),
            "lineno": of_type(fields.get("line"), int, 0),
            "pathname": (path := of_type(fields.get("path"), str, "")),
            "filename": path.rpartition("/")[2],
            "exc_text": of_type(exception.get("traceback"), str, None),
            "stack_info": of_type(fields.get("stack"), str, None),
        }
    )
    if created is not None:
        started = record.created - record.relativeCreated / 1000
        record.created = created
        record.msecs = float(round(created * 1e6) // 1000 % 1000)
        record.relativeCreated = (created - started) * 1000
    return record


def time_of(fields: dict[str, Any]) -> float | None:
    """Return when a record was made, in seconds since 1970; None where it does not say."""
    time = fields.get("time")
    try:
        if isinstance(time, str):
            time = datetime.fromisoformat(time).timestamp()
        # Whoever formats the time has to be able to.
        datetime.fromtimestamp(time).astimezone()  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return float(time)  # type: ignore[arg-type]  # a number, as it had a date


def of_type(value: object, kind: type[T], other: Any) -> Any:  # noqa: ANN401 - as the other
    """Return a value if it is of this type, else the other one; a bool is no int."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else other
