"""Sizes and durations are written in one way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mpsr
from mpsr.amounts import duration, size

SOURCES = Path(mpsr.__file__).parent


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),  # as a rate
        (1536, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2**30, "1.1 GB"),
        (2e15, "2000.0 TB"),
    ],
)
def test_sizes_have_decimal_units(nbytes: float, text: str) -> None:
    """A number that would be rounded to 1,000 has the next unit."""
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (3725, "1 h 2 min"),
        (90_000, "25 h 0 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    """A number that would be rounded to 60 has the next unit."""
    assert duration(seconds) == text


def test_commands_write_no_size_in_another_way() -> None:
    """No text of a command has a number with a unit of bytes that ``size`` did not write."""
    way = re.compile(r"\} ?(?:bytes?|[kKMG]i?B)\b|[\"']bytes?[\"']\)\}|/ 1e6|/ MIB")
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES.glob("cli/**/*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if way.search(line) and "--text is longer" not in line
    ]
    assert found == []
