"""Who waits costs the others nothing, and is woken once there is what it waits for."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest

import mpsr
from mpsr.engine.sending.waiters import Waiters
from mpsr.engine.sending.window import Window


@pytest.fixture
def window() -> Window:
    return Window(foreign=None, on_full="block", buffer=1000, linger=0.0, max_message=1000)


def test_room_wakes_as_many_as_it_is_for_in_their_order(window: Window) -> None:
    waiters = Waiters(window)
    woken: list[int] = []
    for number, need in enumerate([400, 400, 400, 100]):
        waiters.add("room", need, partial(woken.append, number))
    assert waiters.wake()
    assert woken == [0, 1]
    assert waiters.wake()  # they have taken nothing
    assert woken == [0, 1, 2, 3]
    assert not waiters.wake()
    assert not waiters


def test_acceptance_wakes_those_whose_messages_are_accepted(window: Window) -> None:
    waiters = Waiters(window)
    woken: list[int] = []
    for need in (30, 10, 20):
        waiters.add("accepted", need, partial(woken.append, need))
    window.accept(19)
    waiters.wake()
    assert woken == [10]
    window.accept(30)
    waiters.wake()
    assert woken == [10, 20, 30]


def test_one_that_waits_no_longer_is_not_woken(window: Window) -> None:
    waiters = Waiters(window)
    woken: list[str] = []
    for until in ("room", "accepted", "spooled", "changed"):
        waiter = waiters.add(until, 0, partial(woken.append, until))
        waiters.remove(waiter)
        waiters.remove(waiter)
    waiters.wake()
    waiters.wake_all()
    assert woken == []


def test_end_wakes_everybody(window: Window) -> None:
    waiters = Waiters(window)
    woken: list[str] = []
    for until in ("room", "accepted", "spooled", "changed"):
        waiters.add(until, 10**6, partial(woken.append, until))
    waiters.wake_all()
    assert sorted(woken) == ["accepted", "changed", "room", "spooled"]


@pytest.mark.parametrize("tasks", [20, 500])
def test_tasks_that_wait_for_room_are_woken_no_more_often_than_they_need(
    address: str, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait, no message takes more than a few of them out of their sleep."""
    messages = 2000
    waits = 0
    wait = mpsr.AsyncProducer._wait

    async def counted(*args: object) -> bool:
        nonlocal waits
        waits += 1
        return await wait(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(mpsr.AsyncProducer, "_wait", counted)

    async def main() -> None:
        async with mpsr.AsyncProducer[bytes](address, buffer=20_000) as producer:

            async def send() -> None:
                for _ in range(messages // tasks):
                    await producer.send(bytes(1000))

            async with anyio.create_task_group() as group:
                for _ in range(tasks):
                    group.start_soon(send)

    with mpsr.Receiver(address) as receiver:
        thread = threading.Thread(target=lambda: list(receiver))
        thread.start()
        try:
            anyio.run(main)
        finally:
            receiver.stop()
            thread.join()
        assert receiver.stats().messages == messages
    assert waits < 3 * messages
