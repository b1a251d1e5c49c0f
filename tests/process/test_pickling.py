"""What crosses from one process to another: errors, producers, batches; and what does not."""

from __future__ import annotations

import copy
import inspect
import json
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import mpsr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.pool import Pool
    from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Give a pool of one process, which was spawned."""
    with SPAWN.Pool(1) as pool:
        yield pool
        pool.close()
        pool.join()


def fail(error: BaseException) -> None:
    raise error


def send_to_nobody(address: str) -> None:
    with mpsr.Producer[bytes](address) as producer:
        producer.send(b"to nobody")
        producer.flush(0.05)


def decode_nothing(address: str) -> None:
    with mpsr.Receiver(address, type="dgram", decode=json.loads) as receiver:
        with mpsr.Producer[bytes](address, type="dgram") as producer:
            producer.send(b"{")
        receiver.receive(10)


def send_through(producer: mpsr.Producer[Any], message: object) -> tuple[int, bytes]:
    with producer:
        producer.send(message)
        producer.flush(10)
        return os.getpid(), producer.id


def send_through_async(producer: mpsr.AsyncProducer[Any], message: object) -> int:
    async def main() -> None:
        async with producer:
            await producer.send(message)
            await producer.flush(10)

    anyio.run(main)
    return os.getpid()


def describe(batch: mpsr.Batch[Any]) -> tuple[Any, ...]:
    known = (batch.nbytes, batch.peer, batch.producer, batch.first_seq, batch.lost, batch.position)
    return list(batch), batch.raw, len(batch), batch[0], *known


ERRORS: list[mpsr.MpsrError] = [
    mpsr.NoReceiver("nobody listens", address="@events", pid=5),
    mpsr.DecodeError("no JSON", body=b"{"),
    mpsr.JournalFull("no room", path="events.journal"),
    mpsr.Rejected("malformed", code=3),
    mpsr.SendTimedOut("no room", messages=[b"a"]),
    mpsr.Undelivered("not delivered", messages=[b"a", b"b"]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_pool_raises_the_error_of_its_process(pool: Pool, error: mpsr.MpsrError) -> None:
    with pytest.raises(type(error)) as caught:
        pool.apply(fail, (error,))
    assert (caught.value.args, vars(caught.value)) == (error.args, vars(error))


def test_an_executor_outlives_the_errors_of_its_process(address: str) -> None:
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        pid = executor.submit(os.getpid).result()
        for error in ERRORS:
            with pytest.raises(type(error)) as caught:
                executor.submit(fail, error).result()
            assert (caught.value.args, vars(caught.value)) == (error.args, vars(error))
        with pytest.raises(mpsr.TimedOut, match="nothing is there"):
            executor.submit(send_to_nobody, address).result()
        with pytest.raises(mpsr.DecodeError) as undecoded:
            executor.submit(decode_nothing, address).result()
        assert undecoded.value.body == b"{"
        assert executor.submit(os.getpid).result() == pid


def test_a_producer_travels_as_its_arguments_and_is_made_anew(
    pool: Pool, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, name = os.path.split(address)
    monkeypatch.chdir(directory)
    with (
        mpsr.Receiver(address) as receiver,
        mpsr.Producer[Any](name, encode=to_text, label="given", timeout=5) as broken,
        mpsr.Producer[Any](name, encode=to_json, label="given", timeout=5) as producer,
    ):
        monkeypatch.chdir("/")
        running = pool.apply_async(send_through, (producer, {"n": 1}))
        batch = receiver.receive_batch(20)
        receiver.acknowledge()
        pid, identity = running.get(20)
        assert list(batch) == [b'{"n": 1}']
        assert batch.producer is not None
        assert (batch.peer.pid, batch.producer) == (pid, (identity, "given"))
        assert pid != os.getpid()
        assert identity != producer.id
        with pytest.raises(TypeError, match=r"bytes-like, not str.*encode= that returns bytes"):
            pool.apply(send_through, (broken, {"n": 1}))


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


def to_text(value: object) -> Any:
    return json.dumps(value)


def test_an_async_producer_travels_as_well(pool: Pool, address: str) -> None:
    with mpsr.Receiver(address) as receiver:
        producer = mpsr.AsyncProducer[bytes](address)
        running = pool.apply_async(send_through_async, (producer, b"message"))
        batch = receiver.receive_batch(20)
        receiver.acknowledge()
        assert (list(batch), batch.peer.pid) == ([b"message"], running.get(20))
        anyio.run(producer.close)


def test_a_process_is_spawned_with_a_producer(address: str) -> None:
    with mpsr.Receiver(address) as receiver, mpsr.Producer[bytes](address) as producer:
        process = SPAWN.Process(target=send_through, args=(producer, b"message"))
        process.start()
        batch = receiver.receive_batch(20)
        receiver.acknowledge()
        process.join()
        assert (list(batch), batch.peer.pid, process.exitcode) == ([b"message"], process.pid, 0)


@pytest.mark.parametrize("kind", [mpsr.Producer, mpsr.AsyncProducer])
def test_no_argument_of_a_producer_stays_behind(kind: type[Any], address: str) -> None:
    parameters = inspect.signature(kind).parameters
    given: dict[str, Any] = {
        "address": address,
        "type": "stream",
        "framing": "lines",
        "encode": to_json,
        "label": "label",
        "on_full": "raise",
        "timeout": 5.5,
        "buffer": 12345,
        "linger": 0.25,
        "max_message": 678,
        "exit_timeout": 2.5,
        "receiver_uid": 0,
        "spool": None,
    }
    assert given.keys() == parameters.keys()
    producer = kind(**given)
    function, _ = producer.__reduce__()
    assert function.keywords == given
    twin = pickle.loads(pickle.dumps(producer))
    assert twin._options == producer._options
    assert (twin._timeout, twin._encode, twin.address) == (5.5, to_json, producer.address)
    for each in (producer, twin):
        if kind is mpsr.Producer:
            each.close()
        else:
            anyio.run(each.close)


def test_a_datagram_producer_travels(address: str) -> None:
    with mpsr.Receiver(address, type="dgram") as receiver:
        with mpsr.Producer[bytes](address, type="dgram") as producer:
            with copy.copy(producer) as twin:
                twin.send(b"message")
        assert receiver.receive(5) == b"message"


def test_a_producer_that_cannot_travel_says_why(address: str, tmp_path: Path) -> None:
    with mpsr.Receiver(address):
        with mpsr.Producer[bytes](address, spool=tmp_path / "worker.spool") as producer:
            with pytest.raises(TypeError, match=r"cannot be pickled: its spool belongs to this "):
                pickle.dumps(producer)
        with pytest.raises(mpsr.Closed, match=r"is closed, and cannot be pickled"):
            pickle.dumps(producer)
        descriptor = os.open("/dev/null", os.O_RDONLY)
        try:
            with mpsr.Producer[bytes](f"fd:{descriptor}") as producer:
                with pytest.raises(TypeError, match=r"cannot be pickled: its descriptor belongs"):
                    pickle.dumps(producer)
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("kind", [mpsr.Receiver, mpsr.AsyncReceiver])
def test_a_receiver_says_where_to_make_it(kind: type[Any], address: str) -> None:
    receiver = kind(address)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(receiver)
    assert str(caught.value) == (
        f"the receiver at {address} cannot be pickled: make it in the process that receives, and "
        "give the others a Producer"
    )
    if kind is mpsr.Receiver:
        receiver.close()
    else:
        anyio.run(receiver.close)


@pytest.mark.parametrize("journaled", [False, True])
def test_a_batch_travels_with_all_that_is_known_of_it(
    pool: Pool, address: str, tmp_path: Path, journaled: bool
) -> None:
    journal = tmp_path / "events.journal" if journaled else None
    with (
        mpsr.Receiver(address, decode=json.loads, journal=journal) as receiver,
        mpsr.Producer[bytes](address, label="label") as producer,
    ):
        producer.send_many(b"%d" % number for number in range(1000))
        seen = 0
        while seen < 1000:
            batch = receiver.receive_batch(5)
            assert pool.apply(describe, (batch,)) == describe(batch)
            seen += len(batch)
        receiver.acknowledge()


def test_a_batch_that_only_tells_of_losses_travels() -> None:
    batch = mpsr.Batch[bytes](list, 0, 0, mpsr.Peer(1, 2, 3), first_seq=7, lost=5)
    got = pickle.loads(pickle.dumps(batch))
    assert (len(got), got.nbytes, got.peer, got.first_seq, got.lost) == (0, 0, (1, 2, 3), 7, 5)


def test_copied_batch_decodes_where_it_is_touched() -> None:
    batch: mpsr.Batch[Any] = mpsr.Batch(lambda: [b"1", b"x"], 2, 2, decode=json.loads)
    got = pickle.loads(pickle.dumps(batch))
    assert got[0] == 1
    with pytest.raises(mpsr.DecodeError) as caught:
        got[1]
    assert caught.value.body == b"x"
