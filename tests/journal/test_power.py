"""What a journal holds after the power went."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpsr import journal as module
from mpsr.errors import JournalError
from mpsr.journal import Journal
from mpsr.limits import MIB
from tests.journal.disk import Disk, Step, after_power_cut, write_image
from tests.journal.entries import body, numbered, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = [0, 100, 5_000, 40_000, 90_000]


def size_at(position: int) -> int:
    return SIZES[position % len(SIZES)]


def run(disk: Disk, path: str) -> None:
    """Append, read, move on, trim and checkpoint; mark what was confirmed."""
    journal = Journal(path, limit=16 * MIB)
    journal.cursor("reader")
    disk.steps.append(Step("mark"))
    for _ in range(60):
        first = journal.last + 1
        entries = [numbered(n, 1, size_at(n)) for n in range(first, first + 1 + first % 3)]
        last = journal.append(entries)[-1]
        disk.steps.append(Step("mark", mark=last))
        journal.move("reader", max(journal.cursor("reader"), last - 10))
    journal.close()


def moments(disk: Disk, count: int) -> Iterator[tuple[int, int, random.Random]]:
    """Choose moments after the journal was made: how many steps, what was confirmed, a chance."""
    made = next(n for n, step in enumerate(disk.steps) if step.kind == "mark")
    for seed in range(count):
        chance = random.Random(seed)
        cut = chance.randrange(made, len(disk.steps))
        yield cut, max(step.mark for step in disk.steps[: cut + 1]), chance


def lost(image: dict[str, bytes], old: str, new: str, confirmed: int) -> bool:
    """Open what the power cut left; tell whether something confirmed is missing."""
    write_image(image, old, new)
    try:
        with Journal(new) as journal:
            found = read_all(journal)
            assert found == {n: body(n, size_at(n)) for n in found}
            assert list(found) == [*range(journal.trimmed + 1, journal.last + 1)]
            return journal.set_aside is not None or journal.last < confirmed
    except JournalError:
        return True


@pytest.fixture
def disk() -> Disk:
    return Disk()


def with_base(disk: Disk, path: str, patch: pytest.MonkeyPatch) -> list[Step]:
    """Make the journal on a good disk, run on this one; return the steps that made it."""
    Journal(path, limit=16 * MIB).close()
    base = [Step("write", path, 0, Path(path).read_bytes()), Step("sync", path)]
    disk.use(patch)
    run(disk, path)
    return base


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.soak)])
def test_power_cut_loses_nothing_that_was_committed(
    disk: Disk, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with monkeypatch.context() as patch:
        base = with_base(disk, path, patch)
    for number, (cut, confirmed, chance) in enumerate(moments(disk, count)):
        image = after_power_cut([*base, *disk.steps[:cut]], chance)
        assert not lost(image, path, str(tmp_path / f"{number}.db"), confirmed)


def test_the_same_cuts_are_seen_to_lose_with_less_syncing(
    disk: Disk, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(module._PRAGMAS, "synchronous", ("NORMAL", (1,)))
        base = with_base(disk, path, patch)
    losses = [
        lost(
            after_power_cut([*base, *disk.steps[:cut]], chance),
            path,
            str(tmp_path / f"{number}.db"),
            confirmed,
        )
        for number, (cut, confirmed, chance) in enumerate(moments(disk, 10))
    ]
    assert any(losses)
