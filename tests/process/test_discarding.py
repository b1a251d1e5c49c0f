"""Producers that are discarded without close()."""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import mpsr
from tests.eventually import eventually
from tests.process.programs import receiving, run

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30  # seconds


@contextmanager
def warned() -> Iterator[list[str]]:
    """Give the texts of the ResourceWarnings of the block, from whatever thread."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield texts
        gc.collect()
    texts += [str(each.message) for each in caught]


def collected() -> bool:
    gc.collect()
    return True


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("how", ["at once", "in a cycle"])
def test_discarded_producer_warns_delivers_and_releases_all(address: str, how: str) -> None:
    with receiving(address) as received:
        before = open_descriptors()
        with warned() as texts:
            producer: Any = mpsr.Producer(address)
            producer.send_many([b"%d" % number for number in range(1000)])
            if how == "in a cycle":
                producer.me = producer
            del producer
            eventually(lambda: len(received) == 1000)
            # Its thread has a reference to it while it works, and it may be in a cycle.
            eventually(lambda: collected() and open_descriptors() <= before, interval=0.05)
        assert texts == [f"unclosed <Producer for {address}>"]
    assert received == [b"%d" % number for number in range(1000)]


def test_discarded_producer_waits_for_its_receiver(address: str) -> None:
    with warned() as texts:
        mpsr.Producer(address).send(b"message")
        with mpsr.Receiver(address) as receiver:
            assert receiver.receive(PATIENCE) == b"message"
            receiver.acknowledge()
            eventually(lambda: not (receiver.ready() or receiver.stats().connections))
    assert texts == [f"unclosed <Producer for {address}>"]


def test_discarded_producer_of_an_ending_program_reports_what_is_left(address: str) -> None:
    program = (
        "import sys, mpsr, time, warnings\n"
        "seen = []\n"
        "warnings.simplefilter('always')\n"
        "warnings.showwarning = lambda message, *rest: seen.append(message)\n"
        "mpsr.Producer(sys.argv[1], exit_timeout=0.1).send(b'message')\n"
        "while not seen: time.sleep(0.001)\n"  # its thread may be at work with it
        "print(seen[0])\n"
    )
    outcome = run(program, address)
    assert (outcome.status, outcome.output) == (0, f"unclosed <Producer for {address}>\n")
    assert outcome.complaint.startswith(f"mpsr: 1 message to {address} not delivered: ")


def test_producer_that_the_programs_end_closes_does_not_warn(address: str) -> None:
    program = (
        "import sys, mpsr, warnings\n"
        "warnings.simplefilter('always')\n"
        "producer = mpsr.Producer(sys.argv[1]); producer.send(b'1')\n"
        "writer = mpsr.queue(sys.argv[1]); writer.put(b'2'); writer.close()\n"
    )
    with receiving(address) as received:
        outcome = run(program, address)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert sorted(received) == [b"1", b"2"]


def test_producers_that_were_closed_do_not_warn(address: str) -> None:
    async def main() -> None:
        async with mpsr.AsyncProducer[bytes](address) as producer:
            await producer.send(b"2")
        await mpsr.AsyncProducer[bytes](address).close()

    with receiving(address) as received, warned() as texts:
        with mpsr.Producer[bytes](address) as producer:
            producer.send(b"1")
        del producer
        anyio.run(main)
    assert received == [b"1", b"2"]
    assert texts == []


def test_closed_writer_of_a_queue_delivers_and_releases_all(address: str) -> None:
    """It need not be joined, as that of the standard library need not be."""
    with receiving(address) as received, warned() as texts:
        before = open_descriptors()
        writer = mpsr.queue(address)
        writer.put(b"message")
        writer.close()
        eventually(lambda: open_descriptors() <= before)
        assert received == [b"message"]
        del writer
    assert texts == []


def test_discarded_async_producer_warns_and_reports_what_is_lost(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        mpsr.AsyncProducer[bytes](address)
        producer = mpsr.AsyncProducer[bytes](address)
        await producer.__aenter__()
        await producer.send(b"message")
        assert producer._tasks is not None
        producer._tasks.cancel_scope.cancel()
        await producer._tasks.__aexit__(None, None, None)

    before = open_descriptors()
    with warned() as texts:
        anyio.run(main)
    assert texts == [f"unclosed <AsyncProducer for {address}>"] * 2
    assert f"discarded: 1 message to {address} not delivered: " in caplog.text
    assert open_descriptors() <= before
