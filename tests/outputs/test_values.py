"""Every output can write every value that the protocol accepts, and the message after it."""

from __future__ import annotations

import socket
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import mpsr
from mpsr import observe
from mpsr.batch import Batch
from mpsr.cli import look
from mpsr.cli.tap import _json as tap_json
from mpsr.cli.tap import _text as tap_text
from mpsr.cli.top.snapshot import snapshot
from mpsr.forwarding import forwarded
from mpsr.json_format import to_json
from mpsr.limits import MAX_INTEGER
from mpsr.metrics import Collector
from mpsr.sinks.table import sink
from tests.eventually import PATIENCE, eventually
from tests.outputs.everywhere import bodies_of, check, check_json, check_readable
from tests.outputs.sending import HONEST, Sent, frames, received
from tests.outputs.values import sent
from tests.traffic import receiving

QUICK: Final = 50  # examples in a second
FEW: Final = 8  # of what takes a database or a process
MANY: Final = 3000

Row = dict[str, Any]


def examples(count: int) -> Callable[[Any], Any]:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow)


@examples(QUICK)
@given(sent())
def test_formats_write_every_value(values: Sent) -> None:
    """``recv``, ``log`` and ``tap`` print, and funnels and streams carry, whatever was accepted."""
    check(received(values))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@examples(MANY)
@given(sent())
def test_formats_write_many_values(values: Sent) -> None:
    check(received(values))


# -- sinks ----------------------------------------------------------------------------------------


def expected(batches: list[Batch[bytes]]) -> list[Row]:
    """Return what each sink has to keep of each message, and of each loss without a message."""
    rows: list[Row] = []
    for batch in batches:
        lost, bodies = batch.lost, bodies_of([batch])
        for index, body in enumerate(bodies or [None]):
            origin = None
            if body is not None and bodies != batch.raw:
                found = forwarded(batch.raw[index]).origin
                origin = None if found is None else to_json(found)
            position = batch.position
            if position is not None:
                position += index + 1 - (len(bodies) or 1)
            rows.append(
                {
                    "pid": batch.peer.pid,
                    "uid": batch.peer.uid,
                    "gid": batch.peer.gid,
                    "label": None if batch.producer is None else batch.producer.label,
                    "seq": batch.first_seq + index,
                    "position": position,
                    "lost": lost,
                    "origin": origin,
                    "body": body,
                }
            )
            lost = 0
    return rows


def in_sqlite(directory: str) -> list[Row]:
    with closing(sqlite3.connect(f"{directory}/out")) as database:
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("SELECT * FROM messages ORDER BY rowid")]
    database.close()
    return found


def in_duckdb(directory: str) -> list[Row]:
    with duckdb.connect(f"{directory}/out") as database:
        found = database.execute("SELECT * FROM messages ORDER BY rowid")
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def in_parquet(directory: str) -> list[Row]:
    return in_tables(directory, pq.ParquetFile)


def in_arrow(directory: str) -> list[Row]:
    return in_tables(directory, pa.ipc.open_file)


def in_tables(directory: str, opened: Callable[[Path], Any]) -> list[Row]:
    rows: list[Row] = []
    for path in sorted(Path(directory, "out").rglob("[!.]*.[pa]*")):
        file = opened(path)
        table = file.read() if hasattr(file, "read") else file.read_all()
        rows += [{**row, "seq": row["sequence"]} for row in table.to_pylist()]
    return rows


KEEPING: Final = {
    "sqlite": in_sqlite,
    "duckdb": in_duckdb,
    "parquet": in_parquet,
    "arrow": in_arrow,
}


def check_sink(scheme: str, values: Sent) -> None:
    batches = received(values)
    with tempfile.TemporaryDirectory() as directory:
        made = sink(f"{scheme}:{directory}/out").make()
        made.open("")
        try:
            for batch in batches:
                made.write(batch)
            made.commit()
        finally:
            made.close()
        wanted = expected(batches)
        found = [{name: row[name] for name in wanted[0]} for row in KEEPING[scheme](directory)]
    assert found == wanted
    assert found[-1]["body"] == HONEST


