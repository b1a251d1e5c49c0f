"""Decode syslog messages, as RFC 5424 and RFC 3164 have them and as clients send them.

Pass ``mpsr.syslog`` to a receiver, and its batches hold a ``SyslogMessage`` for each message::

    with mpsr.Receiver("/run/app/log.sock", type="dgram", decode=mpsr.syslog) as receiver:
        for batch in receiver.batches():
            for message in batch:
                print(message.severity, message.app, message.message)

A message is read as RFC 5424 where it has that format exactly, otherwise as RFC 3164 where it
begins with a valid priority. What has neither format is not refused: it arrives as it came, with
``format=None``.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

FACILITIES: Final = (
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "ntp",
    "audit",
    "alert",
    "clock",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
)
"""The names of the facilities, by their numbers (RFC 5424, section 6.2.1)."""

SEVERITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""The names of the severities, by their numbers (RFC 5424, section 6.2.1)."""

_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
_NAMES: Final = [(facility, severity) for facility in FACILITIES for severity in SEVERITIES]
_AHEAD: Final = timedelta(days=1)  # that a sender's clock may be ahead of ours, zone included
_LEAP_GAP: Final = 8  # years: the longest time without a February 29, as from 1896 to 1904

# -- the grammar ----------------------------------------------------------------------------
#
# All expressions are built of these. What is repeated is possessive (++, *+) or of a bounded
# length, and no two choices begin with the same character where both can be long: the time that
# a message takes is proportional to its length.

_PRIORITY: Final = r"0|[1-9]\d?|1[0-8]\d|19[01]"  # 0 to 191, without leading zeros
_DATE: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"  # no leap second (RFC 5424, section 6.2.3)
_OFFSET: Final = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BLANK: Final = r"[\x00-\x20]|\Z"
_SD_NAME: Final = r"[!#-<>-\\^-~]{1,32}+"  # all that is printable, except = ] "
_SD_VALUE: Final = r'(?:[^"\\\]]++|\\.)*+'
_SD_PARAM: Final = rf' {_SD_NAME}="{_SD_VALUE}"'
_SD_ELEMENT: Final = rf"\[{_SD_NAME}(?:{_SD_PARAM})*+\]"

_Parts = tuple[tuple[str, str], ...]

# RFC 5424, section 6: the parts follow each other with one space between them.
_RFC5424_PARTS: Final[_Parts] = (
    ("priority", rf"<(?P<number>{_PRIORITY})>1"),
    ("time", rf"-|{_DATE}T{_CLOCK}(?:\.\d{{1,6}})?{_OFFSET}"),
    ("host", r"[!-~]{1,255}"),
    ("app", r"[!-~]{1,48}"),
    ("procid", r"[!-~]{1,128}"),
    ("msgid", r"[!-~]{1,32}"),
    ("structured", rf"-|(?:{_SD_ELEMENT})++"),
)

# RFC 3164, section 4.1.2, and the time of newer clients, which is that of RFC 3339.
_TIME_PARTS: Final[_Parts] = (
    ("month", "|".join(_MONTHS)),
    ("day", r" ?\d{1,2}"),
    ("year", r"\d{4}"),
    ("clock", rf"{_CLOCK}(?:\.\d{{1,9}})?"),
    ("iso", rf"{_DATE}T{_CLOCK}(?:\.\d{{1,9}})?(?:Z|[+-]\d\d:?\d\d)?"),
)

# RFC 3164, sections 4.1.2 and 4.1.3: a tag may hold more characters here, and be longer.
_ORIGIN_PARTS: Final[_Parts] = (
    ("host", r"[0-9A-Za-z._:%@/-]{1,255}"),
    ("app", rf"(?:[^\x00-\x20\x7f\[\]:]++|:(?!{_BLANK}))++"),
    ("procid", r"[^\x00-\x1f\x7f\]]{0,128}+"),
)


def _compile(pattern: str, parts: Iterable[tuple[str, str]] = ()) -> re.Pattern[str]:
    """Compile an expression; each ``{name}`` in it stands for the group of that part."""
    groups = {name: f"(?P<{name}>{part})" for name, part in parts}
    return re.compile(pattern.format_map(groups), re.ASCII | re.DOTALL)


