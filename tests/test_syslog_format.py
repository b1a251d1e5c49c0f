"""What a syslog message says, whatever sent it."""

from __future__ import annotations

import json
import logging
import logging.handlers
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mpsr
from mpsr.syslog_format import FACILITIES, SEVERITIES, SyslogMessage, syslog

NOW: Final = datetime(2026, 11, 27, 10, 0)  # noqa: DTZ001 - as a sender's clock has it
BOM: Final = b"\xef\xbb\xbf"
MIB: Final = 1024 * 1024


def at(*numbers: int, hours: float | None = None) -> datetime:
    """Return a time, with an offset or without."""
    zone = None if hours is None else timezone(timedelta(hours=hours))
    return datetime(*numbers, tzinfo=zone)  # type: ignore[arg-type, misc]


def modern(message: str = "", **fields: Any) -> dict[str, Any]:
    """Return what is expected of a message in RFC 5424."""
    return {
        "format": "rfc5424",
        "facility": "auth",
        "severity": "crit",
        "message": message,
    } | fields


def legacy(message: str = "", **fields: Any) -> dict[str, Any]:
    """Return what is expected of a message in RFC 3164."""
    return {
        "format": "rfc3164",
        "facility": "user",
        "severity": "notice",
        "message": message,
    } | fields


def unknown(message: str) -> dict[str, Any]:
    """Return what is expected of a message in neither format."""
    return {"message": message}


def elements(value: str, /, **fields: Any) -> dict[str, Any]:
    """Return what is expected of one parameter in one element."""
    return modern(structured={"a": {"b": [value]}}, **fields)


ORIGIN: Final[dict[str, Any]] = {"facility": "local4", "severity": "notice"}
EVENT: Final[dict[str, Any]] = ORIGIN | {
    "time": at(2003, 10, 11, 22, 14, 15, 3000, hours=0),
    "host": "mymachine.example.com",
    "app": "evntslog",
    "msgid": "ID47",
}
SAMPLE: Final = {"iut": ["3"], "eventSource": ["Application"], "eventID": ["1011"]}
SAMPLE_BYTES: Final = b'[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"]'
QUALITY: Final = b'[timeQuality tzKnown="1" isSynced="0"]'
HIGH: Final = b'[examplePriority@32473 class="high"]'
SU: Final = "'su root' failed for lonvick on /dev/pts/8"
DOUGHNUTS: Final = (
    "%% It's time to make the do-nuts.  %%  Ingredients: Mix=OK, Jelly=OK # "
    "Devices: Mixer=OK, Jelly_Injector=OK, Frier=OK # Transport: "
    "Conveyer1=OK, Conveyer2=OK # %%"
)
TIME_TO: Final = b"%% It's time to make the do-nuts."
FOLKS: Final = (
    "1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!"
)
REQUEST: Final = '192.0.2.1 - - [27/Nov/2026:09:00:00 +0000] "GET / HTTP/1.1" 200 15 "-" "curl/8.0"'
MORNING: Final = at(2026, 11, 27, 9, 0)
OCTOBER: Final = at(2026, 10, 11, 22, 14, 15)
BLANK: Final = b"<34>1 - - - - - "  # a header of RFC 5424 that says nothing

Vector = tuple[str, bytes, dict[str, Any]]

