"""Parquet and Arrow files are whole or absent, and hold each message once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import mpsr
from mpsr import Batch, Peer, ProducerIdentity
from mpsr.batch import batch_of
from mpsr.forwarding import wrapped
from mpsr.sinks.arrow import sink as arrow_sink
from mpsr.sinks.dataset import DatasetSink
from mpsr.sinks.parquet import sink as parquet_sink
from tests.chance import Chance
from tests.eventually import eventually
from tests.sinks.conftest import Funnel, OwnFunnel, send_while_killed

JOURNAL = "ab" * 16
NOON = 1_767_268_800_000_000_000  # 2026-01-01 12:00 UTC
HOUR = 3600 * 10**9
SINKS = pytest.mark.parametrize(
    ("make", "ending"), [(parquet_sink, "parquet"), (arrow_sink, "arrow")]
)


def batch(position: int, *bodies: bytes, at: int = NOON, lost: int = 0) -> Batch:
    made: Batch = batch_of(
        list(bodies),
        Peer(7, 1000, 100),
        producer=ProducerIdentity(b"p" * 16, "web"),
        first_seq=position - len(bodies),
        lost=lost,
        position=position,
    )
    made.received_at = at
    return made


def rows_of(directory: Path, ending: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for file in sorted(directory.rglob(f"*.{ending}")):
        kind = "ipc" if ending == "arrow" else "parquet"
        found += ds.dataset(file, format=kind).to_table().to_pylist()
    return found


@SINKS
def test_columns_say_what_is_known_of_each_message(
    make: Callable[[str], DatasetSink], ending: str, tmp_path: Path
) -> None:
    sink = make(f"{tmp_path}?partition=none")
    assert sink.open(JOURNAL) == 0
    sink.write(batch(2, b"one", b"\xfftwo", lost=3))
    sink.write(batch(3, b"", lost=0))
    sink.commit()
    sink.close()
    first, second, third = rows_of(tmp_path, ending)
    time = first.pop("time")
    assert str(time) == "2026-01-01 12:00:00+00:00"
    assert first == {
        "host": os.uname().nodename,
        "pid": 7,
        "uid": 1000,
        "gid": 100,
        "producer": "70" * 16,
        "label": "web",
        "sequence": 0,
        "position": 1,
        "lost": 3,
        "origin": None,
        "body": b"one",
    }
    assert (second["sequence"], second["position"], second["lost"]) == (1, 2, 0)
    assert (second["body"], third["body"], third["position"]) == (b"\xfftwo", b"", 3)


@SINKS
def test_loss_that_stands_alone_is_a_row_without_a_body(
    make: Callable[[str], DatasetSink], ending: str, tmp_path: Path
) -> None:
    sink = make(str(tmp_path))
    sink.open(JOURNAL)
    sink.write(batch(1, lost=5))
    sink.commit()
    sink.close()
    (row,) = rows_of(tmp_path, ending)
    assert (row["lost"], row["body"], row["position"]) == (5, None, 1)


@SINKS
def test_origin_of_a_forwarded_message_has_a_column(
    make: Callable[[str], DatasetSink], ending: str, tmp_path: Path
) -> None:
    sink = make(str(tmp_path))
    sink.open(JOURNAL)
    sink.write(batch(1, b"direct"))
    (passed_on,) = wrapped(batch(1, b"passed on"), "far")
    assert passed_on is not None
    sink.write(batch(2, passed_on))
    sink.write(batch(3, b"direct"))
    sink.commit()
    sink.close()
    rows = rows_of(tmp_path, ending)
    assert [row["body"] for row in rows] == [b"direct", b"passed on", b"direct"]
    assert '"host":"far"' in str(rows[1]["origin"])
    assert rows[0]["origin"] is rows[2]["origin"] is None


@SINKS
def test_files_stand_in_the_folder_of_their_hour(
    make: Callable[[str], DatasetSink], ending: str, tmp_path: Path
) -> None:
    """A file ends where the hour does, also within one commit."""
    sink = make(str(tmp_path))
    sink.open(JOURNAL)
    sink.write(batch(1, b"a"))
    sink.write(batch(2, b"b", at=NOON + HOUR))
    sink.write(batch(3, b"c", at=NOON + HOUR))
    sink.commit()
    sink.close()
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(f"*.{ending}"))
    assert files == [
        f"date=2026-01-01/hour=12/{JOURNAL}-{1:020}-{1:020}.{ending}",
        f"date=2026-01-01/hour=13/{JOURNAL}-{2:020}-{3:020}.{ending}",
    ]


@SINKS
def test_what_was_not_committed_is_no_file(
    make: Callable[[str], DatasetSink], ending: str, tmp_path: Path
) -> None:
    """Neither after a close, nor where a crash has left one unfinished."""
    sink = make(str(tmp_path))
    sink.open(JOURNAL)
    sink.write(batch(2, *[b"x" * 10_000_000] * 2))  # enough to be written before the commit
    assert list(tmp_path.rglob(".*.tmp"))
    sink.close()
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / f".{JOURNAL}-1.{ending}.tmp").write_bytes(b"half")
    again = make(str(tmp_path))
    assert again.open(JOURNAL) == 0
    assert not list(tmp_path.rglob("*.tmp"))
    assert rows_of(tmp_path, ending) == []
    again.close()


def test_position_is_that_of_the_newest_file_or_of_the_mark(tmp_path: Path) -> None:
    """A crash may come between the two; and files may be moved away."""
    sink = parquet_sink(str(tmp_path))
    sink.open(JOURNAL)
    sink.write(batch(3, b"a", b"b", b"c"))
    sink.commit()
    mark = (tmp_path / ".position").read_bytes()
    sink.write(batch(4, b"d"))
    sink.commit()
    sink.close()

    def position(journal: str = JOURNAL) -> int | None:
        again = parquet_sink(str(tmp_path))
        try:
            return again.open(journal)
        finally:
            again.close()

    assert position() == 4
    assert position("cd" * 16) == 0  # of another journal nothing is there
    newer = (tmp_path / ".position").read_bytes()
    (tmp_path / ".position").write_bytes(mark)
    assert position() == 4
    (tmp_path / ".position").write_bytes(newer)
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    assert position() == 4


def test_two_may_not_write_to_one_directory(tmp_path: Path) -> None:
    first, second = parquet_sink(str(tmp_path)), parquet_sink(str(tmp_path))
    first.open(JOURNAL)
    with pytest.raises(mpsr.SinkError, match="another process has"):
        second.open(JOURNAL)
    second.close()
    first.close()


@pytest.mark.parametrize(
    ("count", "kills"), [(6_000, 2), pytest.param(30_000, 15, marks=pytest.mark.soak)]
)
def test_killed_funnel_writes_each_message_once(
    funnels: Callable[..., Funnel], tmp_path: Path, chance: Chance, count: int, kills: int
) -> None:
    """Read back by DuckDB and polars, which share no code with the writer."""
    options = "every=100ms&size=100K"
    funnel = funnels(f"parquet:parquet?{options}", f"arrow:arrow?{options}").start()
    sent = send_while_killed(chance, funnel, count, kills)
    assert not list(tmp_path.rglob("*.tmp"))
    for ending in ("parquet", "arrow"):
        assert [row["body"] for row in rows_of(tmp_path / ending, ending)] == sent
    where = f"{tmp_path}/parquet/**/*.parquet"
    query = f"SELECT body FROM '{where}' ORDER BY position"
    assert [body for (body,) in duckdb.execute(query).fetchall()] == sent
    frame = pl.scan_parquet(where).sort("position").select("body").collect()
    assert frame["body"].to_list() == sent


@pytest.mark.parametrize("files", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_file_is_whole_as_soon_as_it_is_seen(
    funnels: Callable[..., Funnel], tmp_path: Path, files: int
) -> None:
    """Read while it is written to, under load."""
    funnel = funnels("parquet:out?every=50ms").start()
    with mpsr.Producer(funnel.address) as producer:
        seen: set[Path] = set()
        while len(seen) < files:
            producer.send_many([b"x" * 100] * 1000)
            for file in set((tmp_path / "out").rglob("*.parquet")) - seen:
                assert pq.read_table(file, partitioning=None).num_rows > 0
                seen.add(file)
        producer.flush(30)
    assert funnel.end() == 0


def test_missing_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from mpsr.cli.entry import run\n"
        f"sys.exit(run(['recv', {str(tmp_path / 's')!r}, '--to', 'parquet:out']))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "pip install 'mpsr[arrow]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_failing_directory_is_told_and_tried_again(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """A file in the place of a parent directory; the messages wait in the journal."""
    (tmp_path / "mnt").write_text("in the way")
    funnel = own_funnels("parquet:mnt/out?every=50ms").start()
    funnel.send(b"one")
    funnel.await_word("parquet:mnt/out")
    (tmp_path / "mnt").unlink()
    out = tmp_path / "mnt" / "out"
    eventually(lambda: list(out.rglob("*.parquet")) != [])
    funnel.end()
    assert [row["body"] for row in rows_of(out, "parquet")] == [b"one"]


def test_tables_have_the_types_that_the_page_names(tmp_path: Path) -> None:
    sink = parquet_sink(f"{tmp_path}?partition=none&compress=zstd")
    sink.open(JOURNAL)
    sink.write(batch(1, b"a"))
    sink.commit()
    sink.close()
    (file,) = tmp_path.glob("*.parquet")
    schema = pq.read_schema(file)
    assert schema.field("body").type == pa.binary()
    assert schema.field("time").type == pa.timestamp("us", tz="UTC")
    assert pq.ParquetFile(file).metadata.row_group(0).column(11).compression == "ZSTD"


@pytest.mark.needs("chattr")
def test_unfinished_file_that_cannot_be_removed_stops_no_delivery(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path, frozen: Callable[[Path, str], None]
) -> None:
    left = tmp_path / "events" / ".old.parquet.tmp"
    left.parent.mkdir()
    left.touch()
    frozen(left, "i")
    funnel = own_funnels("parquet:events?partition=none").start()
    funnel.send(b"one")
    funnel.end()
    assert funnel.told.count(f"cannot remove {left}: Operation not permitted") == 1
    assert len([*left.parent.glob("*.parquet")]) == 1
