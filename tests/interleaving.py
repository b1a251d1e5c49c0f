"""Hold a thread of a test at one point of the code under test, while another thread acts."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from tests.eventually import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

Point = Literal["call", "return"]


@contextmanager
def held_at(function: Any, point: Point, work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` in a thread, and hold it once, at a call of a function or its return.

    The block begins when the thread is there. Its end lets the thread finish, and raises the
    exception that ended it.
    """
    reached, resumed = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def hold() -> None:
        reached.set()
        assert resumed.wait(PATIENCE)

    def run() -> None:
        sys.settrace(tracer(function, point, hold))
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised in the test's thread
            failures.append(exc)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert reached.wait(PATIENCE), failures
        yield
    finally:
        resumed.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def tracer(function: Any, point: Point, act: Callable[[], object]) -> Callable[..., Any]:
    """Return a function for ``sys.settrace`` that acts once, where a function has that point."""
    todo = [act]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is not function.__code__:
            return None
        if event == point and todo:
            todo.pop()()
        return trace

    return trace
