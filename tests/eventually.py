"""Wait in a test for a condition that another thread or process brings about."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 30.0  # seconds: a condition that takes longer never holds, even on a busy machine
INTERVAL: Final = 0.002  # seconds between two checks

Value = TypeVar("Value")


def eventually(
    condition: Callable[[], Value], *, within: float = PATIENCE, interval: float = INTERVAL
) -> Value:
    """Return the first true value of a condition; fail if it has none ``within`` seconds.

    A condition may itself assert: while it raises AssertionError it does not hold, and the last
    error is the reason that the failure shows.
    """
    deadline = monotonic() + within
    while True:
        reason: AssertionError | None = None
        value: Value | None = None
        try:
            value = condition()
            if value:
                return value
        except AssertionError as exc:
            reason = exc
        if monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s; the last value: {value!r}") from reason
        sleep(interval)
