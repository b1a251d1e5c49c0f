"""Who reads a receiver's journal: one process, with cursors that keep their places."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.limits import MIB, MIN_JOURNAL_LIMIT
from mpsr.store.journal import Journal
from mpsr.store.reader import Reader
from tests.eventually import eventually
from tests.process import roles
from tests.process.stamps import stamp_of, stamped
from tests.process.workers import PATIENCE, beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.process.workers import Start


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """Give a path for a journal."""
    return str(tmp_path / "events.journal")


def fill(address: str, journal: str, *batches: Iterable[bytes]) -> None:
    """Have batches committed, and none of them handed out."""
    with mpsr.Receiver(address, journal=journal), mpsr.Producer(address) as producer:
        for batch in batches:
            producer.send_many(batch)
            producer.flush(PATIENCE)


def words(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def drained(receiver: mpsr.Receiver, **options: object) -> Iterator[mpsr.Batch]:
    """Stop a receiver, and hand out all that is left."""
    receiver.stop()
    return receiver.batches(**options)  # type: ignore[arg-type]


# -- whose it is ------------------------------------------------------------------------------


def test_second_receiver_is_refused_and_told_who_has_the_journal(
    start: Start, address: str, journal: str
) -> None:
    """The first is not disturbed by it."""
    owner = start(roles.receive_on_word, address, journal)
    assert owner.hear() == "ready"
    sender = start(roles.send, address, 100)
    assert sender.wait() == 0
    with pytest.raises(mpsr.JournalInUse, match=f"process {owner.pid} has it open") as refused:
        mpsr.Receiver(address + "2", journal=journal)
    assert refused.value.pid == owner.pid
    command = [sys.executable, "-m", "mpsr", "recv", address + "2", "--journal", journal]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith(f"mpsr: cannot open {journal}\n  why: process {owner.pid} has it")
    assert len(done.stderr.splitlines()) == 3
    assert not os.path.exists(address + "2")
    owner.tell("go on")
    assert start(roles.send, address, 100).wait() == 0
    owner.process.terminate()
    assert owner.hear() == [100, 100]


def test_child_of_a_fork_leaves_the_journal_to_its_parent(
    start: Start, address: str, journal: str
) -> None:
    """The child's receiver is closed; the parent's works on, whatever the child does."""
    parent = start(roles.receive_journaled_beside_children, address, journal)
    assert parent.hear() == "ready"
    with mpsr.Producer(address) as producer:
        producer.send(b"before")
        assert parent.hear() == "alone"
        producer.send(b"after")
    assert parent.hear() == ["before", "after"]
    assert parent.wait() == 0, parent.complaint()
    with Journal(journal) as journal_:
        assert (journal_.set_aside, journal_.cursor("main"), journal_.last) == (None, 2, 2)


# -- where they go on -------------------------------------------------------------------------


def test_next_receiver_goes_on_where_the_last_was_closed(address: str, journal: str) -> None:
    """To the message, if it was handed out message by message."""
    fill(address, journal, words(1, 5), words(6, 9))
    came: list[bytes] = []
    for messages in (2, 1, 3):
        with mpsr.Receiver(address, journal=journal) as receiver:
            came += islice(receiver, messages)
    with mpsr.Receiver(address, journal=journal) as receiver:
        last = [list(batch) for batch in drained(receiver)]
    assert came == words(1, 6)
    assert last == [words(7, 9)]


def test_next_receiver_goes_on_where_a_handler_failed(address: str, journal: str) -> None:
    """The batch in hand is handed out again, whole, at its position."""
    fill(address, journal, words(1, 5), words(6, 9), words(10, 12))
    for _ in range(2):
        with pytest.raises(RuntimeError), mpsr.Receiver(address, journal=journal) as receiver:
            for batch in receiver.batches():
                if b"7" in batch:
                    raise RuntimeError
    with mpsr.Receiver(address, journal=journal) as receiver:
        left = [(batch.position, list(batch)) for batch in drained(receiver)]
    assert left == [(9, words(6, 9)), (12, words(10, 12))]


def test_cursors_follow_at_their_own_pace(address: str, journal: str) -> None:
    """What the slowest has still to pass is kept; the others are not held up by it."""
    archived: list[bytes] = []
    with mpsr.Receiver(address, journal=journal) as receiver, mpsr.Producer(address) as producer:
        slow = receiver.batches(cursor="archive")
        producer.send_many(words(1, 10))
        archived += next(slow)
        for first in range(11, 101, 10):
            producer.send_many(words(first, first + 9))
        producer.flush(PATIENCE)
        assert list(islice(receiver, 100)) == words(1, 100)
        receiver.acknowledge()
    with Journal(journal) as kept:
        assert kept.cursors() == {"archive": 0, "main": 100}
        assert (kept.trimmed, kept.last) == (0, 100)

    def archive() -> None:
        for batch in receiver.batches(cursor="archive"):
            archived.extend(batch)
            if b"100" in batch:
                break

    with mpsr.Receiver(address, journal=journal) as receiver:
        archived.clear()
        with beside(archive):
            pass
        assert archived == words(1, 100)
    with Journal(journal) as kept:
        assert kept.cursors()["main"] == 100
        assert not kept.trim()  # the other one has not passed the segment
        kept.move("archive", 100)
        assert kept.trim()
        assert kept.trimmed == 100


def test_reader_in_a_thread_ends_with_the_receiver(address: str, journal: str) -> None:
    """stop() ends it behind the last message; close() ends it at once."""
    fill(address, journal, words(1, 10))
    for finish in ("stop", "close"):
        came: list[bytes] = []

        def follow() -> None:
            for batch in receiver.batches(cursor=finish):  # noqa: B023
                came.extend(batch)  # noqa: B023

        receiver: mpsr.Receiver = mpsr.Receiver(address, journal=journal)
        with beside(follow):
            eventually(partial(len, came))
            getattr(receiver, finish)()
        receiver.close()
        assert came == words(1, 10)


def test_position_resumes_exactly_behind_it(address: str, journal: str) -> None:
    """In mid-batch too; sequence numbers fit what is left of the batch."""
    fill(address, journal, words(1, 10), words(11, 20))
    for after, first_seqs in {0: [0, 10], 4: [4, 10], 10: [10], 19: [19], 20: []}.items():
        copy = shutil.copytree(journal, f"{journal}.{after}")
        with mpsr.Receiver(address, journal=copy) as receiver:
            batches = list(drained(receiver, after=after))
        assert [message for batch in batches for message in batch] == words(after + 1, 20)
        assert [batch.first_seq for batch in batches] == first_seqs
        assert [batch.position for batch in batches] == [10, 20][2 - len(batches) :]


@pytest.mark.parametrize("after", [-1, 21])
def test_position_that_the_journal_does_not_hold_is_refused(
    address: str, journal: str, after: int
) -> None:
    """Nobody goes on elsewhere without a word."""
    fill(address, journal, words(1, 20))
    with mpsr.Receiver(address, journal=journal) as receiver:
        with pytest.raises(mpsr.ConfigurationError, match=f"after={after}: .* holds .* 0 to 20"):
            next(receiver.batches(after=after))


def test_position_that_is_trimmed_is_refused(address: str, journal: str) -> None:
    """A handler that lost its results cannot have gone on."""
    fill(address, journal, words(1, 20))
    with mpsr.Receiver(address, journal=journal) as receiver:
        assert list(islice(receiver, 20)) == words(1, 20)
    with Journal(journal) as kept:
        assert kept.trim()
    fill(address, journal, words(21, 40))
    with mpsr.Receiver(address, journal=journal) as receiver:
        with pytest.raises(mpsr.ConfigurationError, match=r"after=5: .* holds .* 20 to 40"):
            next(receiver.batches(after=5))


def test_without_a_journal_there_are_no_positions(address: str) -> None:
    """``position`` is None, and what takes a journal says so."""
    with mpsr.Receiver(address) as receiver, mpsr.Producer(address) as producer:
        producer.send(b"1")
        assert receiver.receive_batch(PATIENCE).position is None
        for options in ({"after": 0}, {"cursor": "archive"}):
            with pytest.raises(mpsr.ConfigurationError, match="with a journal"):
                next(receiver.batches(**options))
        receiver.acknowledge()


# -- what comes ------------------------------------------------------------------------------


def test_foreign_messages_go_through_the_journal(address: str, journal: str) -> None:
    """Whole, with their peer; what was not handed out is there for the next receiver."""
    with mpsr.Receiver(address, journal=journal) as receiver:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.sendall(b"1\n2\n3")
        assert [receiver.receive(PATIENCE) for _ in range(3)] == words(1, 3)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.sendall(b"4\n5\n6\n")
        receiver.stop()
        assert receiver.receive(PATIENCE) == b"4"
    with mpsr.Receiver(address, journal=journal) as receiver:
        (batch,) = drained(receiver)
        assert (list(batch), batch.first_seq, batch.position) == (words(5, 6), 1, 6)
        assert batch.peer == mpsr.Peer(os.getpid(), os.getuid(), os.getgid())
        assert batch.producer is None


def test_close_tells_what_a_full_journal_did_not_take(
    address: str, journal: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What foreign clients sent, and is neither handed out nor kept, is counted."""
    receiver: mpsr.Receiver = mpsr.Receiver(address, journal=journal, journal_limit=2 * MIB)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += client.send(b"x" * 9_999 + b"\n")
    receiver.close()
    with Reader(journal) as kept:
        records = kept.read(0, max_bytes=4 * MIB)
        came = sum(entry.nbytes + entry.length for _, entry in records)
        messages = records[-1].position
    discarded = receiver.stats().discarded
    assert "not handed out" in caplog.text
    assert 0 < messages * 10_000 == came < sent
    assert sent - came - sent // 10_000 <= discarded <= sent - came