RFC5424: Final[list[Vector]] = [
    (
        "6.5 example 1",
        b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - " + BOM + SU.encode(),
        modern(SU, time=EVENT["time"], host=EVENT["host"], app="su", msgid="ID47"),
    ),
    (
        "6.5 example 2",
        b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - " + TIME_TO,
        modern(TIME_TO.decode(), host="192.0.2.1", app="myproc", procid="8710")
        | ORIGIN
        | {"time": at(2003, 8, 24, 5, 14, 15, 3, hours=-7)},
    ),
    (
        "6.5 example 3",
        b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
        + SAMPLE_BYTES
        + b" "
        + BOM
        + b"An application event log entry...",
        modern("An application event log entry...", structured={"exampleSDID@32473": SAMPLE})
        | EVENT,
    ),
    (
        "6.5 example 4",
        b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
        + SAMPLE_BYTES
        + HIGH,
        modern(
            structured={"exampleSDID@32473": SAMPLE, "examplePriority@32473": {"class": ["high"]}}
        )
        | EVENT,
    ),
    ("6.3.5 example 1", BLANK + SAMPLE_BYTES, modern(structured={"exampleSDID@32473": SAMPLE})),
    (
        "6.3.5 example 3: a space between elements ends them",
        BLANK + SAMPLE_BYTES + b" " + HIGH,
        modern(HIGH.decode(), structured={"exampleSDID@32473": SAMPLE}),
    ),
    (
        "6.3.5 example 4: a space before a name",
        BLANK + b"[ " + SAMPLE_BYTES[1:],
        legacy("1 - - - - - [ " + SAMPLE_BYTES[1:].decode(), facility="auth", severity="crit"),
    ),
    (
        "6.3.5 example 5",
        BLANK + b'[sigSig ver="1" rsID="1234" signature="x"]',
        modern(structured={"sigSig": {"ver": ["1"], "rsID": ["1234"], "signature": ["x"]}}),
    ),
    (
        "6.2.3.1 example 1",
        b"<34>1 1985-04-12T23:20:50.52Z - - - - -",
        modern(time=at(1985, 4, 12, 23, 20, 50, 520_000, hours=0)),
    ),
    (
        "6.2.3.1 example 2",
        b"<34>1 1985-04-12T19:20:50.52-04:00 - - - - -",
        modern(time=at(1985, 4, 12, 19, 20, 50, 520_000, hours=-4)),
    ),
    (
        "7.2.5: a parameter that is repeated",
        BLANK + b'[origin ip="192.0.2.1" software="x" ip="192.0.2.129"]',
        modern(structured={"origin": {"ip": ["192.0.2.1", "192.0.2.129"], "software": ["x"]}}),
    ),
    (
        "an element that is repeated",
        BLANK + b'[a b="1"][c][a b="2" d="3"]',
        modern(structured={"a": {"b": ["1", "2"], "d": ["3"]}, "c": {}}),
    ),
    ("nothing but a header", BLANK + b"-", modern()),
    ("an empty text", BLANK + b"- ", modern()),
    ("a text that begins with a space", BLANK + b"-  x", modern(" x")),
    ("a mark alone", BLANK + b"- " + BOM, modern()),
    ("only the first mark", BLANK + b"- " + BOM + BOM, modern("\ufeff")),
    ("text without a mark", BLANK + "- naïve".encode(), modern("naïve")),
    ("text that is not UTF-8", BLANK + b"- \xff\xfex", modern("\udcff\udcfex")),
    ("lines", BLANK + b"- one\ntwo\n", modern("one\ntwo")),
    ("a NUL inside", BLANK + b"- one\0two\0", modern("one\0two")),
    ("the lowest priority", b"<0>1 - - - - - -", modern(facility="kern", severity="emerg")),
    ("the highest", b"<191>1 - - - - - -", modern(facility="local7", severity="debug")),
    (
        "no fraction, and an offset of minutes",
        b"<34>1 2026-11-27T10:00:00+05:45 - - - - -",
        modern(time=at(2026, 11, 27, 10, hours=5.75)),
    ),
    (
        "six digits of a second",
        b"<34>1 2026-11-27T10:00:00.123456Z - - - - -",
        modern(time=at(2026, 11, 27, 10, 0, 0, 123_456, hours=0)),
    ),
    (
        "February 29",
        b"<34>1 2024-02-29T10:00:00Z - - - - -",
        modern(time=at(2024, 2, 29, 10, hours=0)),
    ),
    (
        "the longest names",
        b" ".join([b"<34>1 -", b"h" * 255, b"a" * 48, b"p" * 128, b"m" * 32, b"-"]),
        modern(host="h" * 255, app="a" * 48, procid="p" * 128, msgid="m" * 32),
    ),
    ("two hyphens are a name", b"<34>1 - -- - - - -", modern(host="--")),
    ("an escaped quote", BLANK + rb'[a b="\""]', elements('"')),
    ("an escaped bracket", BLANK + rb'[a b="\]"]', elements("]")),
    ("an escaped backslash", BLANK + rb'[a b="\\"]', elements("\\")),
    ("a backslash before another", BLANK + rb'[a b="\n"]', elements(r"\n")),
    ("pairs from the left", BLANK + rb'[a b="\\\"\\\]"]', elements('\\"\\]')),
    ("a backslash, then an escape", BLANK + rb'[a b="\x\\y"]', elements(r"\x\y")),
    ("what needs no escape", BLANK + b'[a b="[=\n "]', elements("[=\n ")),
    ("a value in UTF-8", BLANK + '[a b="ü"]'.encode(), elements("ü")),
    ("a value that is not", BLANK + b'[a b="\xff"]', elements("\udcff")),
    ("an empty value", BLANK + b'[a b=""] x', elements("", message="x")),
    ("names of signs", BLANK + rb'[!#\^[~ <>="x"]', modern(structured={r"!#\^[~": {"<>": ["x"]}})),
    (
        "logger --rfc5424",
        b"<13>1 2026-11-27T09:41:16.580192+00:00 vm root - - " + QUALITY + b" hello",
        modern(
            "hello",
            facility="user",
            severity="notice",
            time=at(2026, 11, 27, 9, 41, 16, 580_192, hours=0),
            host="vm",
            app="root",
            structured={"timeQuality": {"tzKnown": ["1"], "isSynced": ["0"]}},
        ),
    ),
]