@pytest.mark.parametrize("scheme", KEEPING)
@examples(FEW)
@given(values=sent())
def test_tables_keep_every_value(scheme: str, values: Sent) -> None:
    """The table has each accepted message as it was sent."""
    check_sink(scheme, values)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scheme", KEEPING)
@examples(300)
@given(values=sent())
def test_tables_keep_many_values(scheme: str, values: Sent) -> None:
    check_sink(scheme, values)


@pytest.mark.parametrize("target", ["file:{}/out", "exec:cat >>{}/out"])
@pytest.mark.parametrize("form", ["json", "lines", "length", "raw"])
@examples(2)
@given(values=sent())
def test_files_and_programs_get_every_value(target: str, form: str, values: Sent) -> None:
    """Each record format, in a file and on the standard input of a program."""
    batches = received(values)
    with tempfile.TemporaryDirectory() as directory:
        made = sink(f"{target.format(directory)}?format={form}").make()
        made.open("")
        for batch in batches:
            made.write(batch)
        made.commit()
        made.close()
        out = Path(directory, "out").read_bytes()
    if form == "json":
        check_json(out)
        rows = [msgspec.json.decode(line) for line in out.splitlines()]
        assert [row["seq"] for row in rows] == [row["seq"] for row in expected(batches)]
        assert rows[-1]["body"] == HONEST.decode()
    else:
        end = b"\n" if form == "lines" else b""
        assert out.endswith(HONEST + end)
        extra = {"raw": 0, "lines": 1, "length": 4}[form]
        bodies = bodies_of(batches)
        assert len(out) == sum(map(len, bodies)) + extra * len(bodies)


# -- what observes a receiver ---------------------------------------------------------------------


def write(address: str, data: bytes) -> socket.socket:
    """Connect as a producer that writes all at once; its connection stays open."""
    producer = socket.socket(socket.AF_UNIX)
    producer.connect(address)
    producer.sendall(data)
    return producer


def check_observed(address: str, receiver: mpsr.Receiver) -> observe.Status:
    """Show a receiver with each observing command, and return its status."""
    seen = observe.status(address, timeout=PATIENCE)
    check_readable("\n".join(look.text(seen)).encode())
    check_readable(snapshot([seen], width=200, sort="messages", backwards=False, text="").encode())
    registry = CollectorRegistry()
    registry.register(Collector(receiver))
    assert list(text_string_to_metric_families(generate_latest(registry).decode()))
    return seen


@examples(FEW)
@given(values=sent())
def test_observers_show_every_value(values: Sent) -> None:
    """``status``, ``top``, ``tap`` and the metrics of a receiver show whatever was accepted."""
    with tempfile.TemporaryDirectory() as directory:
        address = f"{directory}/app.sock"
        with receiving(address) as receiver, observe.tap(address, rate=1000) as samples:
            assert next(iter(samples)) is None  # its first status: from now on it samples
            with write(address, frames(values)):
                shown = next(each for each in samples if each is not None)
                check_json(tap_json(shown))
                check_readable(tap_text(shown))
                messages = 1 + sum(map(len, values.groups))
                eventually(lambda: receiver.stats().messages == messages)
                seen = check_observed(address, receiver)
    assert seen["producers"][0]["label"] == values.label
    assert seen["stats"]["lost"] == values.lost


def test_losses_of_many_producers_stay_within_64_bits(address: str) -> None:
    """Each producer may report nearly 2**63 losses; their sum in a status is at most 2**63 - 1."""
    values = Sent("", 0, MAX_INTEGER - 1, [], mpsr.Peer(None, None, None), 0, None)
    with receiving(address) as receiver:
        with (
            write(address, frames(values, bytes(16))),
            write(address, frames(values, b"\1" * 16)),
        ):
            eventually(lambda: receiver.stats().messages == 2)
            assert check_observed(address, receiver)["stats"]["lost"] == MAX_INTEGER
