"""Turn a log record into a message: an object of JSON on one line."""

from __future__ import annotations

import logging
from functools import lru_cache
from json import JSONEncoder
from json.encoder import encode_basestring as _quote
from math import isfinite
from time import gmtime, strftime
from typing import Any, Final

from mpsr.limits import MAX_INTEGER, MAX_LOG_DEPTH, MAX_LOG_ITEMS, MAX_LOG_REPR, MAX_LOG_TEXT
from mpsr.logging.fields import STANDARD

_encode: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_format_exception: Final = logging.Formatter().formatException


def encode(record: logging.LogRecord, message: str) -> bytes:
    """Return the line of a record whose text, with its arguments, is this."""
    created = record.created
    seconds = int(created)
    task = getattr(record, "taskName", None)
    line = (
        f'{{"time":"{_second(seconds)}.{int((created - seconds) * 1e6):06d}Z"'
        f',"level":{_quote(record.levelname)},"levelno":{record.levelno:d}'
        f',"logger":{_quote(record.name)}'
        f',"message":{_quote(message if len(message) <= MAX_LOG_TEXT else _cut(message))}'
        f',"process":{_or_null(record.process)},"process_name":{_or_null(record.processName)}'
        f',"thread":{_or_null(record.thread)},"thread_name":{_or_null(record.threadName)}'
        f"{_place(record.module, record.funcName, record.lineno, record.pathname)}"
    )
    if task is not None:
        line += f',"task":{_quote(task)}'
    attributes = record.__dict__
    if not attributes.keys() <= STANDARD:
        extra = {name: value for name, value in attributes.items() if name not in STANDARD}
        line += f',"extra":{_encode(_Copy().of(extra))}'
    if record.exc_info or record.exc_text:
        line += f',"exception":{_encode(_exception(record))}'
    if record.stack_info:
        line += f',"stack":{_quote(_cut(record.stack_info))}'
    return f"{line}}}".encode("utf-8", "replace")  # a byte that is not UTF-8 becomes ?


@lru_cache(maxsize=4)  # those of several threads
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


@lru_cache(maxsize=1024)  # a program logs at few places, again and again
def _place(module: str, function: str | None, line: int, path: str) -> str:
    return (
        f',"module":{_quote(module)},"function":{_or_null(function)}'
        f',"line":{_or_null(line)},"path":{_quote(path)}'
    )


def _or_null(value: str | int | None) -> str:
    """Return a text or number as JSON; None where it was not asked for (``logThreads``)."""
    if value is None:
        return "null"
    return _quote(value) if isinstance(value, str) else f"{value:d}"


def _cut(text: str, most: int = MAX_LOG_TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters cut)"


def _exception(record: logging.LogRecord) -> dict[str, str | None]:
    kind, error, _ = record.exc_info or (None, None, None)
    text = record.exc_text
    if record.exc_info and kind is not None and not (text and text.strip()):
        text = _format_exception(record.exc_info)
    name = None
    if kind is not None:
        builtin = kind.__module__ == "builtins"
        name = kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__qualname__}"
    message = None if error is None else _text_of(error, str)
    return {"type": name, "message": message, "traceback": _cut(text or "")}


def _text_of(value: object, function: Any = repr) -> str:  # noqa: ANN401 - repr, or str
    """Return what ``repr`` or ``str`` says of a value, which may be any program's."""
    try:
        return _cut(str.__str__(function(value)), MAX_LOG_REPR)
    except Exception as exc:  # noqa: BLE001 - whatever the class of a stranger raises
        return (
            f"<{type(value).__name__}, of which {function.__name__}() raised {type(exc).__name__}>"
        )


class _Copy:
    """Copies values to what JSON has, as deep and as much as the limits allow.

    So neither a cycle nor a large structure holds the program up.
    """

    def __init__(self) -> None:
        self._left = MAX_LOG_ITEMS

    def of(self, value: object, depth: int = MAX_LOG_DEPTH) -> Any:  # noqa: ANN401, PLR0911 - JSON's; a table
        """Return a copy of it; what JSON has not becomes its ``repr()``."""
        match value:
            case None | bool():
                return value
            case str():
                return _cut(str.__str__(value))
            case int() if abs(value) <= MAX_INTEGER:
                return int(value)
            case float() if isfinite(value):
                return float(value)
            case dict() | list() | tuple() if depth:
                try:
                    return self._items(value, depth - 1)
                except Exception:  # noqa: BLE001 - of a stranger's class, or changed meanwhile
                    return _text_of(value)
            case dict() | list() | tuple():
                return "…"
            case _:
                return _text_of(value)

    def _items(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> Any:  # noqa: ANN401 - JSON's
        if isinstance(value, dict):
            copied: dict[str, Any] = {}
            for key, each in value.items():
                if self._used_up():
                    copied["…"] = f"{len(value) - len(copied)} items left out"
                    break
                name = key if isinstance(key, str) else _text_of(key)
                copied[str.__str__(name)] = self.of(each, depth)
            return copied
        items: list[Any] = []
        for each in value:
            if self._used_up():
                items.append(f"… ({len(value) - len(items)} items left out)")
                break
            items.append(self.of(each, depth))
        return items

    def _used_up(self) -> bool:
        self._left -= 1
        return self._left < 0
