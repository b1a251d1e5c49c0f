"""Read the test vectors; docs/protocol.md says what their keys mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

VECTORS: Final = Path(__file__).parents[1] / "vectors"
FOREIGN: Final = ("lines", "null", "length", "length-le", "octet-counted", "eof")
RECEIVING: Final = ("native", *FOREIGN, "detection")
CONNECTIONS: Final = ("connections",)
SENDING: Final = ("producer",)
OBSERVING: Final = ("observer",)
FORWARDED: Final = ("forwarded",)

Vector = dict[str, Any]


def read(name: str) -> list[Vector]:
    """Return the vectors of one file."""
    vectors: list[Vector] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return vectors


def load(*names: str, take: Callable[[Vector], bool] | None = None) -> list[Any]:
    """Return the vectors of some files as parameters of a test."""
    return [
        pytest.param(vector, id=f"{name}-{vector['name']}")
        for name in names
        for vector in read(name)
        if take is None or take(vector)
    ]


def unhex(terms: str) -> bytes:
    """Return the bytes that hex terms stand for: ``61 62*3`` is ``abbb``."""
    parts = (term.partition("*") for term in terms.split())
    return b"".join(bytes.fromhex(digits) * int(repeat or 1) for digits, _, repeat in parts)
