"""What a journal holds after the power went."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from mpsr.errors import JournalDamaged
from mpsr.limits import KIB, MIB
from mpsr.store.journal import Journal
from tests.store.disk import Disk, Step, after_power_cut, write_image
from tests.store.entries import PEER, PRODUCER, body, numbered, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZES = [0, 100, 5_000, 40_000, 90_000]


def size_at(position: int) -> int:
    return SIZES[position % len(SIZES)]


def run(disk: Disk, path: str, chance: random.Random) -> None:
    """Append, move on, trim, close and open; mark what was confirmed."""
    last = cursor = 0
    for _ in range(3):
        journal = Journal(path, limit=2 * MIB)
        disk.steps.append(Step("mark", mark=(last, cursor)))
        for _ in range(chance.randrange(10, 50)):
            first = last + 1
            entries = [numbered(n, 1, size_at(n)) for n in range(first, first + 1 + first % 3)]
            new = max(cursor, last - chance.randrange(15))
            journal.cursor("reader")
            journal.move("reader", new)
            last = journal.append(entries)[-1]
            cursor = new
            disk.steps.append(Step("mark", mark=(last, cursor)))
        journal.close()


def moments(disk: Disk, count: int, chance: random.Random) -> Iterator[tuple[int, int, int]]:
    """Choose moments: after how many steps, and what was confirmed then."""
    made = next(n for n, step in enumerate(disk.steps) if step.kind == "mark")
    for _ in range(count):
        cut = chance.randrange(made, len(disk.steps) + 1)
        marks = [step.mark for step in disk.steps[:cut] if step.mark]
        yield cut, *(marks[-1] if marks else (0, 0))


def what_is_lost(image: dict[str, bytes], path: str, last: int, cursor: int) -> str:
    """Open what the power cut left; return what is wrong with it."""
    write_image(image, path)
    for _ in range(2):  # what was found stays, also when it is opened again
        with Journal(path, limit=2 * MIB) as journal:
            if journal.set_aside is not None:
                shutil.rmtree(journal.set_aside)
                return "set aside"
            if not (
                last <= journal.last <= last + 3 and journal.cursors().get("reader", 0) >= cursor
            ):
                return f"{journal.last}, {journal.cursors()} instead of {last}, {cursor}"
            found = read_all(journal)
            assert found == {
                n: body(n, size_at(n)) for n in range(journal.trimmed + 1, journal.last + 1)
            }
            assert journal.trimmed <= journal.cursors().get("reader", 0)
            if journal.last:
                (state,) = journal.producers()
                assert (state.uid, state.producer, state.expected_seq) == (
                    PEER.uid, PRODUCER, journal.last + 1,
                )  # fmt: skip
    with Journal(path, limit=2 * MIB) as journal:
        end = journal.append([numbered(journal.last + 1, 1, 200 * KIB)])[-1]
        assert read_all(journal, end - 1) == {end: body(end, 200 * KIB)}
    return ""


@pytest.mark.parametrize(
    ("runs", "count"),
    [(2, 15), pytest.param(40, 50, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
def test_power_cut_loses_nothing_that_was_confirmed(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int, count: int
) -> None:
    for seed in range(runs):
        chance = random.Random(seed)
        disk = Disk()
        with monkeypatch.context() as patch:
            run(disk.use(patch), path, chance)
        kinds = {step.kind for step in disk.steps}
        assert kinds >= {"rename", "sync names", "extend", "truncate", "remove"}
        for number, (cut, last, cursor) in enumerate(moments(disk, count, chance)):
            left = str(tmp_path / "left")
            image = after_power_cut(disk.steps[:cut], chance, path)
            assert not what_is_lost(image, left, last, cursor), (seed, number, cut)
            shutil.rmtree(left)
        shutil.rmtree(path)


@pytest.mark.parametrize("left_out", ["sync", "sync names"])
def test_the_same_cuts_are_seen_to_lose_with_less_syncing(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    chance = random.Random(1)
    disk = Disk()
    with monkeypatch.context() as patch:
        run(disk.use(patch), path, chance)
    lost = []
    for cut, last, cursor in moments(disk, 30, chance):
        steps = [step for step in disk.steps[:cut] if step.kind != left_out]
        left = str(tmp_path / "left")
        try:
            lost.append(what_is_lost(after_power_cut(steps, chance, path), left, last, cursor))
        except (AssertionError, JournalDamaged):
            lost.append("wrong")
        shutil.rmtree(left)
    assert any(lost)