_RFC5424: Final = _compile(
    " ".join(f"{{{name}}}" for name, _ in _RFC5424_PARTS) + r"(?: |\Z)", _RFC5424_PARTS
)
_SD_TOKEN: Final = re.compile(
    rf'\[(?P<id>{_SD_NAME})| (?P<name>{_SD_NAME})="(?P<value>{_SD_VALUE})"|\]', re.DOTALL
)
_PRI: Final = _compile("<{number}>", [("number", _PRIORITY)])
_TIME: Final = _compile(r"(?:{month} {day}(?: {year})? {clock}|{iso}):?(?: |\Z)", _TIME_PARTS)
_HOST: Final = _compile("{host} (?:: )?", _ORIGIN_PARTS)
_TAG: Final = _compile(
    r"{app}(?:\[{procid}\]:|:(?={blank})) ?", (*_ORIGIN_PARTS, ("blank", _BLANK))
)
_TAG_WITH_ID: Final = _compile(r"{app}\[{procid}\]: ?", _ORIGIN_PARTS)


class SyslogMessage(NamedTuple):
    r"""A syslog message, taken apart. A field is None where the message does not state it.

    Bytes that are not UTF-8 are lone surrogates in its texts, as ``surrogateescape`` makes them:
    ``text.encode("utf-8", "surrogateescape")`` gives the bytes back.

    Attributes:
        format: the format it was read as, or None: it has neither, and all of it is in ``message``.
        facility: one of ``FACILITIES``: what kind of program sent it.
        severity: one of ``SEVERITIES``: how urgent it is.
        time: when it was made, in the sender's word. It is aware where the message states ``Z`` or
            an offset, and naive where it does not. Where it states no year (RFC 3164, section
            4.1.2), it is the last such time that has come by now; one up to a day ahead has come,
            too, for clocks and zones differ. Digits beyond microseconds are left out.
        host: the name or address of the sender's host.
        app: the program: APP-NAME in RFC 5424, the name in the TAG in RFC 3164.
        procid: its process id, most often: PROCID in RFC 5424, what the TAG has in brackets in RFC
            3164.
        msgid: the type of the message; RFC 5424 only.
        structured: structured data (RFC 5424, section 6.3): the values of each parameter of each
            element. ``structured["origin"]["ip"]`` is a list, since a parameter may be repeated; it
            has the values in order. Elements of the same name, which the RFC forbids, are taken as
            one. The escapes ``\"``, ``\\`` and ``\]`` are undone; a backslash before anything
            else is one.
        message: the text, without the byte order mark of RFC 5424, and without what ends a message.
            One NUL at the end is left out, and then one line feed, or carriage return and line
            feed.
        raw: the bytes, as they came.

    """

    format: Literal["rfc5424", "rfc3164"] | None
    facility: str | None
    severity: str | None
    time: datetime | None
    host: str | None
    app: str | None
    procid: str | None
    msgid: str | None
    structured: dict[str, dict[str, list[str]]]
    message: str
    raw: bytes

    @property
    def zoned(self) -> bool:
        """Whether the message states the zone of its time, so that ``time`` is aware."""
        return self.time is not None and self.time.tzinfo is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them, by name.

        Those that are None are left out, but for ``format``, which is first.
        ``time`` is text, as ISO 8601 has it. It is followed by ``"time_zone": False`` where the
        message does not state the zone. ``structured`` is left out where it is empty. ``raw`` is
        always left out. Bytes that are not UTF-8 are replaced by U+FFFD in all texts.
        """
        fields: dict[str, Any] = {"format": self.format}
        for name, value in self._asdict().items():
            if isinstance(value, str):
                fields[name] = _replaced(value)
            elif isinstance(value, datetime):
                fields[name] = value.isoformat()
                if not self.zoned:
                    fields["time_zone"] = False
        structured = {
            element: {name: list(map(_replaced, values)) for name, values in parameters.items()}
            for element, parameters in self.structured.items()
        }
        message = fields.pop("message")
        return fields | ({"structured": structured} if structured else {}) | {"message": message}


def syslog(message: bytes, *, _now: datetime | None = None) -> SyslogMessage:
    r"""Take a syslog message apart. Any bytes are good, and none raise an exception.

    It is tried in turn as

    1. RFC 5424, version 1, which has to match in all details (section 6);
    2. RFC 3164, which has to begin with a priority of 0 to 191, as ``<13>`` (section 4.1.1).
       After it may stand:

       - the time, as ``Nov 27 09:00:00``. It may have the year before the hour, a fraction of a
         second and a colon behind. It may also be in ISO 8601, as
         ``2026-11-27T10:00:00.123456+00:00``;
       - after a time, the host. A word that ends with a colon is no host, but the tag;
       - the tag, as ``su:`` or ``sshd[123]:``. Without a time, it must have the brackets.

       All else is the text. Where there is neither a tag nor a host, but a time, the first word
       of the text is taken for the host, as RFC 3164 has it;
    3. neither: all of it is the text.

    Args:
        message: bytes, as a receiver hands it out.

    Returns:
        What it states. Nothing is refused.

    """
    text = message.decode("utf-8", "surrogateescape")
    text = text.removesuffix("\0")
    if text.endswith("\n"):
        text = text[:-2] if text.endswith("\r\n") else text[:-1]
    return (
        _decode_rfc5424(text, message)
        or _decode_rfc3164(text, message, _now)
        or SyslogMessage(None, None, None, None, None, None, None, None, {}, text, message)
    )


def _decode_rfc5424(text: str, raw: bytes) -> SyslogMessage | None:
    """Read a message as RFC 5424, or return None."""
    match = _RFC5424.match(text)
    if match is None:
        return None
    _, number, stamp, *names, structured = match.groups()
    try:
        time = None if stamp == "-" else datetime.fromisoformat(stamp)
    except ValueError:  # a day that no month has, or the year 0
        return None
    facility, severity = _NAMES[int(number)]
    host, app, procid, msgid = (None if name == "-" else name for name in names)
    elements = {} if structured == "-" else _elements(structured)
    content = text[match.end() :].removeprefix("\ufeff")
    return SyslogMessage(
        "rfc5424", facility, severity, time, host, app, procid, msgid, elements, content, raw
    )


def _elements(structured: str) -> dict[str, dict[str, list[str]]]:
    """Return the values of structured data that matched the grammar."""
    elements: dict[str, dict[str, list[str]]] = {}
    parameters: dict[str, list[str]] = {}
    for element, name, value in _SD_TOKEN.findall(structured):
        if element:
            parameters = elements.setdefault(element, {})
        elif name:
            parameters.setdefault(name, []).append(_unescaped(value) if "\\" in value else value)
    return elements


def _unescaped(value: str) -> str:
    r"""Undo the escapes \", \\ and \] (RFC 5424, section 6.3.3), and no others."""
    pieces = value.split(r"\\")  # from the left, as pairs are read
    return "\\".join(piece.replace(r"\"", '"').replace(r"\]", "]") for piece in pieces)


