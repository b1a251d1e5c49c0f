"""One hostile message stops no command: the next message arrives, and a restart continues."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import pytest

import mpsr
from mpsr.forwarding import MAGIC
from mpsr.wire.frames import HEADER, PREFACE, FrameType, Hello, Reject, decode, encode, frame_size
from tests.cli.conftest import Cli
from tests.eventually import PATIENCE, eventually
from tests.outputs.test_values import in_arrow, in_parquet
from tests.sinks.conftest import Funnel, OwnFunnel

HONEST: Final = b"honest"
PEER: Final = '"peer":{"pid":1,"uid":0,"gid":0},"producer":null'


def forwarded(origin: str, body: bytes = b"x") -> bytes:
    return MAGIC + len(origin).to_bytes(4, "little") + origin.encode() + body


ORIGINS: Final = {
    "deep": '{"a":' + "[" * 1500 + "]" * 1500 + "}",
    "half a pair": '{"a":"\\ud800"}',
    "half a pair, else complete": f'{{"host":"\\ud800","time":null,{PEER},"seq":1}}',
    "infinite": f'{{"host":"h","time":null,{PEER},"seq":Infinity}}',
    "unsigned": f'{{"host":"h","time":null,{PEER},"seq":{2**63}}}',
    "many digits": f'{{"host":"h","time":null,{PEER},"seq":{"9" * 3000}}}',
}
POISON: Final = [forwarded(origin) for origin in ORIGINS.values()]


@pytest.mark.parametrize("output", ["text", "json"])
def test_origin_that_does_not_fit_leaves_the_message_as_it_is(
    funnels: Callable[..., Funnel], output: str
) -> None:
    """The command prints what follows each, and the next start with its journal continues."""
    funnel = funnels().start("-o", output)
    for number, origin in enumerate(ORIGINS, 1):
        funnel.send(forwarded(ORIGINS[origin]), HONEST)  # its own batch: a producer of its own
        eventually(partial(printed, funnel, HONEST, number))
    assert funnel.end() == 0, funnel.told
    funnel.start("-o", output)
    funnel.send(b"after the restart")
    eventually(partial(printed, funnel, b"after the restart", 1))
    assert funnel.end() == 0, funnel.told
    out = funnel.out.read_bytes()
    assert out.count(HONEST) == len(ORIGINS)
    if output == "json":
        seqs = [msgspec.json.decode(line)["seq"] for line in out.splitlines()]
        assert seqs == [0, 1] * len(ORIGINS) + [0]
    assert "bug" not in funnel.told
    assert "defect" not in funnel.told


def printed(funnel: Funnel, text: bytes, times: int) -> bool:
    """Tell whether a funnel has printed this text exactly so often."""
    return funnel.out.read_bytes().count(text) == times


def test_every_sink_keeps_messages_with_bad_origins(
    own_funnels: Callable[..., OwnFunnel], tmp_path: Path
) -> None:
    """They are kept as they are, and so is the honest message after them."""
    funnel = own_funnels(
        f"sqlite:{tmp_path}/out.sqlite",
        f"duckdb:{tmp_path}/out.duckdb",
        f"parquet:{tmp_path}/parquet/out",
        f"arrow:{tmp_path}/arrow/out",
        f"file:{tmp_path}/out.jsonl",
        f"exec:cat >>{tmp_path}/out.exec?format=json",
    ).start()
    for message in [*POISON, HONEST]:  # each is the first of a batch: a batch has one sender
        funnel.send(message)
    funnel.end()
    assert "tried again" not in funnel.told
    wanted = [*POISON, HONEST]
    with closing(sqlite3.connect(tmp_path / "out.sqlite")) as database:
        rows = database.execute("SELECT body FROM messages ORDER BY position").fetchall()
    database.close()
    assert [body for (body,) in rows] == wanted
    with duckdb.connect(str(tmp_path / "out.duckdb")) as table:
        rows = table.execute("SELECT body FROM messages ORDER BY position").fetchall()
    assert [body for (body,) in rows] == wanted
    assert [row["body"] for row in in_parquet(str(tmp_path / "parquet"))] == wanted
    assert [row["body"] for row in in_arrow(str(tmp_path / "arrow"))] == wanted
    for name in ("out.jsonl", "out.exec"):
        lines = (tmp_path / name).read_bytes().splitlines()
        assert [msgspec.json.decode(line)["position"] for line in lines] == [
            *range(1, len(wanted) + 1)
        ]


RECORDS: Final = [
    b'{"level":"INFO","message":"\xed\xa0\x80"}',
    '{"level":"INFO","message":"x"}'.encode("utf-16"),
    '{"level":"INFO","message":"x"}'.encode("utf-16-le"),
    b'{"level":"INFO","message":"x","extra":{"a":Infinity,"b":NaN,"c":1e999}}',
    b'{"level":"INFO","message":"x","levelno":%s}' % (b"9" * 4000),
    b'{"level":"INFO","message":"x","a":%s}' % (b"[" * 100_000 + b"]" * 100_000),
    b'{"level":"INFO","message":"x","time":1e300,"logger":"\\u001b[2J"}',
]


@pytest.mark.parametrize("output", ["text", "json"])
def test_log_records_that_are_none_are_shown_as_text(
    funnels: Callable[..., Funnel], cli: Cli, output: str
) -> None:
    """``recv --decode log`` and ``log --decode log`` show every body, and strict JSON."""
    funnel = funnels().start("--decode", "log", "-o", output)
    funnel.send(*RECORDS, b'{"level":"INFO","message":"honest"}')
    eventually(lambda: HONEST in funnel.out.read_bytes())
    assert funnel.end() == 0, funnel.told
    form = "short" if output == "text" else output
    status, shown, told = cli.call("log", str(funnel.journal), "--decode", "log", "-o", form)
    assert (status, told) == (0, "")
    for out in (funnel.out.read_bytes(), shown):
        lines = out.splitlines()
        assert HONEST in lines[-1]
        if output == "json":
            assert len([msgspec.json.decode(line) for line in lines]) == len(RECORDS) + 1
        else:
            assert b"\x1b" not in out


def test_number_of_more_than_63_bits_is_rejected(funnels: Callable[..., Funnel]) -> None:
    """Only its sender is disconnected; its message is neither printed nor in the journal."""
    funnel = funnels().start()
    too_large = (2**63).to_bytes(8, "little")
    frames = {
        FrameType.HELLO: bytes(16) + too_large,
        FrameType.LOST: bytes(8) + too_large + b"\1\0\0\0",
        FrameType.BATCH: too_large + b"\1" + bytes(11) + b"\1\0\0\0x",
    }
    for number, (kind, payload) in enumerate(frames.items(), 1):
        begun = PREFACE if kind is FrameType.HELLO else PREFACE + encode(Hello(bytes(16), 0, ""))
        last = answered(funnel, begun + HEADER.pack(len(payload), kind, 0, 0) + payload)
        assert isinstance(last, Reject)
        assert last.code == 2
        funnel.send(HONEST)
        eventually(partial(printed, funnel, HONEST + b"\n", number))
    assert funnel.end() == 0, funnel.told
    assert funnel.out.read_bytes() == (HONEST + b"\n") * len(frames)


def answered(funnel: Funnel, data: bytes) -> object:
    """Send bytes; return the last frame that the receiver sends before it disconnects."""
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.settimeout(PATIENCE)
        hostile.connect(str(funnel.address))
        hostile.sendall(data)
        answer = b""
        while data := hostile.recv(4096):
            answer += data
    while len(answer) > frame_size(answer):
        answer = answer[frame_size(answer) :]
    return decode(answer[4], answer[HEADER.size :])


def test_label_commands_no_terminal(funnels: Callable[..., Funnel], cli: Cli) -> None:
    """A label with control characters is shown with escapes wherever it is printed."""
    funnel = funnels().start("--decode", "log")
    producer = mpsr.Producer(
        funnel.address, label="\x1b]0;owned\x07\u202e\n", buffer=1, on_full="drop_newest"
    )
    with producer:
        producer.send(json.dumps({"level": "INFO", "message": "\x1b[2J"}).encode())
        producer.flush(PATIENCE)
        looks = [("status", str(funnel.address)), ("log", str(funnel.journal))]
        shown = [cli.call(*each)[1] for each in looks]
    eventually(lambda: b"INFO" in funnel.out.read_bytes())
    assert funnel.end() == 0, funnel.told
    for out in [*shown, funnel.out.read_bytes(), funnel.told.encode()]:
        assert all(line.isprintable() for line in out.decode().splitlines()), out
    assert all(b"owned" in out for out in shown)
