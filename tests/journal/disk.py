"""Give SQLite a disk that fails, and one that forgets what was not synced when the power goes."""

from __future__ import annotations

import itertools
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import apsw

from mpsr import journal as module

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    import pytest

_SECTOR = 512  # bytes: what a disk writes whole or not at all
_names = (f"disk-{number}" for number in itertools.count())


class Step(NamedTuple):
    """Something that was done to a file, or (``mark``) confirmed."""

    kind: str
    path: str = ""
    offset: int = 0
    data: bytes = b""
    mark: int = 0


class Disk(apsw.VFS):
    """A file system for SQLite that notes every step, and fails where it is told to."""

    def __init__(self) -> None:
        self.name = next(_names)
        self.steps: list[Step] = []
        self.fail: Callable[[Step], int | None] = lambda _: None  # an SQLite error code
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> File:  # noqa: N802 - as apsw has it
        return File(name.filename() if isinstance(name, apsw.URIFilename) else name, flags, self)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.step(Step("delete", filename))
        super().xDelete(filename, syncdir)

    def step(self, step: Step) -> None:
        code = self.fail(step)
        if code is not None:
            error: Any = apsw.exception_for(code)
            error.extendedresult = code
            raise error
        self.steps.append(step)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Disk:
        """Let every journal use this disk from now on."""
        monkeypatch.setattr(module, "_connect", lambda path: _Connection(path, self.name))
        monkeypatch.setattr(module, "_extend", self._extend)
        return self

    def _extend(self, file: int, size: int) -> None:
        path = os.readlink(f"/proc/self/fd/{file}")
        self.step(Step("extend", path, size))
        os.posix_fallocate(file, 0, size)
        self.step(Step("sync", path))


class File(apsw.VFSFile):
    def __init__(self, name: str, flags: list[int], disk: Disk) -> None:
        super().__init__("", name, flags)
        self._name = name
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.step(Step("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.step(Step("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.step(Step("sync", self._name))
        super().xSync(flags)


def after_power_cut(steps: Sequence[Step], chance: random.Random) -> dict[str, bytes]:
    """Return what files hold if the power goes after these steps.

    Of what was not synced each sector may have reached the disk or not.
    """
    synced: dict[str, bytearray] = {}
    loose: dict[str, list[Step]] = {}
    for step in steps:
        if step.kind == "sync":
            for write in loose.pop(step.path, ()):
                _apply(synced.setdefault(step.path, bytearray()), write, None)
        elif step.kind == "delete":
            synced.pop(step.path, None)
            loose.pop(step.path, None)
        elif step.kind != "mark":
            loose.setdefault(step.path, []).append(step)
    for path, writes in loose.items():
        for write in writes:
            if chance.random() < 0.7:
                _apply(synced.setdefault(path, bytearray()), write, chance)
    return {path: bytes(data) for path, data in synced.items()}


def _apply(image: bytearray, step: Step, chance: random.Random | None) -> None:
    if step.kind in {"truncate", "extend"}:
        if step.kind == "truncate":
            del image[step.offset :]
        image.extend(bytes(step.offset - len(image)))
        return
    for begin in range(0, len(step.data), _SECTOR if chance else len(step.data)):
        data = step.data[begin : begin + (_SECTOR if chance else len(step.data))]
        if chance is None or chance.random() < 0.7:
            place = step.offset + begin
            image.extend(bytes(max(0, place + len(data) - len(image))))
            image[place : place + len(data)] = data


def write_image(image: dict[str, bytes], old: str, new: str) -> None:
    """Write the files of an image, under another path."""
    for name, data in image.items():
        Path(new + name.removeprefix(old)).write_bytes(data)


class _Connection:
    """What the journal uses of an ``sqlite3.Connection``, on apsw."""

    def __init__(self, path: str, vfs: str) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        self._connection = apsw.Connection(path, flags=flags, vfs=vfs)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, values: Sequence[Any] = ()) -> _Cursor:
        with _translated():
            return _Cursor(self._connection.cursor().execute(sql, values))

    def close(self) -> None:
        with _translated():
            self._connection.close()


class _Cursor:
    def __init__(self, cursor: apsw.Cursor) -> None:
        self._cursor = cursor

    def fetchone(self) -> Any:
        with _translated():
            return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        with _translated():
            return self._cursor.fetchall()

    def close(self) -> None:
        self._cursor.close(True)

    def __iter__(self) -> Iterator[Any]:
        with _translated():
            yield from self._cursor


class _translated:  # noqa: N801 - used like a function
    def __enter__(self) -> None: ...

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, apsw.Error):
            error = sqlite3.OperationalError(str(exc))
            error.sqlite_errorcode = cast("Any", exc).extendedresult
            raise error from exc
