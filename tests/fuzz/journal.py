"""Read journals that are damaged: nothing is raised but what is promised, and reading ends.

An input is edits to the journals of the test vectors, or the bytes of a segment.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from mpsr.errors import JournalDamaged, JournalError
from mpsr.store.reader import Reader
from mpsr.store.salvage import Salvage
from tests.fuzz.feeding import Source

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "journal" / "journal.json"
UNUSED: Final = 512  # bytes that stand behind the records of a newest segment, at least
MEMORY: Final = "/dev/shm"  # where there is no disk to wait for
MOST_READS: Final = 50
Files = dict[str, bytearray]


def vector(name: str) -> dict[str, bytes]:
    """Return the files of a vector."""
    segments: dict[str, str] = json.loads(VECTORS.read_text(encoding="utf-8"))[name]["segments"]
    return {file: bytes.fromhex(content) + bytes(UNUSED) for file, content in segments.items()}


BASES: Final = [vector("journal"), vector("spool"), {f"{1:020}.mpsr": b""}]
DIRECTORY: Final = tempfile.TemporaryDirectory(
    prefix="mpsr-fuzz-", dir=MEMORY if Path(MEMORY).is_dir() else None
)


def edit(data: bytearray, source: Source, kind: int) -> None:
    """Change a segment in one place."""
    at = source.number(2) % (len(data) + 1)
    size = source.number()
    match kind % 8:
        case 0:
            data[at : at + size % 16 + 1] = source.take(size % 16 + 1)
        case 1:
            del data[at : at + size]
        case 2:
            data[at:at] = source.take(size)
        case 3:
            del data[at:]
        case 4:
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 5:
            other = source.number(2) % (len(data) + 1)
            data[at : at + size] = data[other : other + size]
        case 6 if at < len(data):
            data[at] ^= 1 << size % 8
        case _:
            data[at:at] = bytes(size * 64)


def edited(source: Source) -> Files:
    """Return files by what an input says."""
    kind = source.number()
    files = {name: bytearray(content) for name, content in BASES[kind % len(BASES)].items()}
    names = list(files)
    if kind & 8:
        named = f"{source.number(2):020}.mpsr"
        files[named] = files.get(named, files[names[-1]])
    if kind & 16:
        files[names[0]], files[names[-1]] = files[names[-1]], files[names[0]]
    if kind & 32:
        files[names[0]][:] = source.rest()
    for _ in range(12):
        if not source:
            break
        change = source.number()
        edit(files[names[change // 8 % len(names)]], source, change)
    return files


def behind(damage: JournalDamaged, after: int) -> int:
    """Return the position that cannot be read, which lies behind all that was."""
    assert damage.position is not None
    assert damage.position > after
    return damage.position


def read(path: str) -> list[tuple[int, list[bytes]]]:
    """Return what a reader reads, behind every damage."""
    found: list[tuple[int, list[bytes]]] = []
    try:
        with Reader(path) as reader:
            try:
                reader.recover()
            except JournalDamaged:
                pass
            after = 0
            for _ in range(MOST_READS):
                try:
                    records = reader.read(after, max_bytes=1)
                except JournalDamaged as exc:
                    after = behind(exc, after)
                    continue
                if not records:
                    break
                for position, entry in records:
                    assert position > after
                    found.append((position, list(entry.batch())))
                    after = position
    except JournalError:
        pass
    return found


def salvaged(path: str, *, torn: bool) -> dict[int, list[bytes]]:
    """Return what can be salvaged, by position."""
    found: dict[int, list[bytes]] = {}
    try:
        with Salvage(path) as salvage:
            last = salvage.header.first - 1
            for position, entry in salvage.records(torn=torn):
                assert position - entry.span == last
                last = position
                messages: list[Any] = list(entry.batch())
                if messages:
                    found[position] = messages
            assert last >= salvage.state.last
    except JournalError:
        pass
    return found


def run(data: bytes) -> None:
    """Lay out the files, and read them in every way."""
    path = Path(DIRECTORY.name)
    files = edited(Source(data))
    for name, content in files.items():
        (path / name).write_bytes(content)
    try:
        read(DIRECTORY.name)
        salvaged(DIRECTORY.name, torn=True)
        salvaged(DIRECTORY.name, torn=False)
    finally:
        for name in files:
            (path / name).unlink()
