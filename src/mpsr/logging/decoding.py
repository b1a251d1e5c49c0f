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


def record_of(fields: dict[str, Any]) -> logging.LogRecord:
    """Return the record that has these fields."""
    level = fields["level"]
    number = fields.get("levelno")
    if type(number) is not int or not 0 <= number <= MAX_LOG_LEVEL:
        number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    extra = _of_type(fields.get("extra"), dict, {})
    known = {name: value for name, value in extra.items() if name not in RESERVED}
    exception = _of_type(fields.get("exception"), dict, {})
    created = time_of(fields)
    record = logging.makeLogRecord(
        {
            **known,
            "name": _of_type(fields.get("logger"), str, "") or _UNNAMED,
            "levelno": number,
            "levelname": level,
            "msg": fields["message"],
            "args": None,
            "process": _of_type(fields.get("process"), int, None),
            "processName": _of_type(fields.get("process_name"), str, None),
            "thread": _of_type(fields.get("thread"), int, None),
            "threadName": _of_type(fields.get("thread_name"), str, None),
            "taskName": _of_type(fields.get("task"), str, None),
            "module": _of_type(fields.get("module"), str, ""),
            "funcName": _of_type(fields.get("function"), str, ""),
            "lineno": _of_type(fields.get("line"), int, 0),
            "pathname": (path := _of_type(fields.get("path"), str, "")),
            "filename": path.rpartition("/")[2],
            "exc_text": _of_type(exception.get("traceback"), str, None),
            "stack_info": _of_type(fields.get("stack"), str, None),
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


def _of_type(value: object, kind: type[T], other: Any) -> Any:  # noqa: ANN401 - as the other
    return value if isinstance(value, kind) and not isinstance(value, bool) else other
