"""Wait with a time limit, even while the event loop's clock is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from mpsr.system import primitives
from mpsr.system.clock import is_frozen, monotonic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_TICK: Final = 0.05  # seconds: how long a thread of a cancelled wait remains


async def wait_at_most(seconds: float | None, wait: Callable[[], Awaitable[object]]) -> None:
    """Await ``wait()``, and cancel it after some seconds; None sets no limit.

    asyncio and trio read a clock that freezegun freezes: then a thread measures the time.
    """
    if seconds is None or not is_frozen():
        with anyio.move_on_after(seconds):
            await wait()
        return
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_at, tasks.cancel_scope, monotonic() + seconds)
        try:
            await wait()
        except Exception as exc:  # noqa: BLE001 - raised below: the group would wrap it
            failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _cancel_at(scope: anyio.CancelScope, until: float) -> None:
    while (left := until - monotonic()) > 0:
        await anyio.to_thread.run_sync(primitives.sleep, min(left, _TICK), abandon_on_cancel=True)
    scope.cancel()