NOT_RFC5424: Final[list[Vector]] = [
    (what, b"<13>" + rest, legacy(rest.decode()))
    for what, rest in [
        ("another version", b"2 - - - - - - x"),
        ("a version of two digits", b"11 - - - - - - x"),
        ("6.2.3.1 example 5: nanoseconds", b"1 2003-08-24T05:14:15.000000003-07:00 - - - - - x"),
        ("a leap second", b"1 2016-12-31T23:59:60Z - - - - - x"),
        ("an hour too many", b"1 2016-12-31T24:00:00Z - - - - - x"),
        ("no offset", b"1 2016-12-31T23:00:00 - - - - - x"),
        ("an offset of a day", b"1 2016-12-31T23:00:00+24:00 - - - - - x"),
        ("an offset without a colon", b"1 2016-12-31T23:00:00+0100 - - - - - x"),
        ("a small t", b"1 2016-12-31t23:00:00Z - - - - - x"),
        ("a point and no digits", b"1 2016-12-31T23:00:00.Z - - - - - x"),
        ("February 30", b"1 2024-02-30T10:00:00Z - - - - - x"),
        ("February 29 in another year", b"1 2026-02-29T10:00:00Z - - - - - x"),
        ("the year 0", b"1 0000-01-01T10:00:00Z - - - - - x"),
        ("too few parts", b"1 - - - - -"),
        ("two spaces", b"1 -  - - - - - x"),
        ("a name too long", b"1 - - " + b"a" * 49 + b" - - - x"),
        ("a name beyond ASCII", "1 - hôte - - - - x".encode()),
        ("no space before the text", b"1 - - - - - -x"),
        ("text right behind an element", b"1 - - - - - [a]x"),
        ("an element without a name", b"1 - - - - - [] x"),
        ("an element without an end", b'1 - - - - - [a b="c" x'),
        ("a value without an end", b'1 - - - - - [a b="c] x'),
        ("a bare bracket in a value", b'1 - - - - - [a b="]"] x'),
        ("a value without quotes", b"1 - - - - - [a b=c] x"),
        ("an element's name too long", b"1 - - - - - [" + b"a" * 33 + b"] x"),
        ("a space before the bracket", b'1 - - - - - [a b="c" ] x'),
    ]
]

