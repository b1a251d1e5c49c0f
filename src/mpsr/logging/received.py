"""Read the fields of a log record from a message that another process has written.

Only processes that receive import this: msgspec is slow to import.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.json import Decoder

from mpsr.json_reader import check, from_json
from mpsr.limits import LARGEST_MESSAGE, MAX_INTEGER, MAX_JSON_DEPTH, MAX_REPAIRED

_ESCAPE: Final = re.compile(  # a pair of surrogates, or half of one as group 1, or any other escape
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL
)

_Integer = Annotated[int, Meta(ge=-MAX_INTEGER - 1, le=MAX_INTEGER)]


class Fields(Struct, forbid_unknown_fields=True):
    """The fields of a record as they were received; None if missing or of another type."""

    level: str
    message: str
    levelno: _Integer | None = None
    logger: str | None = None
    time: str | _Integer | float | None = None
    process: _Integer | None = None
    process_name: str | None = None
    thread: _Integer | None = None
    thread_name: str | None = None
    task: str | None = None
    module: str | None = None
    function: str | None = None
    line: _Integer | None = None
    path: str | None = None
    extra: dict[str, Any] | None = None
    exception: dict[str, Any] | None = None
    stack: str | None = None

    @property
    def traceback(self) -> str | None:
        """The traceback of the exception."""
        found = None if self.exception is None else self.exception.get("traceback")
        return found if isinstance(found, str) else None


_decode: Final = Decoder(Fields).decode
_INTEGERS: Final = ("levelno", "process", "thread", "line")
_OBJECTS: Final = ("extra", "exception")


def fields_of(body: bytes) -> Fields | None:
    """Return the fields of a record; None for any other message."""
    if not body.startswith(b"{"):
        return None
    try:
        fields = _decode(body)
        for each in (fields.extra, fields.exception):
            if each:
                check(each, MAX_JSON_DEPTH - 1)
    except (ValueError, RecursionError):  # of another program, or no record
        found = object_of(body)
        return None if found is None else _typed(found)
    return fields


def object_of(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a record, with fields of any type; None for any other message."""
    if not body.startswith(b"{"):
        return None
    found = _object(body)
    if found is None and b"\\u" in body and len(body) <= MAX_REPAIRED:
        found = _object(_ESCAPE.sub(_paired, body))
    if found is None:
        return None
    if isinstance(found.get("level"), str) and isinstance(found.get("message"), str):
        return found
    return None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        return from_json(body, dict[str, Any], most=LARGEST_MESSAGE)
    except ValueError:
        return None


def _paired(escape: re.Match[bytes]) -> bytes:
    """Replace half of a surrogate pair, as Python's ``json`` writes a byte that is not UTF-8."""
    return b"?" if escape[1] else escape[0]


def _typed(found: dict[str, Any]) -> Fields:
    """Return the fields that have the right type."""
    known: dict[str, Any] = {}
    for name in Fields.__struct_fields__:
        value = found.get(name)
        if name == "time":
            right = isinstance(value, (str, int, float))
        else:
            right = isinstance(
                value, int if name in _INTEGERS else dict if name in _OBJECTS else str
            )
        if right and not isinstance(value, bool):
            known[name] = value
    return Fields(**known)
