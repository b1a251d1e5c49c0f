"""Watch what a journal does to its disk, fail where told, and cut the power."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.store import files

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    import pytest

_SECTOR = 512  # bytes: what a disk writes whole or not at all


class Step(NamedTuple):
    """Something that was done to a disk, or (``mark``) confirmed."""

    kind: str
    path: str = ""
    file: int = 0  # its inode
    offset: int = 0  # or a size
    data: bytes = b""
    other: str = ""  # the new name
    mark: Any = None


def _of(file: int, kind: str, offset: int = 0, data: Iterable[Any] = ()) -> Step:
    """Return the step of what is done to an open file."""
    return Step(kind, "", os.fstat(file).st_ino, offset, b"".join(map(bytes, data)))


_STEPS: Final[dict[str, Callable[..., Step]]] = {
    "make_directory": lambda path: Step("mkdir", path),
    "create": lambda path: Step("create", path),
    "allocate": lambda file, size: _of(file, "extend", size),
    "truncate": lambda file, size: _of(file, "truncate", size),
    "write": lambda file, buffers, offset: _of(file, "write", offset, buffers),
    "sync": lambda file: _of(file, "sync"),
    "rename": lambda old, new: Step("rename", old, other=new),
    "remove": lambda path: Step("remove", path),
    "sync_directory": lambda path: Step("sync names", path),
}


class Disk:
    """Notes every step of the store, which is really done, and fails where it is told to."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.fail: Callable[[Step], int | None] = lambda _: None  # an errno

    def use(self, patch: pytest.MonkeyPatch) -> Disk:
        """Let every journal use this disk from now on."""
        for name, step_of in _STEPS.items():
            done = getattr(files, name)
            patch.setattr(files, name, partial(self._do, step_of, done))
        return self

    def _do(self, step_of: Callable[..., Step], done: Callable[..., Any], *arguments: Any) -> Any:
        step = step_of(*arguments)
        if step.kind == "write":
            arguments = arguments[0], [step.data], arguments[2]  # buffers may be read only once
        code = self.fail(step)
        if code is not None:
            raise OSError(code, os.strerror(code))
        result = done(*arguments)
        if step.kind == "create":
            step = step._replace(file=os.fstat(result).st_ino)
        self.steps.append(step)
        return result


def after_power_cut(
    steps: Sequence[Step], chance: random.Random, directory: str
) -> dict[str, bytes]:
    """Return what the files of a directory hold if the power goes after these steps.

    Of what was not synced each sector, each change of a size may have reached the disk or not,
    in any order; of the names that were not synced, as many changes as the disk had come to.
    """
    contents: dict[int, bytearray] = {}
    loose: dict[int, list[Step]] = {}
    for step in steps:
        if step.kind == "sync":
            for change in loose.pop(step.file, ()):
                _apply(contents.setdefault(step.file, bytearray()), change, None)
        elif step.kind in {"write", "extend", "truncate"}:
            loose.setdefault(step.file, []).append(step)
    for file, changes in loose.items():
        chosen = [change for change in changes if chance.random() < 0.7]
        chance.shuffle(chosen)
        for change in chosen:
            _apply(contents.setdefault(file, bytearray()), change, chance)
    return {
        os.path.basename(path): bytes(contents.get(file, b""))
        for path, file in _names(steps, chance).items()
        if os.path.dirname(path) == directory
    }


def _names(steps: Sequence[Step], chance: random.Random) -> dict[str, int]:
    """Return which files have names, and which."""
    changes = [step for step in steps if step.kind in {"create", "rename", "remove"}]
    kinds = [step.kind for step in steps]
    behind = len(kinds) - kinds[::-1].index("sync names") if "sync names" in kinds else 0
    synced = sum(kind in {"create", "rename", "remove"} for kind in kinds[:behind])
    at: dict[str, int] = {}
    for step in changes[: chance.randint(synced, len(changes))]:
        if step.kind == "create":
            at[step.path] = step.file
        elif step.kind == "remove":
            at.pop(step.path, None)
        else:
            at[step.other] = at.pop(step.path)
    return at


def _apply(image: bytearray, step: Step, chance: random.Random | None) -> None:
    if step.kind in {"truncate", "extend"}:
        if step.kind == "truncate":
            del image[step.offset :]
        image.extend(bytes(max(0, step.offset - len(image))))
        return
    for place, data in _sectors(step):
        if chance is None or chance.random() < 0.7:
            image.extend(bytes(max(0, place + len(data) - len(image))))
            image[place : place + len(data)] = data


def _sectors(step: Step) -> Iterator[tuple[int, bytes]]:
    begin, end = step.offset, step.offset + len(step.data)
    while begin < end:
        behind = min(end, begin - begin % _SECTOR + _SECTOR)
        yield begin, step.data[begin - step.offset : behind - step.offset]
        begin = behind


def write_image(image: dict[str, bytes], path: str) -> None:
    """Write the files of an image into a new directory."""
    os.mkdir(path)
    for name, data in image.items():
        Path(path, name).write_bytes(data)
