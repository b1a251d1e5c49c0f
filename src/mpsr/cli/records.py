"""Show log records as people read them."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from functools import lru_cache
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING, Any, Final

import click

from mpsr.json_format import to_json
from mpsr.logging.decoding import fields_of, record_of, time_of
from mpsr.names import printable

if TYPE_CHECKING:
    from logging import LogRecord

    from mpsr.batch import Batch

_MAIN: Final = "MainProcess"  # what says nothing of a process
_INDENT: Final = "    "
_WIDTH: Final = 8  # CRITICAL


def coloured() -> bool:
    """Tell whether stdout shows colours, and is to: ``NO_COLOR`` and ``FORCE_COLOR`` say so."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class Records:
    """Shows the records of a batch, and, safe for a terminal, what is none, as it came."""

    def __init__(self, end: bytes, level: int) -> None:
        self._end = end
        self._level = level
        self._coloured = coloured()

    def __call__(self, batch: Batch[Any], count: int) -> bytes:
        """Return what to print of the first messages of a batch."""
        label = "" if batch.producer is None else batch.producer.label
        return self.lines(batch.raw[:count], label)

    def lines(self, bodies: list[bytes], label: str) -> bytes:
        """Return what to print of messages from the producer of this label."""
        shown = (self._shown(body, label) for body in bodies)
        return self._end.join([*(text for text in shown if text is not None), b""])

    def wanted(self, body: bytes) -> bool:
        """Tell whether a message is of the level, or is no record."""
        fields = fields_of(body)
        return fields is None or record_of(fields).levelno >= self._level

    def item(self, body: bytes) -> str | None:
        """Return the item of an object of JSON that holds the fields; None below the level."""
        fields = fields_of(body)
        if fields is None:
            return ""
        if self._level and record_of(fields).levelno < self._level:
            return None
        return f',"log":{to_json(fields)}'

    def _shown(self, body: bytes, label: str) -> bytes | None:
        fields = fields_of(body)
        if fields is None:
            text = _lines(body.decode("utf-8", "backslashreplace"))
        else:
            record = record_of(fields)
            if record.levelno < self._level:
                return None
            text = self._record(record, fields, label)
        return text.encode("utf-8", "backslashreplace")

    def _record(self, record: LogRecord, fields: dict[str, Any], label: str) -> str:
        created = time_of(fields)
        time = "-" if created is None else _time(created)
        name = record.processName
        who = label if label and name in {None, _MAIN} else (name or "-")
        pid = "" if record.process is None else f"[{record.process}]"
        parts = [
            self._style(time, dim=True),
            self._style(printable(record.levelname).ljust(_WIDTH), **_colour(record.levelno)),
            self._style(printable(record.name), fg="cyan"),
            f"{printable(who)}{pid}:",
            _lines(record.getMessage()),
        ]
        extra = fields.get("extra")
        if isinstance(extra, dict):
            items = (f"{printable(name)}={_value(value)}" for name, value in extra.items())
            parts += [self._style(item, dim=True) for item in items]
        text = " ".join(parts)
        for more in (record.exc_text, record.stack_info):
            if more:
                text += f"\n{_INDENT}{_lines(more)}"
        return text

    def _style(self, text: str, **style: Any) -> str:  # noqa: ANN401 - as click takes them
        return click.style(text, **style) if self._coloured else text


def _colour(level: int) -> dict[str, Any]:
    if level >= ERROR:
        return {"fg": "red", "bold": True}
    if level >= WARNING:
        return {"fg": "yellow"}
    return {"fg": "green"} if level >= INFO else {"dim": True}


def _lines(text: str) -> str:
    """Return text whose further lines are indented, and none of which commands a terminal."""
    lines = text.splitlines() or [""]
    return f"\n{_INDENT}".join(printable(line.expandtabs()) for line in lines)


def _value(value: object) -> str:
    text = value if isinstance(value, str) else to_json(value)
    return printable(text if text and " " not in text else to_json(value))


def _time(created: float) -> str:
    # The float nearest to .001 may be less than .001: round to the microsecond that was sent.
    seconds, microseconds = divmod(round(created * 1e6), 1_000_000)
    return f"{_local(seconds)}.{microseconds // 1000:03d}"


@lru_cache(maxsize=4)
def _local(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
