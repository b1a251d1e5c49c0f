"""One hostile message stops no command: the next message arrives, and a restart continues."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import pytest

import mpsr
from mpsr.forwarding import MAGIC
from mpsr.wire.frames import HEADER, PREFACE, FrameType, Hello, Reject, decode, encode, frame_size
from tests.eventually import PATIENCE, eventually
from tests.outputs.test_values import in_arrow, in_parquet
from tests.sinks.conftest import Funnel

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
@pytest.mark.parametrize("origin", ORIGINS)
def test_origin_that_does_not_fit_leaves_the_message_as_it_is(
    funnels: Callable[..., Funnel], output: str, origin: str
) -> None:
    """The command prints what follows, and the next start with its journal continues."""
    funnel = funnels().start("-o", output)
    funnel.send(forwarded(ORIGINS[origin]), HONEST)
    eventually(lambda: HONEST in funnel.out.read_bytes())
    assert funnel.end() == 0, funnel.told
    funnel.start("-o", output)
    funnel.send(b"after the restart")
    eventually(lambda: b"after the restart" in funnel.out.read_bytes())
    assert funnel.end() == 0, funnel.told
    out = funnel.out.read_bytes()
    assert out.count(HONEST) == 1
    if output == "json":
        assert [msgspec.json.decode(line)["seq"] for line in out.splitlines()] == [0, 1, 0]
    assert "bug" not in funnel.told
    assert "defect" not in funnel.told


def test_every_sink_keeps_messages_with_bad_origins(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """They are kept as they are, and so is the honest message after them."""
    funnel = funnels(
        f"sqlite:{tmp_path}/out.sqlite",
        f"duckdb:{tmp_path}/out.duckdb",
        f"parquet:{tmp_path}/parquet/out",
        f"arrow:{tmp_path}/arrow/out",
        f"file:{tmp_path}/out.jsonl",
        f"exec:cat >>{tmp_path}/out.exec?format=json",
    ).start()
    for message in [*POISON, HONEST]:  # each is the first of a batch: a batch has one sender
        funnel.send(message)
    assert funnel.end() == 0, funnel.told
    assert "tried again" not in funnel.told
    wanted = [*POISON, HONEST]
    with sqlite3.connect(tmp_path / "out.sqlite") as database:
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
    funnels: Callable[..., Funnel], output: str
) -> None:
    """``recv --decode log`` and ``log --decode log`` show every body, and strict JSON."""
    funnel = funnels().start("--decode", "log", "-o", output)
    funnel.send(*RECORDS, b'{"level":"INFO","message":"honest"}')
    eventually(lambda: HONEST in funnel.out.read_bytes())
    assert funnel.end() == 0, funnel.told
    form = "short" if output == "text" else output
    command = [sys.executable, "-m", "mpsr", "log", str(funnel.journal), "--decode", "log"]
    shown = subprocess.run([*command, "-o", form], check=True, capture_output=True).stdout
    for out in (funnel.out.read_bytes(), shown):
        lines = out.splitlines()
        assert HONEST in lines[-1]
        if output == "json":
            assert len([msgspec.json.decode(line) for line in lines]) == len(RECORDS) + 1
        else:
            assert b"\x1b" not in out


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (FrameType.HELLO, bytes(16) + (2**63).to_bytes(8, "little")),
        (FrameType.LOST, bytes(8) + (2**63).to_bytes(8, "little") + b"\1\0\0\0"),
        (FrameType.BATCH, (2**63).to_bytes(8, "little") + b"\1" + bytes(11) + b"\1\0\0\0x"),
    ],
)
def test_number_of_more_than_63_bits_is_rejected(
    funnels: Callable[..., Funnel], kind: FrameType, payload: bytes
) -> None:
    """Only its sender is disconnected; its message is neither printed nor in the journal."""
    funnel = funnels().start()
    begun = PREFACE if kind is FrameType.HELLO else PREFACE + encode(Hello(bytes(16), 0, ""))
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.settimeout(PATIENCE)
        hostile.connect(str(funnel.address))
        hostile.sendall(begun + HEADER.pack(len(payload), kind, 0, 0) + payload)
        answer = b""
        while data := hostile.recv(4096):
            answer += data
    while len(answer) > frame_size(answer):
        answer = answer[frame_size(answer) :]
    last = decode(answer[4], answer[HEADER.size :])
    assert isinstance(last, Reject)
    assert last.code == 2
    funnel.send(HONEST)
    eventually(lambda: funnel.out.read_bytes() == HONEST + b"\n")
    assert funnel.end() == 0, funnel.told


def test_label_commands_no_terminal(funnels: Callable[..., Funnel]) -> None:
    """A label with control characters is shown with escapes wherever it is printed."""
    funnel = funnels().start("--decode", "log")
    producer = mpsr.Producer(
        funnel.address, label="\x1b]0;owned\x07\u202e\n", buffer=1, on_full="drop_newest"
    )
    with producer:
        producer.send(json.dumps({"level": "INFO", "message": "\x1b[2J"}).encode())
        producer.flush(PATIENCE)
        command = [sys.executable, "-m", "mpsr"]
        looks = [["status", str(funnel.address)], ["log", str(funnel.journal)]]
        shown = [
            subprocess.run([*command, *each], check=True, capture_output=True).stdout
            for each in looks
        ]
    eventually(lambda: b"INFO" in funnel.out.read_bytes())
    assert funnel.end() == 0, funnel.told
    for out in [*shown, funnel.out.read_bytes(), funnel.told.encode()]:
        assert all(line.isprintable() for line in out.decode().splitlines()), out
    assert all(b"owned" in out for out in shown)
