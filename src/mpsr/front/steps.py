"""Say what a step of sending waits for, so that each front can wait in its own way."""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from mpsr.engine.sending.waiters import Until

R = TypeVar("R")


class Wait(NamedTuple):
    """What a step waits for; the front answers False once the deadline has passed."""

    until: Until
    need: int
    deadline: float | None
    """On the monotonic clock (seconds); None waits for ever."""


LET_OTHERS_RUN: Final = Wait("changed", 0, -inf)
"""Yielded behind a write, where tasks have to give way to others; it waits for nothing."""

Steps = Generator[Wait, bool, R]
