"""Replay what fuzzing has found to be worth keeping, without a fuzzer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

CORPUS: Final = Path(__file__).parent / "corpus"
TARGETS: Final = [
    "answers",
    "codec",
    "foreign",
    "journal",
    "observing",
    "outputs",
    "ring",
    "session",
]


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_of_the_corpus_passes(name: str) -> None:
    """Each target takes what is in its folder, and an empty input."""
    target = import_module(f"tests.fuzz.{name}")
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    target.run(b"")
    for file in inputs:
        try:
            target.run(file.read_bytes())
        except Exception as exc:
            exc.add_note(f"the input is {file}")
            raise
