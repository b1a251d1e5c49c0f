"""Hold docs/security.md to the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def existing_tests() -> set[str]:
    """Return the names of all test functions."""
    names: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        names.update(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))
    return names


def rows() -> list[str]:
    """Return the rows of the tables, without their heads."""
    bodies = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [row for body in bodies for row in body.splitlines()]


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert named - existing_tests() == set()


def test_every_row_names_a_test() -> None:
    """The last column of each table holds names of tests, and nothing else."""
    assert rows()
    for row in rows():
        assert re.search(r"\| `test_\w+`(, `test_\w+`)* \|$", row), row


def test_page_is_found_from_the_readme() -> None:
    assert "(docs/security.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
