"""Hold the store, and a reader that knows nothing but the document, to the vectors."""

from __future__ import annotations

import importlib.util
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import pytest

from mpsr._speedups import codec
from mpsr.batch import Peer, ProducerIdentity
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from mpsr.store.records import Entry, Header, Use

HERE: Final = Path(__file__).parents[1] / "vectors" / "journal"
VECTORS: Final = json.loads((HERE / "journal.json").read_text(encoding="utf-8"))
UNUSED: Final = 512  # bytes that stand behind the records of a newest segment, at least


@pytest.fixture(params=["journal", "spool"])
def name(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def laid_out(path: str, name: str) -> str:
    """Give the directory of a vector."""
    Path(path).mkdir()
    for file, content in VECTORS[name]["segments"].items():
        Path(path, file).write_bytes(bytes.fromhex(content) + bytes(UNUSED))
    return path


def test_committed_vectors_are_what_the_script_lays_out() -> None:
    spec = importlib.util.spec_from_file_location("make_journal_vectors", HERE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.render(make.files()) == (HERE / "journal.json").read_text(encoding="utf-8")


def test_reader_reads_them(laid_out: str, name: str) -> None:
    holds = VECTORS[name]["holds"]
    with Reader(laid_out) as reader:
        recovery = reader.recover()
        records = reader.read(0)
    batches = [
        {
            "position": position,
            "time": entry.received_at,
            "first_seq": entry.first_seq,
            "lost": entry.lost,
            "epoch": entry.epoch,
            "peer": list(entry.peer),
            "producer": entry.producer and [entry.producer.id.hex(), entry.producer.label],
            "messages": [message.hex() for message in entry.batch()],
        }
        for position, entry in records
    ]
    assert batches == holds["batches"]
    assert recovery.header.id.hex() == holds["id"]
    assert recovery.state.cursors == holds["cursors"]
    assert [
        {
            "uid": state.uid,
            "id": state.producer.id.hex(),
            "label": state.producer.label,
            "epoch": state.epoch,
            "next_seq": state.expected_seq,
        }
        for state in recovery.state.producers.values()
    ] == holds["producers"]


def entry_of(held: dict[str, Any], payload: bytes | None = None) -> Entry:
    messages = [bytes.fromhex(message) for message in held["messages"]]
    packed = codec.pack_batch(messages, held["first_seq"])[8:] if messages else b""
    return Entry(
        packed if payload is None else payload,
        len(messages),
        sum(map(len, messages)),
        held["first_seq"],
        held["lost"],
        Peer(*held["peer"]),
        held["producer"]
        and ProducerIdentity(bytes.fromhex(held["producer"][0]), held["producer"][1]),
        held["epoch"],
        held["time"],
    )


def test_journal_writes_them(path: str) -> None:
    """All but the SEAL, which comes with the next segment."""
    vector = VECTORS["journal"]
    batches = vector["holds"]["batches"]
    whole = codec.pack_batch([b"a", b"bb", b"c"], 0)[8:]
    with Journal(
        path, begin=Header(bytes.fromhex(vector["holds"]["id"]), Use.JOURNAL, 1)
    ) as journal:
        journal.append([entry_of(batches[0]), entry_of(batches[1], whole)])
        journal.move("main", 5)
        journal.move("old", 2)
        journal.append([entry_of(batches[2]), entry_of(batches[3])])
        journal.drop("old")
        journal.append([], forget=[(0, bytes.fromhex(batches[1]["producer"][0]))])
        (segment,) = Path(path).glob("*.mpsr")
        written = segment.read_bytes()
    expected = bytes.fromhex(vector["segments"][segment.name])[:-72]
    assert written[: len(expected)] == expected
    assert not any(written[len(expected) :])


def test_reader_made_from_the_document_reads_them(laid_out: str, name: str) -> None:
    holds = VECTORS[name]["holds"]
    batches: list[dict[str, Any]] = []
    cursors: dict[str, int] = {}
    producers: dict[tuple[int, str], tuple[int, int, str]] = {}
    for file in sorted(Path(laid_out).glob("*.mpsr")):
        data = file.read_bytes()
        magic, version, use, checksum, log_id, first = struct.unpack_from("<8sHHI16sQ", data)
        assert (magic, version) == (b"\x89MPSRJ\r\n", 1)
        assert crc32(data[:12] + bytes(4) + data[16:64]) == checksum
        assert (use, log_id.hex(), f"{first:020}.mpsr") == (
            {"journal": 1, "spool": 2}[name], holds["id"], file.name,
        )  # fmt: skip
        at = 64
        while data[at : at + 4] == b"\xa5MPR":
            own, payload_sum, length, kind, size, *place, position = struct.unpack_from(
                "<IIIHHI16sQQQQ", data, at + 4
            )
            details = data[at + 72 : at + 72 + size]
            payload = data[at + 72 + size : at + 72 + size + length]
            assert crc32(data[at + 8 : at + 72 + size]) == own
            assert crc32(payload) == payload_sum
            assert place[:4] == [use, log_id, first, at]
            if kind == 1:
                batches.append(plain_batch(details, payload, position, producers))
            elif kind in {2, 3}:
                if kind == 3:
                    cursors.clear()
                    producers.clear()
                plain_changes(payload, cursors, producers)
            at += 72 + size + length
    assert batches == holds["batches"]
    assert cursors == holds["cursors"]
    assert producers == {
        (each["uid"], each["id"]): (each["next_seq"], each["epoch"], each["label"])
        for each in holds["producers"]
    }


def plain_batch(
    details: bytes,
    payload: bytes,
    position: int,
    producers: dict[tuple[int, str], tuple[int, int, str]],
) -> dict[str, Any]:
    time, first_seq, count, nbytes, lost, epoch, flags, *peer, identity = struct.unpack_from(
        "<qQQQQIIqqq16s", details
    )
    messages = []
    if payload:
        _, held, _ = struct.unpack_from("<QII", payload)
        ends = struct.unpack_from(f"<{held + 1}I", payload, 16)
        bodies = payload[16 + 4 * (held + 1) :]
        pairs = list(pairwise(ends))[held - count :]
        messages = [bodies[begin:end].hex() for begin, end in pairs]
        assert sum(end - begin for begin, end in pairs) == nbytes
    label = details[88:].decode()
    if flags & 1:
        producers[peer[1], identity.hex()] = first_seq + count, epoch, label
    return {
        "position": position + max(1, count) - 1,
        "time": time,
        "first_seq": first_seq,
        "lost": lost,
        "epoch": epoch,
        "peer": [None if number == -1 else number for number in peer],
        "producer": [identity.hex(), label] if flags & 1 else None,
        "messages": messages,
    }


def plain_changes(
    payload: bytes,
    cursors: dict[str, int],
    producers: dict[tuple[int, str], tuple[int, int, str]],
) -> None:
    counts = struct.unpack_from("<III", payload)
    at = 12
    for _ in range(counts[0]):
        position, size = struct.unpack_from("<QH", payload, at)
        name = payload[at + 10 : at + 10 + size].decode()
        cursors[name] = position
        if position == 2**64 - 1:
            del cursors[name]
        at += 10 + size
    for _ in range(counts[1]):
        uid, identity, next_seq, epoch, size = struct.unpack_from("<q16sQIH", payload, at)
        label = payload[at + 38 : at + 38 + size].decode()
        producers[uid, identity.hex()] = next_seq, epoch, label
        at += 38 + size
    for _ in range(counts[2]):
        uid, identity = struct.unpack_from("<q16s", payload, at)
        del producers[uid, identity.hex()]
        at += 24
    assert at == len(payload)
