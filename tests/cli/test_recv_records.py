"""``mpsr recv --decode log``: records as people read them."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import mpsr
import mpsr.logging
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
