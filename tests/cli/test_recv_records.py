"""``mpsr recv --decode log``: records as people read them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
import mpsr.logging
from mpsr.batch import UNKNOWN_PEER, batch_of
from mpsr.cli.records import Records
from mpsr.logging.listening import _records
from tests.eventually import eventually

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def log(cli: Cli) -> None:
    """Send three records, and a message that is none, once a receiver listens."""
    with mpsr.Producer[bytes](cli.address) as producer:
        eventually(lambda: producer.stats().connected, interval=0.01)
    handler = mpsr.logging.Handler(cli.address, label="web", timeout=20)
    logger = logging.Logger("app.db")  # noqa: LOG001 - nobody else is to have it
    logger.addHandler(handler)
    logger.debug("connected", extra={"host": "db 1"})
    logger.warning("slow\n\x1b[31mquery")
    logger.error("failed", exc_info=ValueError("wrong"))
    handler.close()
    with mpsr.Producer[bytes](cli.address) as producer:
        producer.send(b"plain \x1b[0m text")


def shown(cli: Cli, *options: str, env: dict[str, str | None] | None = None) -> tuple[int, bytes]:
    """Return how ``mpsr recv --decode log`` ends after these messages, and its output."""
    with ThreadPoolExecutor(1) as thread:
        logged = thread.submit(log, cli)
        status, out, _ = cli.call(
            "recv", "app.sock", "--decode", "log", "--count", "4", *options, env=env
        )
        logged.result()
    return status, out


def test_records_are_printed_as_people_read_them(cli: Cli) -> None:
    """A line each, what follows is indented, and nothing commands the terminal."""
    status, output = shown(cli, env={"FORCE_COLOR": None})
    lines = [line[24:] if line.startswith("20") else line for line in output.decode().splitlines()]
    who = f"web[{os.getpid()}]:"
    assert status == 0
    assert lines == [
        f'DEBUG    app.db {who} connected host="db 1"',
        f"WARNING  app.db {who} slow",
        "    \\x1b[31mquery",
        f"ERROR    app.db {who} failed",
        "    ValueError: wrong",
        "plain \\x1b[0m text",
    ]


def test_each_millisecond_is_printed_as_it_was(cli: Cli) -> None:
    """Although the nearest float may be less than the number of milliseconds."""

    def send() -> None:
        with mpsr.Producer[bytes](cli.address) as producer:
            for msecs in range(1000):
                time = f"2026-01-02T03:04:05.{msecs:03d}000Z"
                producer.send(json.dumps({"time": time, "level": "INFO", "message": "x"}).encode())

    with ThreadPoolExecutor(1) as thread:
        sent = thread.submit(send)
        _, out, _ = cli.call("recv", "app.sock", "--decode", "log", "--count", "1000")
        sent.result()
    assert [int(line[20:23]) for line in out.splitlines()] == [*range(1000)]


WHOLE: dict[str, Any] = {
    "time": "2026-03-01T12:00:00.123456Z",
    "level": "INFO",
    "levelno": 20,
    "logger": "app",
    "message": "x",
    "process": 7,
    "process_name": "worker",
    "exception": {"traceback": "wrong"},
    "stack": "here",
}
ODD: list[object] = [None, "", "y", 7, 7.5, True, -1, 5000, [], {}, {"traceback": 7}]
ODD += ["2026-03-01T12:00:00", "2026-02-30T12:00:00.5Z", "2026-03-01T12:00:00.5+01:00"]
ODD += ["2026-03-01T12:00:00.1239999+00:00", "20260301T12:00:00.1.123456Z", 1e300, 1772366400.5]


@pytest.mark.parametrize("field", WHOLE)
def test_a_line_shows_what_decode_returns(field: str) -> None:
    """Although no record is made for it: also with a field that is missing or of a wrong type."""
    changed = [WHOLE | {field: value} for value in ODD]
    changed.append({name: value for name, value in WHOLE.items() if name != field})
    for fields in changed:
        if not (isinstance(fields.get("level"), str) and isinstance(fields.get("message"), str)):
            continue  # it is no record
        body = json.dumps(fields).encode()
        record = mpsr.logging.decode(body)
        who = "label" if record.processName is None else record.processName or "-"
        pid = "" if record.process is None else f"[{record.process}]"
        message = record.getMessage()
        lines = [f"{record.levelname:8} {record.name} {who}{pid}: {message}"]
        lines += [f"    {text}" for text in (record.exc_text, record.stack_info) if text]
        shown = Records(b"\n", 0).lines([body], "label").decode()
        time = "-" if shown.startswith("-") else shown[:23]
        assert shown[len(time) + 1 :] == "\n".join([*lines, ""])
        if time != "-":
            assert time == f"{logging.Formatter().formatTime(record)[:19]}.{record.msecs:03.0f}"
        above = Records(b"\n", record.levelno + 1).lines([body], "label")
        assert (above, Records(b"\n", record.levelno).wanted(body)) == (b"", True)


def test_only_a_record_that_is_handed_on_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """To show one, or to leave it out by its level, takes only its fields."""
    made: list[object] = []
    make = logging.getLogRecordFactory()

    def count(*arguments: Any) -> logging.LogRecord:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(logging, "_logRecordFactory", count)
    bodies = [json.dumps(WHOLE).encode()] * 5
    for output in (Records(b"\n", 0), Records(b"\n", logging.ERROR)):
        output.lines(bodies, "")
        assert [*map(output.wanted, bodies), *map(output.item, bodies)]
    batch = batch_of(bodies, UNKNOWN_PEER)
    assert not [*_records(batch, logging.ERROR)]
    assert not made
    assert len([*_records(batch, logging.INFO)]) == len(made) == len(bodies)


SENDER = """
import logging, mpsr.logging, resource, sys
handler = mpsr.logging.Handler(sys.argv[1], on_full="block", timeout=30)
logger = logging.Logger("app")
logger.addHandler(handler)
for number in range(60_000):
    logger.info("request %d took %d ms", number, 7, extra={"host": "db1"})
