"""Read durations, moments, permissions and sizes from the command line."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from stat import S_IRUSR, S_IWUSR
from typing import TYPE_CHECKING, Any, Final

import click

from mpsr.errors import ConfigurationError, Explanation
from mpsr.limits import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)?", re.ASCII)
_SECONDS: Final = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST: Final = 20 * 24 * 3600.0  # seconds: what poll(2) can wait, a C int of milliseconds, less

_AGO: Final = re.compile(r"-(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d)", re.ASCII)
_AGO_SECONDS: Final = {**_SECONDS, "d": 24 * 3600.0}
_MICROSECOND: Final = timedelta(microseconds=1)

_SIZE: Final = re.compile(r"(\d+)([KMG])?(?:i?B)?", re.ASCII | re.IGNORECASE)
_BYTES: Final = {"": 1, "K": KIB, "M": MIB, "G": 1024 * MIB}

_LARGEST: Final = 4 * 1024 * MIB - 1  # bytes: lengths are 32 bits wide

_OWNERS: Final = S_IRUSR | S_IWUSR  # a mode that denies them is a slip
_MODE: Final = re.compile(r"(?:0o?)?([0-7]{1,3})")


def duration(text: str) -> float:
    """Return seconds: ``500ms``, ``5s``, ``5``, ``2m``, ``1h``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _bad(f"{text!r} is no duration", "write it like 500ms, 5s or 2m")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST:
        raise _bad(f"{text!r} is longer than {_LONGEST / 3600:.0f}h")
    return seconds


def moment(text: str) -> int:
    """Return microseconds since 1970: ``2026-03-01 12:00``, ``12:00``, ``yesterday``, ``-1h``.

    Without a time zone it is that of this machine; a date is its first moment.
    """
    try:
        found = _moment(text, datetime.now().astimezone()).astimezone()
        return (found - datetime.fromtimestamp(0).astimezone()) // _MICROSECOND
    except (ValueError, OverflowError):
        pass
    advice = "write it like 2026-03-01, '2026-03-01 12:00', 12:00, today or -1h"
    raise _bad(f"{text!r} is no time", advice)


def _moment(text: str, now: datetime) -> datetime:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    words = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in words:
        return words[text]
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - timedelta(seconds=float(ago[1]) * _AGO_SECONDS[ago[2]])
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.combine(midnight, time.fromisoformat(text))


def capacity(text: str) -> int:
    """Return bytes: ``1000``, ``64K``, ``16M``, ``1G``, in powers of 1,024."""
    match = _SIZE.fullmatch(text)
    number = int(match[1]) * _BYTES[(match[2] or "").upper()] if match is not None else 0
    if number <= 0:
        raise _bad(f"{text!r} is no size", "write it like 1000, 64K or 16M")
    return number


def size(text: str) -> int:
    """Return bytes, like ``capacity``, of a single message."""
    number = capacity(text)
    if number > _LARGEST:
        raise _bad(f"{text!r} is not below 4G")
    return number


def level(text: str) -> int:
    """Return the number of a level of ``logging``: ``warning``, ``INFO`` or ``35``."""
    from mpsr.logging.fields import level_number  # noqa: PLC0415 - few filter by it

    try:
        return level_number(text)
    except ConfigurationError:
        advice = "choose DEBUG, INFO, WARNING, ERROR, CRITICAL or a number"
        raise _bad(f"{text!r} is no level", advice) from None


def mode(text: str) -> int:
    """Return permissions: ``660``, ``0660`` and ``0o660`` are the same."""
    match = _MODE.fullmatch(text)
    if match is None:
        raise _bad(f"{text!r} is no octal mode", "write it like 660")
    number = int(match[1], 8)
    if number & _OWNERS != _OWNERS:
        raise _bad(f"{text!r} denies its owner to read or to write", "write it like 660")
    return number


def user(text: str) -> int | str:
    """Return a user's id by its name or number; ``any`` stands for itself."""
    return text if text == "any" else user_id(text)


def user_id(text: str) -> int:
    """Return a user's id by its name or number."""
    if text.isdecimal():
        return int(text)
    import pwd  # noqa: PLC0415 - few name a user

    return _found(lambda: pwd.getpwnam(text).pw_uid, f"user {text!r}")


def group_id(text: str) -> int:
    """Return a group's id by its name or number."""
    if text.isdecimal():
        return int(text)
    import grp  # noqa: PLC0415 - few name a group

    return _found(lambda: grp.getgrnam(text).gr_gid, f"group {text!r}")


class Count(click.IntRange):
    """A whole number within bounds; its error names them."""

    def convert(
        self,
        value: Any,  # noqa: ANN401 - as click has it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - as click has it
        """Return the number, or say what it must be."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            most = "or more" if self.max is None else f"to {self.max}"
            why = f"{value!r} is not a whole number, {self.min} {most}"
            raise click.BadParameter(Explanation(why), ctx, param) from None


def _found(look_up: Callable[[], int], what: str) -> int:
    try:
        return look_up()
    except KeyError:
        raise _bad(f"there is no {what}", "pass a name or a number") from None


def _bad(why: str, advice: str = "") -> click.BadParameter:
    return click.BadParameter(Explanation(why, advice=advice))
