"""What a producer does when others break in: signal handlers, threads, an exception."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.engine.sending.window import Window
from mpsr.errors import Closed, Undelivered
from mpsr.limits import LONG_MESSAGE, MIB, WRITE_BUFFERS, WRITE_TIMEOUT
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Pair = tuple[mpsr.Receiver[bytes], mpsr.Producer[bytes]]


@pytest.fixture
def pair(address: str) -> Iterator[Pair]:
    """Return the two ends, of which one has heard from the other."""
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address, linger=0) as producer:
        producer.send(b"first")
        assert receiver.receive(5) == b"first"
        receiver.acknowledge()
        yield receiver, producer
        receiver.acknowledge()


def once(before: Callable[[], object], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does something before, the first time."""
    calls = [before]

    def call(*args: Any, **options: Any) -> Any:
        if calls:
            calls.pop()()
        return function(*args, **options)

    return call


@pytest.mark.parametrize("place", ["as it is taken", "before the write"])
def test_signal_handler_may_send_within_a_send(
    pair: Pair, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it breaks in, both messages arrive, once."""
    receiver, producer = pair
    producer.stats()  # so that the message goes step by step
    connection = producer._outbox._connection
    assert connection is not None
    session = connection.session
    kind, name = (Window, "offer") if place == "as it is taken" else (type(session), "sent")
    handler = once(lambda: producer.send(b"handler"), getattr(kind, name))
    monkeypatch.setattr(kind, name, handler)
    producer.send(b"main")
    for number in range(5):
        producer.send(b"%d" % number)
    got = sorted(receiver.receive(5) for _ in range(7))
    assert got == sorted([b"main", b"handler", *(b"%d" % number for number in range(5))])
    receiver.acknowledge()
    producer.flush(5)
    assert producer.stats().accepted == 8


def test_batch_of_more_pieces_than_one_write_takes(pair: Pair) -> None:
    """However many long messages come together, they go in several writes."""
    receiver, producer = pair
    count = 2 * WRITE_BUFFERS + 1
    producer._window.packer.open(count * (LONG_MESSAGE + 8))
    messages = [number.to_bytes(4, "big") * (LONG_MESSAGE // 4) for number in range(count)]
    for message in messages:
        assert producer._window.packer.append(message)
    flushing = threading.Thread(target=producer.flush, args=(20,))
    flushing.start()
    assert [receiver.receive(5) for _ in messages] == messages
    receiver.acknowledge()
    flushing.join()
    assert producer.stats().connects == 1


def test_messages_share_batches_however_short_they_have_to_be(address: str) -> None:
    """The longest message that a producer takes is no limit on what travels together."""
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[bytes](address, max_message=100, linger=0.05) as producer,
    ):
        producer.send_many([bytes(100)] * 1000)
        flushing = threading.Thread(target=producer.flush, args=(20,))
        flushing.start()
        got = 0
        while got < 1000:
            got += len(receiver.receive_batch(5))
        receiver.acknowledge()
        flushing.join()
        assert receiver.stats().batches <= 10


def test_statistics_take_no_news_from_a_flush(pair: Pair) -> None:
    """Who asks for figures reads acknowledgements; who waits for them hears of it."""
    receiver, producer = pair
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            producer.stats()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(200):
            producer.send(b"message")
            answering = threading.Thread(target=producer.flush, args=(5,))
            answering.start()
            receiver.receive(5)
            receiver.acknowledge()
            answering.join(6)
            assert producer.stats().buffered == 0
    finally:
        done.set()
        looker.join()


@pytest.mark.timing
def test_bulk_sender_keeps_the_pace_of_a_slow_receiver(pair: Pair) -> None:
    """Who sends in bulk does not fill the buffer while the receiver reads."""
    receiver, producer = pair
    batch = [bytes(1000)] * 1000
    most = 0

    def send() -> None:
        nonlocal most
        for _ in range(10):
            producer.send_many(batch)
            most = max(most, producer._window.cost)

    sending = threading.Thread(target=send)
    sending.start()
    got = 0
    while got < 10 * len(batch):
        got += len(receiver.receive_batch(10))
        time.sleep(0.03)  # what a handler takes
    sending.join()
    assert most < 5 * MIB


@pytest.mark.timing
def test_close_does_not_wait_for_a_bulk_sender_that_does(pair: Pair) -> None:
    """Whose time is up breaks off the write in which another thread waits for room."""
    _, producer = pair
    ended: list[type[BaseException]] = []

    def send() -> None:
        try:
            while True:
                producer.send_many([bytes(1000)] * 1000)
        except Closed as exc:
            ended.append(type(exc))

    sending = threading.Thread(target=send)
    sending.start()
    eventually(lambda: producer._outbox.writing and producer._window.cost > MIB // 2)
    since = time.monotonic()
    with pytest.raises(Undelivered) as caught:
        producer.close(0.1)
    sending.join()
    assert time.monotonic() - since < WRITE_TIMEOUT / 2
    assert ended == [Closed]
    assert len(caught.value.messages) == producer.stats().buffered


@pytest.mark.timing
def test_light_sender_never_waits_for_a_full_socket(pair: Pair) -> None:
    """Who sends little at a time is not held up by a stalled receiver."""
    receiver, producer = pair
    since = time.monotonic()
    for _ in range(2000):
        producer.send(bytes(1000))
    assert time.monotonic() - since < WRITE_TIMEOUT
    got = 0
    while got < 2000:
        got += len(receiver.receive_batch(10))


def test_bulk_sender_goes_ahead_of_a_stalled_receiver(pair: Pair) -> None:
    """Who sends in bulk waits only for a moment, then the buffer takes what comes."""
    receiver, producer = pair
    sending = threading.Thread(target=producer.send_many, args=([bytes(1000)] * 10_000,))
    sending.start()
    sending.join(30)
    assert not sending.is_alive()
    assert producer._window.cost > 5 * MIB
    got = 0
    while got < 10_000:
        got += len(receiver.receive_batch(10))


def test_relative_path_means_the_directory_of_the_moment_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    monkeypatch.chdir(first)
    with mpsr.Producer("s") as producer:
        os.chdir(second)
        with mpsr.Receiver("s") as wrong, mpsr.Receiver(first / "s") as right:
            producer.send(b"hello")
            assert right.receive(timeout=10) == b"hello"
            assert wrong.stats().accepted == 0
            right.close()
        with mpsr.Receiver(first / "s") as right:
            producer.send(b"again")
            assert right.receive(timeout=10) == b"again"
