"""Time-outs end while freezegun or time-machine has frozen Python's clocks."""

from __future__ import annotations

import json

import pytest

from tests.process.programs import run

# Each call has a time-out of 0.05 s. Its time is read from a clock that neither library replaces.
FROZEN = """
import asyncio, json, logging, socket, sys, time
from contextlib import ExitStack

directory, library, early = sys.argv[1:]

def freeze():
    if library == "freezegun":
        import freezegun
        return freezegun.freeze_time("2020-01-01")
    import time_machine
    return time_machine.travel("2020-01-01", tick=False)

with ExitStack() as frozen:
    if early:
        frozen.enter_context(freeze())
    import mpsr, mpsr.logging, mpsr.observe, mpsr.sinks
    from mpsr import limits
    from mpsr.sinks.nats.thread import LoopThread
    limits.HANDOVER_TIMEOUT = 0.05
    if not early:  # with all modules loaded
        warm = mpsr.Receiver(f"{directory}/warm", journal=f"{directory}/warm.journal")
        mpsr.Producer(f"{directory}/warm").close()
        warm.close()
        frozen.enter_context(freeze())
    assert time.time() == 1577836800

    seconds = {}

    def ends(name, expected, call):
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            outcome = call()
        except Exception as exc:
            outcome = type(exc).__name__
        assert outcome == expected, (name, outcome)
        seconds[name] = time.clock_gettime(time.CLOCK_BOOTTIME) - since

    nobody = f"{directory}/nobody"
    receiver = frozen.enter_context(mpsr.Receiver(f"{directory}/a"))
    journaled = frozen.enter_context(mpsr.Receiver(f"{directory}/b", journal=f"{directory}/j"))
    ends("receive", "TimedOut", lambda: receiver.receive(0.05))
    ends("receive_batch", "TimedOut", lambda: receiver.receive_batch(0.05))
    ends("journal", "TimedOut", lambda: journaled.receive(0.05))
    reader = mpsr.QueueReader(receiver)
    ends("get", "Empty", lambda: reader.get(timeout=0.05))

    producer = mpsr.Producer(nobody, buffer=1000)
    producer.send(bytes(900))
    ends("flush", "TimedOut", lambda: producer.flush(0.05))
    ends("send", "SendTimedOut", lambda: producer.send(bytes(900), 0.05))
    ends("put", "Full", lambda: mpsr.QueueWriter(producer).put(bytes(900), timeout=0.05))
    ends("close", "Undelivered", lambda: producer.close(0.05))

    handler = mpsr.logging.Handler(f"{directory}/a", timeout=0.05)
    handler.handle(logging.getLogger("test").makeRecord("test", 20, "f", 1, "text", (), None))
    receiver.receive(20)  # and is stuck from now on
    ends("Handler.flush", None, handler.flush)
    logging.raiseExceptions = False
    handler.close()

    server = frozen.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(f"{directory}/silent")
    server.listen()
    silent = f"{directory}/silent"
    ends("status", "TimedOut", lambda: mpsr.observe.status(silent, timeout=0.05))
    ends("handover", "AddressInUse", lambda: mpsr.Receiver(silent, handover=True))

    # What the background does after a time: a burst leaves, and a producer finds its receiver.
    with mpsr.Producer(f"{directory}/c", spool=f"{directory}/spool") as late:
        late.send_many([b"%d" % number for number in range(1000)])
        late.flush(5, spooled=True)
        with mpsr.Receiver(f"{directory}/c", journal=f"{directory}/c.journal") as found:
            assert [found.receive(20) for _ in range(1000)][-1] == b"999"
    with mpsr.sinks.Delivery(journaled, [f"file:{directory}/out"]) as delivery:
        ends("Delivery.wait", False, lambda: delivery.wait(0.05))
    loop = LoopThread("test")
    ends("LoopThread", None, lambda: loop.call(asyncio.sleep(0.05)))
    loop.close()
print(json.dumps(seconds))
"""

ASYNC = """
import json, sys, time
import anyio, freezegun, mpsr

directory, front = sys.argv[1:]

async def ends(name, expected, wait):
    since = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        await wait
    except expected:
        seconds[name] = time.clock_gettime(time.CLOCK_BOOTTIME) - since

async def test():
    async with mpsr.AsyncReceiver(f"{directory}/a") as receiver:
        await ends("receive", mpsr.TimedOut, receiver.receive(0.05))
    producer = mpsr.AsyncProducer(f"{directory}/nobody", buffer=1000)
    async with producer:
        await producer.send(bytes(900))
        await ends("flush", mpsr.TimedOut, producer.flush(0.05))
        await ends("send", mpsr.SendTimedOut, producer.send(bytes(900), 0.05))
        await ends("close", mpsr.Undelivered, producer.close(0.05))
    async with mpsr.AsyncProducer(f"{directory}/c") as late:
        for number in range(1000):
            await late.send(b"%d" % number)
        async with mpsr.AsyncReceiver(f"{directory}/c") as found:
            for number in range(1000):
                assert await found.receive(20) == b"%d" % number
            found.acknowledge()
            await late.flush(20)

seconds = {}
with freezegun.freeze_time("2020-01-01"):
    backend = "trio" if front == "trio" else "asyncio"
    options = {"use_uvloop": True} if front == "uvloop" else {}
    anyio.run(test, backend=backend, backend_options=options)
print(json.dumps(seconds))
"""


@pytest.mark.parametrize(
    ("library", "early"), [("freezegun", ""), ("freezegun", "early"), ("time_machine", "")]
)
def test_frozen_clock_stops_no_time_out(address: str, library: str, early: str) -> None:
    """Whether it was frozen before mpsr was imported, or after."""
    directory = address.rpartition("/")[0]
    outcome = run(FROZEN, directory, library, early)
    assert outcome.status == 0, outcome.complaint
    for name, seconds in json.loads(outcome.output).items():
        assert 0.04 < seconds < 10, name


@pytest.mark.parametrize("front", ["asyncio", "uvloop", "trio"])
def test_frozen_event_loop_stops_no_time_out(address: str, front: str) -> None:
    """The loop's own clock is frozen, too, unless it is in C, as uvloop's is."""
    directory = address.rpartition("/")[0]
    outcome = run(ASYNC, directory, front)
    assert outcome.status == 0, outcome.complaint
    found = json.loads(outcome.output)
    assert sorted(found) == ["close", "flush", "receive", "send"]
    assert all(0.04 < seconds < 10 for seconds in found.values()), found