handler.close()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


@pytest.mark.timing
@pytest.mark.parametrize("options", [(), ("--level", "ERROR"), ("-o", "json")])
def test_receiver_uses_less_cpu_than_its_sender(cli: Cli, options: tuple[str, ...]) -> None:
    """So it keeps up with one sender on two cores, whatever it shows of the records."""
    command = [sys.executable, "-m", "mpsr", "recv", str(cli.address), "--decode", "log"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as receiver:
        assert receiver.stderr is not None
        assert b"listening" in receiver.stderr.readline()
        sender = [sys.executable, "-c", SENDER, str(cli.address)]
        done = subprocess.run(sender, check=True, timeout=40, stdout=subprocess.PIPE, text=True)
        receiver.terminate()
        told = receiver.stderr.read()
        _, _, used = os.wait4(receiver.pid, 0)
        receiver.returncode = 0
    assert b"60000 messages" in told
    assert used.ru_utime + used.ru_stime < float(done.stdout)


def test_level_leaves_out_what_is_below(cli: Cli) -> None:
    """What is no record is shown all the same."""
    output = shown(cli, "--level", "error")[1].decode()
    assert output.count("app.db") == 1
    assert "plain" in output


def test_json_has_the_fields(cli: Cli) -> None:
    """Beside the message, as with other decoders."""
    output = shown(cli, "--level", "30", "-o", "json")[1]
    warning, error, plain = map(json.loads, output.splitlines())
    assert warning["log"]["message"] == "slow\n\x1b[31mquery"
    assert error["log"]["exception"]["type"] == "ValueError"
    assert error["log"] == json.loads(error["body"])
    assert "log" not in plain


@pytest.mark.parametrize(
    ("variable", "coloured"), [("FORCE_COLOR", True), ("NO_COLOR", False), ("X", False)]
)
def test_colours_obey_the_environment(cli: Cli, variable: str, coloured: bool) -> None:
    """A pipe has none, unless they are asked for."""
    assert (b"\x1b[" in shown(cli, env={variable: "1"})[1]) == coloured


@pytest.mark.parametrize(
    "arguments",
    [("--decode", "log", "-o", "hex"), ("--level", "INFO"), ("--decode", "log", "--level", "LOUD")],
)
def test_options_that_make_no_sense_are_refused(cli: Cli, arguments: tuple[str, ...]) -> None:
    """With what to choose instead."""
    status, output, complaint = cli.call("recv", "app.sock", *arguments)
    assert (status, output) == (2, b"")
    assert "Traceback" not in complaint