def test_datagrams_go_through_the_journal(address: str, journal: str) -> None:
    """Those that the kernel holds at stop() too."""
    with mpsr.Receiver(address, type="dgram", journal=journal) as receiver:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(address)
            for message in words(1, 5):
                client.send(message)
        assert receiver.receive(PATIENCE) == b"1"
        receiver.stop()
        assert list(receiver) == words(2, 5)
    with Journal(journal) as kept:
        assert kept.cursor("main") == kept.last == 5


def test_many_small_messages_fit_the_smallest_journal(address: str, journal: str) -> None:
    """Neither a read full of empty lines nor a crowd that speaks at once is too much for it."""
    lines, clients = 2_000_000, 300
    with mpsr.Receiver(address, journal=journal, journal_limit=MIN_JOURNAL_LIMIT) as receiver:

        def speak() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                client.sendall(b"\n" * lines)
            for _ in range(clients):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(address)
                    client.sendall(b"hello\n")
            receiver.stop()

        with beside(speak):
            batches = [(len(batch), batch.nbytes) for batch in receiver.batches()]
        assert receiver.stats().rejected == 0
    assert [sum(each) for each in zip(*batches, strict=True)] == [lines + clients, 5 * clients]


def test_what_is_read_back_is_decoded(address: str, journal: str) -> None:
    """``decode=`` sees the messages of an earlier receiver as it does new ones."""
    fill(address, journal, [b"1", b"2"], [b"x", b"4"])
    with mpsr.Receiver(address, journal=journal, decode=int) as receiver:
        assert list(receiver.receive_batch(PATIENCE)) == [1, 2]
        with pytest.raises(mpsr.DecodeError) as caught:
            receiver.receive(PATIENCE)
        assert (caught.value.body, caught.value.position) == (b"x", 3)
        assert caught.value.peer.pid == os.getpid()
        assert receiver.receive(PATIENCE) == 4


