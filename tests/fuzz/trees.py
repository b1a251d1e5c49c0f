"""Import the wire twice: with the codec in C, and with its Python twin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

CHOICE: Final = "MPSR_SPEEDUPS"


class Tree:
    """The modules of one import."""

    def __init__(self, choice: str) -> None:
        with _alone(choice):
            self.codec: Any = import_module("mpsr._speedups").codec
            self.errors: Any = import_module("mpsr.errors")
            self.batch: Any = import_module("mpsr.batch")
            self.frames: Any = import_module("mpsr.wire.frames")
            self.foreign: Any = import_module("mpsr.wire.foreign")
            self.ledger: Any = import_module("mpsr.wire.ledger")
            self.receiving: Any = import_module("mpsr.wire.receiving")
            self.sending: Any = import_module("mpsr.wire.sending")


@contextmanager
def _alone(choice: str) -> Iterator[None]:
    """Have the package imported anew, and put back what was imported before."""
    before = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    chosen = os.environ.get(CHOICE)
    for name in before:
        del sys.modules[name]
    os.environ[CHOICE] = choice
    try:
        yield
    finally:
        for name in filter(_is_ours, list(sys.modules)):
            del sys.modules[name]
        sys.modules.update(before)
        del os.environ[CHOICE]
        if chosen is not None:
            os.environ[CHOICE] = chosen


def _is_ours(name: str) -> bool:
    return name == "mpsr" or name.startswith("mpsr.")


def _in_c() -> bool:
    wanted = os.environ.get(CHOICE)
    return wanted == "require" or (wanted != "off" and find_spec("mpsr._speedups._c") is not None)


PYTHON: Final = Tree("off")
TREES: Final = [Tree("require"), PYTHON] if _in_c() else [PYTHON]
"""C first, if it is built."""


def same(answers: list[Any]) -> Any:
    """Return what all the trees answered; fail where they differ."""
    assert all(answer == answers[0] for answer in answers), answers
    return answers[0]
