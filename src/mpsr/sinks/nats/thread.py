"""Run an event loop in a thread of its own, for a caller that has none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from mpsr.system.clock import monotonic
from mpsr.system.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class LoopThread:
    """An event loop that runs until it is closed, so that connections stay alive meanwhile."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.time = monotonic  # type: ignore[method-assign]  # also while a test has frozen it
        self._thread = start_thread(self._run, name=name)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Have it done, and return what will hold its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Have it done; return its result, or raise what it raises."""
        return self.begin(work).result()

    def close(self) -> None:
        """End what is under way, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(_end())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


async def _end() -> None:
    """Cancel what is under way, and wait until it has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
