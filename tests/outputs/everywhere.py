"""Give batches to every output that needs no file, and check what each writes."""

from __future__ import annotations

import logging
from email.parser import BytesParser
from typing import Any, Final

import msgspec

from mpsr.batch import Batch
from mpsr.cli.formats import FORMATS, format_named
from mpsr.cli.log import _kept, _streamed
from mpsr.cli.parts import Part, form_of
from mpsr.cli.records import Records
from mpsr.cli.tap import _json, _text
from mpsr.forwarding import MAGIC, forwarded, wrapped
from mpsr.limits import MAX_INTEGER
from mpsr.logging import records
from mpsr.observe import Sample
from mpsr.sinks.nats import layout
from mpsr.sinks.nats.reader import StreamMessage
from mpsr.sinks.records import RECORDS
from mpsr.store.records import Entry

HONEST: Final = b"honest"  # the message that has to arrive after all others
_formatter: Final = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(levelno)d %(message)s")


def check(batches: list[Batch[bytes]]) -> None:
    """Fail if an output cannot write the batches, of which the last ends with HONEST."""
    check_formats(batches)
    check_records_of_files(batches)
    check_journal_log(batches)
    check_funnel(batches)
    check_stream(batches)
    check_tap(batches)
    check_log_records(batches)


def check_formats(batches: list[Batch[bytes]]) -> None:
    """Check ``mpsr recv``, in each format and with each decoder."""
    for name in FORMATS:
        form = format_named(name, b"\n")
        out = b"".join(form(batch, len(batch)) for batch in batches)
        match name:
            case "json":
                check_json(out)
            case "text":
                assert out == b"".join(body + b"\n" for body in bodies_of(batches))
            case "hex":
                assert out == b"".join(body.hex().encode() + b"\n" for body in bodies_of(batches))
            case "raw":
                assert out == b"".join(bodies_of(batches))
    for decoder in ("log", "syslog"):
        form = format_named("json", b"\n", decoder)
        check_json(b"".join(form(batch, len(batch)) for batch in batches))
    form = format_named("text", b"\n", "log", logging.DEBUG)
    check_readable(b"".join(form(batch, len(batch)) for batch in batches))


def bodies_of(batches: list[Batch[bytes]]) -> list[bytes]:
    """Return the bodies without origins, which a batch has only if its first message has one."""
    found: list[bytes] = []
    for batch in batches:
        apart = bool(batch) and batch.raw[0].startswith(MAGIC)
        found += [forwarded(body).body if apart else body for body in batch.raw]
    return found


def check_records_of_files(batches: list[Batch[bytes]]) -> None:
    """Check the record formats of ``file:`` and ``exec:``."""
    for name, form in RECORDS.items():
        out = b"".join(map(form, batches))
        if name == "json":
            check_json(out)
        else:
            bodies = bodies_of(batches)
            extra = {"raw": 0, "lines": 1, "length": 4}[name]
            assert out.endswith(HONEST + b"\n" * (name == "lines"))
            assert len(out) == sum(map(len, bodies)) + extra * len(bodies)


def check_journal_log(batches: list[Batch[bytes]]) -> None:
    """Check ``mpsr log`` of a journal, in each format and with each decoder."""
    for output in ("short", *FORMATS):
        for decoder in (None, "log", "syslog"):
            shown = Records(b"\n", 0) if decoder == "log" else None
            form = form_of(output, decoder, shown)
            parts = [_part(batch) for batch in batches]
            if shown is not None:
                parts = [kept for part in parts for kept in _kept(part, shown.wanted)]
            out = b"".join(map(form, parts))
            if output == "json":
                check_json(out)
            elif output == "short" or shown is not None:
                check_readable(out)


def _part(batch: Batch[bytes]) -> Part:
    entry = Entry(
        b"-",
        len(batch),
        batch.nbytes,
        batch.first_seq,
        batch.lost,
        batch.peer,
        batch.producer,
        received_at=batch.received_at or 0,
    )
    first = 1 if batch.position is None else batch.position - (len(batch) or 1) + 1
    return Part(first, batch.first_seq, batch.lost, batch.raw, entry)


def check_funnel(batches: list[Batch[bytes]]) -> None:
    """Check that what ``mpsr:`` sends has an origin that the next receiver finds."""
    for batch in batches:
        for body, sent in zip(batch.raw, wrapped(batch, "host"), strict=True):
            found = forwarded(sent)
            if sent is not body:
                assert found.body == body
                assert found.origin is not None


def check_stream(batches: list[Batch[bytes]]) -> None:
    """Check what ``nats:`` publishes, as ``mpsr log`` reads it."""
    for batch in batches:
        head = layout.who(batch, "h\u00f6st")
        for seq, (body, claim) in enumerate(layout.apart(batch.raw), batch.first_seq):
            lines = f"{head}{layout.SEQ}: {seq}\r\n{layout.LOST}: {batch.lost}\r\n{claim}\r\n"
            headers = dict(BytesParser().parsebytes(lines.encode("ascii")).items())
            stored = layout.unpack(headers, body)
            assert (stored.bodies, stored.first_seq, stored.lost) == ([body], seq, batch.lost)
            assert (stored.producer, stored.host) == (batch.producer, "h\u00f6st")
            check_streamed(stored)


def check_streamed(stored: layout.Stored) -> None:
    """Check ``mpsr log nats://``, in both forms."""
    parts = list(_streamed(StreamMessage(MAX_INTEGER, "a.b", stored)))
    check_json(b"".join(map(form_of("json", "log", Records(b"\n", 0)), parts)))
    check_readable(b"".join(map(form_of("short", None, None), parts)))


def check_tap(batches: list[Batch[bytes]]) -> None:
    """Check ``mpsr tap``."""
    for batch in batches:
        for seq, body in enumerate(batch.raw, batch.first_seq):
            who = batch.peer, batch.producer
            sample = Sample(0.0, *who, batch.address, seq, len(body), body, MAX_INTEGER)
            check_json(_json(sample))
            check_readable(_text(sample))


def check_log_records(batches: list[Batch[bytes]]) -> None:
    """Check ``mpsr.logging.records``, formatted as a handler does."""
    found = [record for batch in batches for record in records(batch)]
    for record in found:
        _formatter.format(record)
        assert 0 <= record.levelno <= 1000
    assert found[-1].getMessage() == HONEST.decode()


def check_json(out: bytes) -> None:
    """Check that each line is an object that a strict decoder takes."""
    lines = out.split(b"\n")
    assert lines.pop() == b""
    for line in lines:
        check_numbers(msgspec.json.decode(line, type=dict[str, Any]))


def check_numbers(value: object) -> None:
    """Check that integers fit in signed 64 bits."""
    if isinstance(value, int):
        assert -MAX_INTEGER - 1 <= value <= MAX_INTEGER
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            check_numbers(each)


def check_readable(out: bytes) -> None:
    """Check that lines for a terminal are UTF-8 without control characters."""
    for line in out.decode().split("\n"):
        assert line.isprintable(), line