RFC3164: Final[list[Vector]] = [
    (
        "5.4 example 1",
        b"<34>Oct 11 22:14:15 mymachine su: " + SU.encode(),
        legacy(SU, facility="auth", severity="crit", time=OCTOBER, host="mymachine", app="su"),
    ),
    ("5.4 example 2", b"Use the BFG!", unknown("Use the BFG!")),
    (
        "5.4 example 2, relayed",
        b"<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
        legacy("Use the BFG!", time=at(2026, 2, 5, 17, 32, 18), host="10.0.0.99"),
    ),
    (
        "5.4 example 3",
        b"<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: " + DOUGHNUTS.encode(),
        legacy(
            "1987 mymachine myproc[10]: " + DOUGHNUTS,
            **ORIGIN,
            time=at(2026, 8, 24, 5, 34),
            host="CST",
        ),
    ),
    (
        "5.4 example 4",
        b"<0>" + FOLKS.encode(),
        legacy(FOLKS, facility="kern", severity="emerg"),
    ),
    (
        "5.4 example 4, relayed",
        b"<0>Oct 22 10:52:12 scapegoat " + FOLKS.encode(),
        legacy(
            FOLKS,
            facility="kern",
            severity="emerg",
            time=at(2026, 10, 22, 10, 52, 12),
            host="scapegoat",
        ),
    ),
    (
        "logger -u",
        b"<13>Nov 27 09:00:00 user: text",
        legacy("text", time=MORNING, app="user"),
    ),
    (
        "logger -u -i",
        b"<13>Nov 27 09:00:00 tag[123]: text",
        legacy("text", time=MORNING, app="tag", procid="123"),
    ),
    (
        "logger --rfc3164",
        b"<13>Nov 27 09:00:00 vm root: text",
        legacy("text", time=MORNING, host="vm", app="root"),
    ),
    ("SysLogHandler", b"<12>text\0", legacy("text", severity="warning")),
    ("SysLogHandler, a line", b"<12>text\n\0", legacy("text", severity="warning")),
    (
        "nginx",
        b"<190>Nov 27 09:00:00 web nginx: " + REQUEST.encode(),
        legacy(
            REQUEST,
            facility="local7",
            severity="info",
            time=MORNING,
            host="web",
            app="nginx",
        ),
    ),
    (
        "HAProxy",
        b"<134>Nov 27 09:00:00 haproxy[12]: Proxy http started.\n",
        legacy(
            "Proxy http started.",
            facility="local0",
            severity="info",
            time=MORNING,
            app="haproxy",
            procid="12",
        ),
    ),
    (
        "rsyslog, traditional forward format",
        b"<13>Nov 27 09:00:00 host tag[1]: msg",
        legacy("msg", time=MORNING, host="host", app="tag", procid="1"),
    ),
    (
        "rsyslog, forward format",
        b"<13>2026-11-27T10:00:00.123456+00:00 host tag[1]: msg",
        legacy(
            "msg",
            time=at(2026, 11, 27, 10, 0, 0, 123_456, hours=0),
            host="host",
            app="tag",
            procid="1",
        ),
    ),
    (
        "Go's log/syslog, to another host",
        b"<13>2026-11-27T10:00:00+01:00 host /usr/bin/app[1]: msg\n",
        legacy(
            "msg", time=at(2026, 11, 27, 10, hours=1), host="host", app="/usr/bin/app", procid="1"
        ),
    ),
    (
        "nanoseconds, and an offset without a colon",
        b"<13>2026-11-27T10:00:00.123456789+0100 host a: b",
        legacy("b", time=at(2026, 11, 27, 10, 0, 0, 123_456, hours=1), host="host", app="a"),
    ),
    (
        "ISO 8601 without a zone",
        b"<13>2026-11-27T09:00:00 host a: b",
        legacy("b", time=MORNING, host="host", app="a"),
    ),
    (
        "an appliance, with the year",
        b"<189>Oct 11 2026 22:14:15: %SYS-5-CONFIG_I: Configured from console",
        legacy(
            "Configured from console",
            facility="local7",
            time=OCTOBER,
            app="%SYS-5-CONFIG_I",
        ),
    ),
    (
        "an appliance, with its name between spaces",
        b"<189>Oct 11 2026 22:14:15 fw1 : %ASA-6-302013: Built",
        legacy("Built", facility="local7", time=OCTOBER, host="fw1", app="%ASA-6-302013"),
    ),
    (
        "another year, and a fraction",
        b"<13>Oct 11 2019 22:14:15.25 h a: b",
        legacy("b", time=at(2019, 10, 11, 22, 14, 15, 250_000), host="h", app="a"),
    ),
    (
        "a day padded with a space",
        b"<13>Nov  5 09:00:00 h a: b",
        legacy("b", time=at(2026, 11, 5, 9), host="h", app="a"),
    ),
    (
        "a day that is not padded",
        b"<13>Nov 5 09:00:00 h a: b",
        legacy("b", time=at(2026, 11, 5, 9), host="h", app="a"),
    ),
    (
        "a day padded with a zero",
        b"<13>Nov 05 09:00:00 h a: b",
        legacy("b", time=at(2026, 11, 5, 9), host="h", app="a"),
    ),
    (
        "February 29, where no such day is near",
        b"<13>Feb 29 09:00:00 h a: b",
        legacy("b", time=at(2024, 2, 29, 9), host="h", app="a"),
    ),
    ("a tag and an id, without a time", b"<13>sshd[12]: x", legacy("x", app="sshd", procid="12")),
    ("a tag that may be a word", b"<13>ERROR: x", legacy("ERROR: x")),
    ("a priority and no more", b"<13>", legacy()),
    ("a time and no more", b"<13>Nov 27 09:00:00", legacy(time=MORNING)),
    ("a word after the time", b"<13>Nov 27 09:00:00 hello", legacy("hello", time=MORNING)),
    ("a tag and no more", b"<13>Nov 27 09:00:00 su:", legacy(time=MORNING, app="su")),
    (
        "a host and no tag",
        b"<13>Nov 27 09:00:00 host some words",
        legacy("some words", time=MORNING, host="host"),
    ),
    (
        "a host that is an IPv6 address",
        b"<13>Nov 27 09:00:00 2001:db8::1 su: x",
        legacy("x", time=MORNING, host="2001:db8::1", app="su"),
    ),
    (
        "a word that can be no host",
        b"<13>Nov 27 09:00:00 (some) words",
        legacy("(some) words", time=MORNING),
    ),
    (
        "a tag of signs",
        b"<13>Nov 27 09:00:00 h (sd-pam)[7]:x",
        legacy("x", time=MORNING, host="h", app="(sd-pam)", procid="7"),
    ),
    (
        "a tag with colons",
        b"<13>Nov 27 09:00:00 h App::Mail[7]: x",
        legacy("x", time=MORNING, host="h", app="App::Mail", procid="7"),
    ),
    (
        "empty brackets",
        b"<13>Nov 27 09:00:00 h a[]: x",
        legacy("x", time=MORNING, host="h", app="a"),
    ),
    (
        "a line feed behind the tag",
        b"<13>Nov 27 09:00:00 h a:\n\tx\n",
        legacy("\n\tx", time=MORNING, host="h", app="a"),
    ),
    (
        "an address is no tag",
        b"<13>Nov 27 09:00:00 h http://example.org/",
        legacy("http://example.org/", time=MORNING, host="h"),
    ),
    (
        "a mark stays",
        b"<13>Nov 27 09:00:00 h a: " + BOM + b"x",
        legacy("\ufeffx", time=MORNING, host="h", app="a"),
    ),
    ("the end of a line", b"<13>x\r\n", legacy("x")),
    ("one end, and no more", b"<13>x\n\n", legacy("x\n")),
    ("a carriage return alone", b"<13>x\r", legacy("x\r")),
    ("not UTF-8", b"<13>\xe9t\xe9", legacy("\udce9t\udce9")),
    *(
        (what, b"<13>" + rest, legacy(rest.decode()))
        for what, rest in [
            ("a month that is none", b"Okt 11 22:14:15 h a: b"),
            ("a small month", b"oct 11 22:14:15 h a: b"),
            ("a day that no month has", b"Oct 32 22:14:15 h a: b"),
            ("February 30 of no year", b"Feb 30 22:14:15 h a: b"),
            ("February 29 of a year without", b"Feb 29 2026 22:14:15 h a: b"),
            ("day 0", b"Oct  0 22:14:15 h a: b"),
            ("an hour too late", b"Oct 11 24:14:15 h a: b"),
            ("a leap second of no year", b"Dec 31 23:59:60 h a: b"),
            ("a clock without seconds", b"Oct 11 22:14 h a: b"),
            ("a time in a word", b"Oct 11 22:14:15x h a: b"),
            ("a space before the time", b" Oct 11 22:14:15 h a: b"),
            ("an offset that is none", b"2026-11-27T10:00:00+99:99 h a: b"),
        ]
    ),
]

