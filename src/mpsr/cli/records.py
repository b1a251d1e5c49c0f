"""Show log records as people read them."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime
from functools import lru_cache
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec.json import encode  # it has read the fields, so it can write them: to_json() is slower

from mpsr.json_format import harmless, to_json
from mpsr.logging.decoding import level_of, name_of, time_of
from mpsr.logging.received import fields_of, object_of
from mpsr.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpsr.batch import Batch
    from mpsr.logging.received import Fields

_MAIN: Final = "MainProcess"  # what says nothing of a process
_INDENT: Final = "    "
_WIDTH: Final = 8  # CRITICAL
_LONGEST_KEPT: Final = 200  # characters of names: a sender chooses them, and a cache keeps them
# A second, milliseconds and a time zone, as programs write most times.
_ISO: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})\d*(Z|[+-]\d\d:\d\d)", re.ASCII)


def coloured() -> bool:
    """Tell whether stdout shows colours, and is to: ``NO_COLOR`` and ``FORCE_COLOR`` say so."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class Records:
    """Shows the records of a batch, and, safe for a terminal, what is none, as it came.

    It shows the fields of a message, and makes no ``LogRecord`` of them: that takes several times
    as long, and a receiver must keep up with its senders.
    """

    def __init__(self, end: bytes, level: int) -> None:
        self._end = end.decode()
        self._level = level
        self._coloured = coloured()

    def __call__(self, batch: Batch[Any], count: int) -> bytes:
        """Return what to print of the first messages of a batch."""
        label = "" if batch.producer is None else batch.producer.label
        return self.lines(batch.raw[:count], label)

    def lines(self, bodies: Iterable[bytes], label: str) -> bytes:
        """Return what to print of messages from the producer of this label."""
        level, end = self._level, self._end
        shown: list[str] = []
        for body in bodies:
            fields = fields_of(body)
            if fields is None:
                shown.append(_lines(body.decode("utf-8", "backslashreplace")))
            elif (number := level_of(fields.levelno, fields.level)) >= level:
                shown.append(self._record(fields, number, label))
        shown.append("")
        return end.join(shown).encode("utf-8", "backslashreplace")

    def wanted(self, body: bytes) -> bool:
        """Tell whether a message is of the level, or is no record."""
        if not self._level:
            return True
        fields = fields_of(body)
        return fields is None or level_of(fields.levelno, fields.level) >= self._level

    def item(self, body: bytes) -> str | None:
        """Return the item of an object of JSON that holds the fields; None below the level."""
        found = object_of(body)
        if found is None:
            return ""
        if level_of(found.get("levelno"), found["level"]) < self._level:
            return None
        return f',"log":{harmless(encode(found).decode())}'

    def _record(self, fields: Fields, level: int, label: str) -> str:
        name, kind, process = name_of(fields), fields.level, fields.process_name
        who = label if label and process in {None, _MAIN} else (process or "-")
        head = _kept_head if len(kind) + len(name) + len(who) <= _LONGEST_KEPT else _head
        before = head(kind, level, name, who, fields.process, self._coloured)
        text = f"{self._dim(_time(fields.time))} {before} {_lines(fields.message)}"
        if fields.extra:
            for key, value in fields.extra.items():
                text += " " + self._dim(f"{printable(key)}={_value(value)}")
        for more in (fields.traceback, fields.stack):
            if more:
                text += f"\n{_INDENT}{_lines(more)}"
        return text

    def _dim(self, text: str) -> str:
        return _style(text, True, dim=True) if self._coloured else text


def _head(  # noqa: PLR0917 - a cache is quickest with positional arguments
    level: str,
    number: int,
    name: str,
    who: str,
    pid: int | None,
    coloured: bool,  # noqa: FBT001
) -> str:
    """Return what stands between the time and the message of a record."""
    shown = _style(printable(level).ljust(_WIDTH), coloured, **_colour(number))
    process = "" if pid is None else f"[{pid}]"
    return f"{shown} {_style(printable(name), coloured, fg='cyan')} {printable(who)}{process}:"


_kept_head: Final = lru_cache(maxsize=256)(_head)  # a process logs with few names, again and again


def _style(text: str, coloured: bool, **style: Any) -> str:  # noqa: ANN401, FBT001 - as click takes them
    return click.style(text, **style) if coloured else text


def _colour(level: int) -> dict[str, Any]:
    if level >= ERROR:
        return {"fg": "red", "bold": True}
    if level >= WARNING:
        return {"fg": "yellow"}
    return {"fg": "green"} if level >= INFO else {"dim": True}


def _lines(text: str) -> str:
    """Return text whose further lines are indented, and none of which commands a terminal."""
    if text.isprintable():
        return text
    return f"\n{_INDENT}".join(printable(line.expandtabs()) for line in text.splitlines())


def _value(value: object) -> str:
    if type(value) is int:
        return str(value)
    text = value if isinstance(value, str) else to_json(value)
    return printable(text if text and " " not in text else to_json(value))


def _time(time: str | float | None) -> str:
    if isinstance(time, str) and (found := _ISO.fullmatch(time)):
        second, milliseconds, zone = found.groups()
        if (local := _local_of(second + zone)) is not None:
            return f"{local}.{milliseconds}"
    created = time_of(time)
    if created is None:
        return "-"
    # The float nearest to .001 may be less than .001: round to the microsecond that was sent.
    seconds, microseconds = divmod(round(created * 1e6), 1_000_000)
    return f"{_local(seconds)}.{microseconds // 1000:03d}"


@lru_cache(maxsize=64)  # those of several senders, some of which are late
def _local_of(second: str) -> str | None:
    seconds = time_of(second)
    return None if seconds is None else _local(int(seconds))


@lru_cache(maxsize=4)
def _local(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