def _decode_rfc3164(text: str, raw: bytes, now: datetime | None) -> SyslogMessage | None:
    """Read a message as RFC 3164, or return None."""
    match = _PRI.match(text)
    if match is None:
        return None
    facility, severity = _NAMES[int(match["number"])]
    position = match.end()
    host = app = procid = None
    match = _TIME.match(text, position)
    time = match and _time(match, now)
    if match is None or time is None:  # no header: RFC 3164, section 4.3.2
        match = _TAG_WITH_ID.match(text, position)
    else:
        position = match.end()
        match = _TAG.match(text, position)
        if match is None and (match := _HOST.match(text, position)) is not None:
            host, position = match["host"], match.end()
            match = _TAG.match(text, position)
    if match is not None:
        app, procid, position = match["app"], match["procid"] or None, match.end()
    content = text[position:]
    return SyslogMessage(
        "rfc3164", facility, severity, time, host, app, procid, None, {}, content, raw
    )


def _time(match: re.Match[str], now: datetime | None) -> datetime | None:
    """Return the time that a header states, or None if no calendar has that day."""
    month, day, year, clock, iso = match.groups()
    try:
        if iso is not None:
            return datetime.fromisoformat(iso)
        month = _MONTHS.index(month) + 1
        rest = f"-{month:02}-{int(day):02}T{clock}"
        return datetime.fromisoformat(year + rest) if year else _last(rest, now)
    except ValueError:
        return None


def _last(rest: str, now: datetime | None) -> datetime | None:
    """Return the last time that a time without its year has come, up to a day ahead of now.

    A December message that is read in January is last year's. February 29 may be some years ago.
    """
    if now is None:
        now = datetime.now()  # noqa: DTZ005 - the sender's clock shows no zone, either
    latest = now + min(_AHEAD, datetime.max - now)  # noqa: DTZ901 - as above
    for year in range(latest.year, latest.year - _LEAP_GAP - 1, -1):
        try:
            time = datetime.fromisoformat(f"{year:04}{rest}")
        except ValueError:  # no leap year
            continue
        if time <= latest:
            return time
    return None


def _replaced(text: str) -> str:
    """Return a text with U+FFFD in place of bytes that are not UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
