"""Fixtures for tests with real processes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, ParamSpec

import pytest

from tests.process.forking import Forks
from tests.process.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process.workers import Start

P = ParamSpec("P")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Give the process that forks the workers."""
    with Forks("tests.process.roles") as forks:
        yield forks


@pytest.fixture
def start(forks: Forks) -> Iterator[Start]:
    """Give a function that starts a worker, which ends with the test."""
    with ExitStack() as workers:

        def start(role: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> Worker:
            return workers.enter_context(Worker(forks, role, *args, **kwargs))

        yield start