NEITHER: Final[list[Vector]] = [
    (what, text.encode("utf-8", "surrogateescape"), unknown(text))
    for what, text in [
        ("nothing", ""),
        ("a priority too high", "<192>Oct 11 22:14:15 h a: b"),
        ("far too high", "<999>1 - - - - - - x"),
        ("four digits", "<0013>x"),
        ("a leading zero", "<013>x"),
        ("two zeros: RFC 3164, section 4.3.3", "<00>x"),
        ("no number", "<>x"),
        ("a word", "<user>x"),
        ("a sign", "<-1>x"),
        ("digits of another script", "<١٣>x"),
        ("no end", "<13"),
        ("a space before", " <13>x"),
        ("a time without a priority", "Oct 11 22:14:15 h a: b"),
        ("JSON", '{"level": "info"}'),
        ("not UTF-8", "\udcff\udc80"),
    ]
] + [("an end alone", b"\r\n", unknown("")), ("a NUL alone", b"\0", unknown(""))]

VECTORS: Final = [*RFC5424, *NOT_RFC5424, *RFC3164, *NEITHER]


@pytest.mark.parametrize(("what", "raw", "expected"), VECTORS, ids=[what for what, *_ in VECTORS])
def test_messages(what: str, raw: bytes, expected: dict[str, Any]) -> None:
    """Each field is what the bytes say, and None or empty where they do not say it."""
    nothing = dict.fromkeys(SyslogMessage._fields) | {"structured": {}, "raw": raw}
    message = syslog(raw, _now=NOW)
    assert message._asdict() == nothing | expected
    assert message.zoned is (getattr(message.time, "tzinfo", None) is not None)