def test_cursor_passes_a_message_that_could_not_be_decoded(address: str, journal: str) -> None:
    """A loop that catches DecodeError continues after the message, and so does a restart."""
    fill(address, journal, [b"1", b"x"], [b"y", b"4"])
    with mpsr.Receiver(address, journal=journal, decode=int) as receiver:
        found: list[object] = []
        for _ in range(3):
            try:
                for message in receiver:
                    found += [message]
            except mpsr.DecodeError as exc:
                found.append((exc.position, exc.body))
                if exc.body == b"y":
                    break
    assert found == [1, (2, b"x"), (3, b"y")]
    with mpsr.Receiver(address, journal=journal, decode=int) as receiver:
        assert receiver.receive(PATIENCE) == 4


def test_losses_are_told_from_the_journal(address: str, journal: str) -> None:
    """The next receiver tells how many messages a producer dropped, and where."""
    with mpsr.Producer(address, on_full="drop_newest", buffer=100) as producer:
        for number in range(10):  # nobody listens yet
            producer.send(b"%d" % number * 30)
        lost = producer.stats().lost
        assert lost > 0
        with mpsr.Receiver(address, journal=journal):
            producer.flush(PATIENCE)
            producer.send(b"last")
            producer.flush(PATIENCE)
    for _ in range(2):
        with suppress(RuntimeError), mpsr.Receiver(address, journal=journal) as receiver:
            fresh = receiver.batches(cursor=drain(receiver))
            batches = [(batch.lost, list(batch)) for batch in fresh]
            raise RuntimeError
        assert sum(each for each, _ in batches) == lost
        assert batches[-1][1][-1] == b"last"
        assert sum(len(messages) for _, messages in batches) == 11 - lost


