"""Drive every front through the same awaited names."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

import mpsr
from tests.process.workers import beside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from typing import Self

    Test = Callable[["Front"], Coroutine[Any, Any, None]]


class Front:
    """The async fronts, as they are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, test: Test) -> None:
        backend, options = {
            "asyncio": ("asyncio", {}),
            "uvloop": ("asyncio", {"use_uvloop": True}),
            "trio": ("trio", {}),
        }[self.name]
        anyio.run(test, self, backend=backend, backend_options=options)

    def receiver(self, *args: Any, **options: Any) -> Any:
        return mpsr.AsyncReceiver(*args, **options)

    def producer(self, *args: Any, **options: Any) -> Any:
        return mpsr.AsyncProducer(*args, **options)

    @asynccontextmanager
    async def beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Work during the block; wait for its end at the block's end. A failure cancels both."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            yield


class SyncFront(Front):
    """The sync front, with the same names: an awaited method never suspends."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._stops: list[Callable[[], object]] = []

    def run(self, test: Test) -> None:
        self._stops.clear()
        _run(test(self))

    def receiver(self, *args: Any, **options: Any) -> Any:
        receiver: mpsr.Receiver[Any] = mpsr.Receiver(*args, **options)
        self._stops.append(receiver.stop)
        return _Awaited(receiver)

    def producer(self, *args: Any, **options: Any) -> Any:
        producer: mpsr.Producer[Any] = mpsr.Producer(*args, **options)
        self._stops.append(partial(producer.close, 0))
        return _Awaited(producer)

    @asynccontextmanager
    async def beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        with beside(lambda: _run(work()), self._stop_all):
            yield

    def _stop_all(self) -> None:
        """Stop each receiver and producer of the test, so that no thread waits for one."""
        for stop in self._stops:
            with suppress(mpsr.MpsrError):
                stop()


FRONTS = [SyncFront("sync"), Front("asyncio"), Front("uvloop"), Front("trio")]

_WAITING = frozenset(
    {"send", "send_many", "send_file", "flush", "close", "receive", "receive_batch"}
)


class _Awaited:
    """Makes the waiting methods of a sync object awaitable."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in _WAITING:
            return attribute

        async def awaited(*args: Any, **options: Any) -> Any:
            return attribute(*args, **options)

        return awaited

    async def __aenter__(self) -> Self:
        self._target.__enter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._target.__exit__(*exc)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self._target:
            yield item

    async def batches(self, **options: Any) -> AsyncIterator[Any]:
        for item in self._target.batches(**options):
            yield item


def _run(work: Awaitable[Any]) -> None:
    async def main() -> None:
        await work

    try:
        main().send(None)
    except StopIteration:
        return
    raise AssertionError("the sync front suspended")