@pytest.mark.parametrize("number", range(192))
def test_priorities(number: int) -> None:
    """A priority is eight times the facility, and the severity (RFC 5424, section 6.2.1)."""
    for raw in (b"<%d>x" % number, b"<%d>1 - - - - - -" % number):
        message = syslog(raw)
        assert message.facility == FACILITIES[number // 8]
        assert message.severity == SEVERITIES[number % 8]


@pytest.mark.parametrize(
    ("now", "stamp", "expected"),
    [
        (at(2027, 1, 2), "Dec 31 23:59:59", at(2026, 12, 31, 23, 59, 59)),
        (at(2026, 12, 31, 23), "Jan  1 10:00:00", at(2027, 1, 1, 10)),
        (at(2026, 11, 27), "Nov 27 23:59:59", at(2026, 11, 27, 23, 59, 59)),
        (at(2026, 11, 27), "Nov 28 10:00:00", at(2025, 11, 28, 10)),
        (at(2026, 11, 27), "Feb  1 10:00:00", at(2026, 2, 1, 10)),
        (at(2026, 11, 27), "Nov 27 00:00:00", at(2026, 11, 27)),
        (at(2026, 11, 27), "Jun  1 00:00:00", at(2026, 6, 1)),
        (at(2026, 2, 1), "Oct  1 00:00:00", at(2025, 10, 1)),
        (at(2024, 3, 1), "Feb 29 10:00:00", at(2024, 2, 29, 10)),
        (at(2025, 1, 1), "Feb 29 10:00:00", at(2024, 2, 29, 10)),
        (at(2023, 12, 1), "Feb 29 10:00:00", at(2020, 2, 29, 10)),
        (at(2027, 11, 1), "Feb 29 10:00:00", at(2024, 2, 29, 10)),
        (at(1903, 6, 1), "Feb 29 10:00:00", at(1896, 2, 29, 10)),
        (at(2102, 1, 1), "Feb 29 10:00:00", at(2096, 2, 29, 10)),
        (at(1, 1, 1), "Dec 31 10:00:00", None),
        (at(9999, 12, 31, 23), "Jan  1 10:00:00", at(9999, 1, 1, 10)),
        (at(1, 1, 1), "Feb 29 10:00:00", None),
    ],
)
def test_a_time_without_a_year_has_come(now: datetime, stamp: str, expected: datetime) -> None:
    """It is the last such time that has come, give or take a day, whatever the turn of the year."""
    message = syslog(f"<13>{stamp} h a: b".encode(), _now=now)
    assert (message.time, message.zoned) == (expected, False)


def test_now_is_asked_of_the_clock() -> None:
    """Without a year, a time is near the time of this host."""
    now = datetime.now().replace(microsecond=0)  # noqa: DTZ005 - as a client writes it
    message = syslog(f"<13>{now:%b %e %H:%M:%S} h a: b".encode())
    assert message.time == now


# -- any bytes ------------------------------------------------------------------------------

HEADERS: Final = st.sampled_from([raw[: len(raw) // 2] for _, raw, _ in VECTORS] + [b"<13>", BLANK])
CHARACTERS: Final = st.text(st.sampled_from(list('<>0123456789 1-[]="\\:.TZ+aN\0\n\x1bé')))


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.builds(bytes.__add__, HEADERS | st.just(b""), st.binary() | CHARACTERS.map(str.encode)))
@example(b"<13>Feb 29 24:00:00 x")
def test_any_bytes_decode(raw: bytes) -> None:
    """Nothing raises, and nothing is lost: the text ends as the bytes do."""
    message = syslog(raw)
    assert message.raw == raw
    end = raw.removesuffix(b"\0")
    end = end[: -2 if end.endswith(b"\r\n") else -1] if end.endswith(b"\n") else end
    text = message.message.encode("utf-8", "surrogateescape")
    assert end.endswith(text)
    assert message.format is not None or text == end
    assert json.loads(json.dumps(message.as_dict())) == message.as_dict()
    json.dumps(message.as_dict(), ensure_ascii=False).encode()  # has no lone surrogates
    assert pickle.loads(pickle.dumps(message)) == message


def names(longest: int, besides: str = "") -> st.SearchStrategy[str]:
    """Generate names of printable ASCII."""
    characters = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=besides)
    return st.text(characters, min_size=1, max_size=longest)


SD_NAMES: Final = names(32, '="]')
OFFSETS: Final = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
STRUCTURED: Final = st.dictionaries(
    SD_NAMES, st.dictionaries(SD_NAMES, st.lists(st.text(), min_size=1, max_size=3), max_size=3)
)


def escaped(value: str) -> str:
    """Write a value as RFC 5424, section 6.3.3 has it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("]", r"\]")


@settings(derandomize=True, deadline=None)
@given(
    priority=st.integers(0, 191),
    stamp=st.none() | st.datetimes(timezones=OFFSETS),
    words=st.tuples(*(st.none() | names(longest) for longest in (255, 48, 128, 32))),
    structured=STRUCTURED,
    text=st.text().filter(lambda text: not text.startswith("\ufeff")),
    bom=st.booleans(),
    end=st.sampled_from(["\0", "\n", "\r\n", "\n\0"]),
)
def test_what_is_written_is_read(
    *,
    priority: int,
    stamp: datetime | None,
    words: tuple[str | None, ...],
    structured: dict[str, dict[str, list[str]]],
    text: str,
    bom: bool,
    end: str,
) -> None:
    """A message that is made of its fields comes out as them, with escapes undone."""
    words = tuple(None if word == "-" else word for word in words)
    data = "".join(
        f"[{element}"
        + "".join(
            f' {name}="{escaped(value)}"' for name, values in params.items() for value in values
        )
        + "]"
        for element, params in structured.items()
    )
    header = [stamp.isoformat() if stamp else "-", *(word or "-" for word in words), data or "-"]
    content = "\ufeff" * bom + text + end
    raw = f"<{priority}>1 {' '.join(header)} {content}".encode()
    host, app, procid, msgid = words
    assert syslog(raw) == SyslogMessage(
        format="rfc5424",
        facility=FACILITIES[priority // 8],
        severity=SEVERITIES[priority % 8],
        time=stamp,
        host=host,
        app=app,
        procid=procid,
        msgid=msgid,
        structured=structured,
        message=text,
        raw=raw,
    )


# -- what a hostile client sends ------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "repeated", "after"),
    [
        (b"", b"<", b""),
        (b"", b"\xff", b""),
        (b"", b"\r\n", b""),
        (b"", b"\0", b""),
        (b"<13>", b"a", b""),
        (b"<13>", b" ", b""),
        (b"<13>", b":", b""),
        (b"<13>", b"a:", b""),
        (b"<13>", b"a[", b""),
        (b"<13>a[", b"1", b""),
        (b"<", b"1", b">"),
        (b"<13>Nov 27 09:00:00 ", b"a", b""),
        (b"<13>Nov 27 09:00:00 ", b"a:", b""),
        (b"<13>Nov 27 09:00:00 h ", b"a:", b" "),
        (b"<13>Nov 27 09:00:00.", b"1", b""),
        (b"<13>Nov 27 09:00:00 ", b": ", b""),
        (b"<13>1 ", b"-", b""),
        (b"<13>1", b" -", b""),
        (BLANK, b"[", b""),
        (BLANK, b"[a", b""),
        (BLANK, b"[a]", b""),
        (BLANK, b"[a]", b"x"),
        (BLANK, b'[a b="c"]', b"["),
        (BLANK + b"[a", b' b=""', b"]"),
        (BLANK + b"[a", b' b=""', b""),
        (BLANK + b'[a b="', b"x", b""),
        (BLANK + b'[a b="', b"\\", b""),
        (BLANK + b'[a b="', b"\\\\", b'"]'),
        (BLANK + b'[a b="', b'\\"', b'"]'),
        (BLANK + b'[a b="', b'x\\"', b""),
        (BLANK + b'[a b="', b"\\]\xff", b'"]'),
    ],
)
def test_no_message_takes_long(before: bytes, repeated: bytes, after: bytes) -> None:
    """A message of 1 MiB is parsed in linear time, whatever is in it."""
    raw = before + repeated * (MIB // len(repeated)) + after
    start = time.process_time()
    message = syslog(raw)
    assert time.process_time() - start < 2  # seconds of CPU; a quadratic parser takes minutes
    assert message.raw is raw


# -- what a message is ----------------------------------------------------------------------


@pytest.mark.parametrize(("what", "raw", "expected"), VECTORS, ids=[what for what, *_ in VECTORS])
def test_pickles_and_json(what: str, raw: bytes, expected: dict[str, Any]) -> None:
    """A message travels to another process whole, and to another program as JSON."""
    message = syslog(raw, _now=NOW)
    assert pickle.loads(pickle.dumps(message)) == message
    fields = message.as_dict()
    assert json.loads(json.dumps(fields)) == fields
    json.dumps(fields, ensure_ascii=False).encode()  # has no lone surrogates


def test_as_dict_leaves_out_what_is_not_stated() -> None:
    """What is None has no key, and neither have the bytes; the text is always there."""
    assert syslog(b"Use the BFG!").as_dict() == {"format": None, "message": "Use the BFG!"}
    assert syslog(b"").as_dict() == {"format": None, "message": ""}


def test_as_dict_has_all_that_is_stated() -> None:
    """The fields stand in the order of the class."""
    raw = b'<34>1 2026-11-27T10:00:00.5+01:00 h a p m [x y="1" y="\xff"] caf\xc3\xa9 \xff'
    fields = syslog(raw).as_dict()
    assert fields == {
        "format": "rfc5424",
        "facility": "auth",
        "severity": "crit",
        "time": "2026-11-27T10:00:00.500000+01:00",
        "host": "h",
        "app": "a",
        "procid": "p",
        "msgid": "m",
        "structured": {"x": {"y": ["1", "\ufffd"]}},
        "message": "café \ufffd",
    }
    assert [*fields, "raw"] == list(SyslogMessage._fields)


def test_as_dict_says_that_a_time_has_no_zone() -> None:
    """A naive time is not taken for one in UTC by accident."""
    fields = syslog(b"<13>Nov 27 09:00:00 su: x", _now=NOW).as_dict()
    assert (fields["time"], fields["time_zone"]) == ("2026-11-27T09:00:00", False)
    assert "time_zone" not in syslog(b"<13>2026-11-27T09:00:00Z h su: x").as_dict()


def test_a_message_cannot_be_changed() -> None:
    """What was received stays what was received."""
    with pytest.raises(AttributeError):
        syslog(b"x").message = "y"  # type: ignore[misc]


def test_the_module_needs_only_the_standard_library() -> None:
    """It runs by itself, and loads no more of the library than it says."""
    code = (
        "import runpy, sys; before = set(sys.modules); runpy.run_path(sys.argv[1]); "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    command = [sys.executable, "-I", "-c", code, sys.modules[syslog.__module__].__file__ or ""]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert set(loaded.split()) <= sys.stdlib_module_names


# -- real clients ---------------------------------------------------------------------------


@pytest.fixture
def log_socket(address: str) -> Iterator[socket.socket]:
    """Give a bound datagram socket, as /dev/log is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(address)
        bound.settimeout(10)
        yield bound


def run_logger(address: str, *arguments: str) -> None:
    """Send a message with util-linux's logger."""
    subprocess.run(["logger", "--socket", address, *arguments], check=True, timeout=20)


def assert_recent(message: SyslogMessage) -> None:
    """Assert that the time is now: in the zone it states, or in that of this host."""
    assert message.time is not None
    now = datetime.now(UTC) if message.zoned else datetime.now()  # noqa: DTZ005 - naive, too
    assert abs(message.time - now) < timedelta(seconds=60)


def test_python_handler(log_socket: socket.socket, address: str) -> None:
    """SysLogHandler sends a priority and the text, with a NUL behind."""
    handler = logging.handlers.SysLogHandler(address, facility="local3")
    try:
        record = logging.LogRecord(
            "app", logging.ERROR, "", 0, "disk %s: 95 %%, né", ("sda",), None
        )
        handler.emit(record)
    finally:
        handler.close()
    message = syslog(raw := log_socket.recv(MIB))
    assert raw.endswith(b"\0")
    assert (message.format, message.facility, message.severity) == ("rfc3164", "local3", "err")
    assert (message.time, message.host, message.app) == (None, None, None)
    assert message.message == "disk sda: 95 %, né"


@pytest.mark.needs("logger")
@pytest.mark.parametrize("style", [(), ("--rfc3164",), ("--rfc5424",)], ids=str)
def test_logger(log_socket: socket.socket, address: str, style: tuple[str, ...]) -> None:
    """The fields are those that logger was told, in each of its formats."""
    run_logger(address, *style, "-p", "mail.warning", "-t", "tag", "--id=123", "hello wörld")
    message = syslog(log_socket.recv(MIB))
    is_modern = style == ("--rfc5424",)
    assert message.format == ("rfc5424" if is_modern else "rfc3164")
    assert (message.facility, message.severity) == ("mail", "warning")
    assert (message.app, message.procid) == ("tag", "123")
    name = socket.gethostname()
    assert message.host in ((name, name.partition(".")[0]) if style else (None,))
    assert message.message == "hello wörld"
    assert message.zoned is is_modern
    assert_recent(message)


@pytest.mark.needs("logger")
def test_logger_with_structured_data(log_socket: socket.socket, address: str) -> None:
    """Structured data comes out as logger was told it."""
    tiger, lion = r'tiger="hun\"gry"', r'lion="\]"'
    data = ["--sd-id", "zoo@123", "--sd-param", tiger, "--sd-param", lion]
    run_logger(address, "--rfc5424=notq", "--msgid", "ID1", *data, "hello")
    message = syslog(log_socket.recv(MIB))
    assert message.msgid == "ID1"
    assert message.structured == {"zoo@123": {"tiger": ['hun"gry'], "lion": ["]"]}}


@pytest.mark.needs("logger")
def test_receiver(address: str) -> None:
    """A receiver hands out decoded messages, with the bytes beside them."""
    with mpsr.Receiver(address, type="dgram", decode=syslog) as receiver:
        run_logger(address, "--rfc5424", "-t", "tag", "hello")
        batch = receiver.receive_batch(timeout=10)
        (message,) = batch
        assert (message.app, message.message) == ("tag", "hello")
        assert batch.raw == [message.raw]
