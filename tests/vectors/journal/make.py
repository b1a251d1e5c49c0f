"""Write the test vectors of the journal format: segments laid out by hand, and what they hold.

It shares no code with the library. Run it after a change, read the difference, and commit both:
``python tests/vectors/journal/make.py``.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final
from zlib import crc32

HERE: Final = Path(__file__).parent
ID: Final = bytes(range(16))
WEB: Final = bytes(range(16, 32))
CRON: Final = bytes(range(32, 48))
NOON: Final = 1_772_366_400_000_000_000  # nanoseconds: 2026-03-01T12:00:00Z
BATCH, CHANGES, SNAPSHOT, SEAL = range(1, 5)
JOURNAL, SPOOL = 1, 2
NOBODY: Final = -1
REMOVED: Final = 2**64 - 1


class Segment:
    """Lays out one segment."""

    def __init__(self, use: int, first: int) -> None:
        self.use, self.first, self.next = use, first, first
        head = struct.pack("<8sHHI16sQ24x", b"\x89MPSRJ\r\n", 1, use, 0, ID, first)
        self.data = head[:12] + struct.pack("<I", crc32(head)) + head[16:]
        self.group = len(self.data)

    def begin_group(self) -> None:
        self.group = len(self.data)

    def record(self, kind: int, payload: bytes = b"", details: bytes = b"", takes: int = 0) -> None:
        rest = struct.pack(
            "<IIHHI16sQQQQ",
            crc32(payload),
            len(payload),
            kind,
            len(details),
            self.use,
            ID,
            self.first,
            len(self.data),
            self.group,
            self.next,
        )
        summed = struct.pack("<I", crc32(rest + details))
        self.data += b"\xa5MPR" + summed + rest + details + payload
        self.next += takes

    def batch(
        self,
        messages: list[bytes],
        *,
        first_seq: int,
        lost: int = 0,
        epoch: int = 0,
        seconds: int = 0,
        peer: tuple[int, int, int] = (NOBODY,) * 3,
        producer: tuple[bytes, str] | None = None,
        dropped: int = 0,
    ) -> None:
        """Lay out a batch; the first ``dropped`` messages of its payload do not count."""
        identity, label = producer or (bytes(16), "")
        counted = messages[dropped:]
        details = struct.pack(
            "<qQQQQIIqqq16s",
            NOON + seconds * 10**9,
            first_seq,
            len(counted),
            sum(map(len, counted)),
            lost,
            epoch,
            1 if producer else 0,
            *peer,
            identity,
        )
        payload = b""
        if messages:
            ends = [sum(map(len, messages[:n])) for n in range(len(messages) + 1)]
            payload = struct.pack("<QII", first_seq - dropped, len(messages), 0)
            payload += struct.pack(f"<{len(ends)}I", *ends) + b"".join(messages)
        self.record(BATCH, payload, details + label.encode(), takes=len(counted) or 1)

    def changes(
        self,
        kind: int,
        cursors: dict[str, int],
        producers: list[tuple[int, bytes, int, int, str]] = [],  # noqa: B006 - it is only read
        forgotten: list[tuple[int, bytes]] = [],  # noqa: B006
    ) -> None:
        payload = struct.pack("<III", len(cursors), len(producers), len(forgotten))
        for name, position in cursors.items():
            payload += struct.pack("<QH", position, len(name.encode())) + name.encode()
        for uid, identity, next_seq, epoch, label in producers:
            payload += struct.pack("<q16sQIH", uid, identity, next_seq, epoch, len(label.encode()))
            payload += label.encode()
        for uid, identity in forgotten:
            payload += struct.pack("<q16s", uid, identity)
        self.record(kind, payload)


def journal() -> list[Segment]:
    """Return a journal of two segments, whose first batches one reader has not done with."""
    one = Segment(JOURNAL, 1)
    one.changes(SNAPSHOT, {})
    one.begin_group()
    one.batch(
        [b"one", b"", b"three"],
        first_seq=7,
        epoch=1,
        peer=(12, 34, 56),
        producer=(WEB, "wéb"),
    )
    one.batch(
        [b"a", b"bb", b"c"], first_seq=1, epoch=3, peer=(13, 0, 0), producer=(CRON, ""), dropped=1
    )
    one.begin_group()
    one.batch([b"foreign\n"], first_seq=0, seconds=1, peer=(14, 34, 56))
    one.batch(
        [], first_seq=15, lost=5, epoch=1, seconds=1, peer=(12, 34, 56), producer=(WEB, "wéb")
    )
    one.changes(CHANGES, {"main": 5, "old": 2})
    one.begin_group()
    one.changes(CHANGES, {"old": REMOVED}, forgotten=[(0, CRON)])
    one.begin_group()
    one.record(SEAL)
    two = Segment(JOURNAL, one.next)
    two.changes(SNAPSHOT, {"main": 5}, [(34, WEB, 15, 1, "wéb")])
    two.begin_group()
    two.batch([b"last"], first_seq=0, seconds=2)
    return [one, two]


def spool() -> list[Segment]:
    """Return a spool of two batches, half of the first of which is accepted."""
    one = Segment(SPOOL, 1)
    one.changes(SNAPSHOT, {})
    one.begin_group()
    one.batch([b"1", b"2"], first_seq=0, peer=(12, 34, 56), producer=(ID, "worker"))
    one.begin_group()
    one.batch([b"3"], first_seq=2, peer=(12, 34, 56), producer=(ID, "worker"))
    one.changes(CHANGES, {"accepted": 1})
    return [one]


def batch_held(position: int, messages: list[bytes], first_seq: int, **more: Any) -> dict[str, Any]:
    """Return what is known of a batch."""
    known = {"lost": 0, "epoch": 0, "peer": [None] * 3, "producer": None}
    return {
        "position": position,
        "time": NOON + more.pop("seconds", 0) * 10**9,
        "first_seq": first_seq,
        **known,
        **more,
        "messages": [message.hex() for message in messages],
    }


def files() -> dict[str, Any]:
    """Return the vectors."""
    web = {"epoch": 1, "peer": [12, 34, 56], "producer": [WEB.hex(), "wéb"]}
    cron = {"epoch": 3, "peer": [13, 0, 0], "producer": [CRON.hex(), ""]}
    worker = {"peer": [12, 34, 56], "producer": [ID.hex(), "worker"]}
    return {
        "journal": {
            "segments": {f"{each.first:020}.mpsr": each.data.hex() for each in journal()},
            "holds": {
                "id": ID.hex(),
                "batches": [
                    batch_held(3, [b"one", b"", b"three"], 7, **web),
                    batch_held(5, [b"bb", b"c"], 1, **cron),
                    batch_held(6, [b"foreign\n"], 0, seconds=1, peer=[14, 34, 56]),
                    batch_held(7, [], 15, lost=5, seconds=1, **web),
                    batch_held(8, [b"last"], 0, seconds=2),
                ],
                "cursors": {"main": 5},
                "producers": [
                    {"uid": 34, "id": WEB.hex(), "label": "wéb", "epoch": 1, "next_seq": 15}
                ],
            },
        },
        "spool": {
            "segments": {f"{each.first:020}.mpsr": each.data.hex() for each in spool()},
            "holds": {
                "id": ID.hex(),
                "batches": [
                    batch_held(2, [b"1", b"2"], 0, **worker),
                    batch_held(3, [b"3"], 2, **worker),
                ],
                "cursors": {"accepted": 1},
                "producers": [
                    {"uid": 34, "id": ID.hex(), "label": "worker", "epoch": 0, "next_seq": 3}
                ],
            },
        },
    }


def render(vectors: dict[str, Any]) -> str:
    """Return a file's text."""
    return json.dumps(vectors, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "journal.json").write_text(render(files()), encoding="utf-8")