def drain(receiver: mpsr.Receiver) -> str:
    """Stop a receiver; return the name of a cursor that has passed nothing."""
    receiver.stop()
    return f"fresh {time.monotonic_ns()}"


# -- damage ----------------------------------------------------------------------------------


def harm(journal: str, chance: random.Random) -> str:
    """Flip bits of a segment, zero a block, or cut it; tell what was done."""
    segment = chance.choice(sorted(Path(journal).glob("*.mpsr")))
    data = bytearray(segment.read_bytes())
    used = len(data.rstrip(b"\0"))
    place = chance.randrange(used)
    what = chance.choice(["flipped", "zeroed", "cut"])
    if what == "cut":
        del data[place:]
    elif what == "zeroed":
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    else:
        data[place] ^= 1 << chance.randrange(8)
    segment.write_bytes(data)
    return f"{segment.name} {what} at {place} of {used}"


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.soak)])
@pytest.mark.timeout(300)
def test_receiver_of_a_damaged_journal_hands_out_nothing_wrong(
    start: Start, address: str, journal: str, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """It starts within 2 s of CPU, if need be with a new journal, logs that, and works."""
    owner = start(roles.receive_on_word, address, journal, journal_limit=16 * MIB)
    assert owner.hear() == "ready"
    with mpsr.Producer(address) as producer:
        for first in range(0, 1000, 10):
            producer.send_many([stamped(first + n, size=3000) for n in range(10)])
            producer.flush(PATIENCE)
    owner.kill()
    outcomes = set()
    for seed in range(count):
        path = shutil.copytree(journal, f"{journal}.{seed}")
        done = harm(path, random.Random(seed))
        caplog.clear()
        before = time.process_time()
        numbers = []
        with mpsr.Receiver(address, journal=path) as receiver:
            outcome = "set aside" if receiver.journal_set_aside else "whole"
            receiver.stop()
            try:
                for batch in receiver.batches():
                    numbers += [stamp_of(message).number for message in batch]
            except mpsr.JournalDamaged as exc:
                outcome = "unreadable" if exc.position == len(numbers) + 1 else str(exc)
        assert time.process_time() - before < 2, done
        assert numbers == [*range(len(numbers))], done
        # What is harmed in the last write looks like a write that a crash has torn.
        torn = outcome == "whole" and len(numbers) == 990
        assert torn or (len(numbers) == 1000) == (outcome == "whole"), (done, outcome, len(numbers))
        if outcome == "set aside":
            assert "it was moved to" in caplog.text
            assert numbers == []
        outcomes.add(outcome)
    assert outcomes >= {"unreadable", "set aside"}
