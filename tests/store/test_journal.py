"""What a journal promises of what it was given."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsr.batch import UNKNOWN_PEER, ProducerIdentity
from mpsr.errors import Closed, ConfigurationError, JournalFull, MessageTooLarge
from mpsr.limits import KIB, MIB
from mpsr.store.journal import Journal
from mpsr.store.records import Entry, KnownProducer, Use
from tests.store.entries import PEER, PRODUCER, body, entry_of, numbered, read, read_all

SMALL = 4 * MIB


def disk(path: str) -> int:
    """Return what the directory takes on the disk."""
    return sum(file.stat().st_blocks * 512 for file in [Path(path), *Path(path).iterdir()])


def test_positions_count_messages_from_one_and_a_batch_of_none_takes_one(path: str) -> None:
    with Journal(path) as journal:
        assert journal.append([entry_of([b"a", b"b"]), entry_of([], lost=3)]) == [2, 3]
        assert journal.append([entry_of([b"c"])]) == [4]
        assert (journal.trimmed, journal.last) == (0, 4)


def test_entry_comes_back_as_it_was(path: str) -> None:
    entries = [
        entry_of([b"one", b"", b"three"], 2**63 - 4, lost=2**63 - 1),
        Entry(b"", 0, 0, lost=1),
        entry_of([b"x"])._replace(peer=UNKNOWN_PEER, producer=ProducerIdentity(bytes(16), "")),
    ]
    with Journal(path) as journal:
        positions = journal.append(entries)
        assert read(journal, 0) == list(zip(positions, entries, strict=True))
    with Journal(path) as journal:
        records = read(journal, 0)
        assert records == list(zip(positions, entries, strict=True))
        batch = records[0].entry.batch(decode=bytes.decode)
        assert (list(batch), batch.first_seq, batch.lost) == (
            ["one", "", "three"], 2**63 - 4, 2**63 - 1,
        )  # fmt: skip


def test_reading_begins_in_the_middle_of_a_batch(path: str) -> None:
    with Journal(path) as journal:
        journal.append([entry_of([b"a", b"bb", b"ccc"], 7, lost=5), entry_of([b"d"])])
        (middle, after) = read(journal, 1)
        batch = middle.entry.batch()
        assert (list(batch), len(batch), batch.nbytes) == ([b"bb", b"ccc"], 2, 5)
        assert (batch.first_seq, batch.lost) == (8, 0)
        assert (middle.position, after.position) == (3, 4)
        assert read(journal, 4) == []


def test_entry_may_count_only_the_last_messages_of_its_payload(path: str) -> None:
    whole = entry_of([b"a", b"bb", b"ccc"], 7)
    with Journal(path) as journal:
        journal.append([whole.after(1)])
        assert list(read(journal, 0)[0].entry.batch()) == [b"bb", b"ccc"]
        assert list(read(journal, 1)[0].entry.batch()) == [b"ccc"]


def test_read_gives_as_much_as_asked_and_one_at_least(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1 + n, 1, 10 * KIB) for n in range(10)])
        assert len(read(journal, 0, max_bytes=1)) == 1
        assert len(read(journal, 0, max_bytes=25 * KIB)) == 3
        assert len(read_all(journal, max_bytes=1)) == 10


def test_payload_may_be_any_buffer(path: str) -> None:
    entry = entry_of([b"abc"])
    with Journal(path) as journal:
        journal.append([entry._replace(payload=bytearray(entry.payload))])
        journal.append([entry._replace(payload=memoryview(entry.payload))])
        assert [list(record.entry.batch()) for record in read(journal, 0)] == [[b"abc"]] * 2


def test_batches_tell_where_their_producers_stand(path: str) -> None:
    with Journal(path) as journal:
        journal.append([entry_of([b"a", b"b"], 7), entry_of([b"c"], 9)])
        journal.append([Entry(b"", 0, 0, lost=1)])  # of no native producer
        assert journal.producers() == [KnownProducer(PEER.uid, PRODUCER, 3, 10)]
        journal.append([entry_of([], 15, lost=5)])
    with Journal(path) as journal:
        assert journal.producers() == [KnownProducer(PEER.uid, PRODUCER, 3, 15)]


def test_producers_are_kept_replaced_and_forgotten(path: str) -> None:
    one = KnownProducer(5, PRODUCER, 1, 2**64 - 1)
    other = KnownProducer(None, PRODUCER._replace(label=""), 2**32 - 1, 0)
    with Journal(path) as journal:
        journal.append([], producers=[one, other])
        journal.append([], producers=[one._replace(epoch=2)], forget=[(None, PRODUCER.id)])
        assert journal.producers() == [one._replace(epoch=2)]
    with Journal(path) as journal:
        assert journal.producers() == [one._replace(epoch=2)]


def test_producers_and_cursors_outlive_the_segments_that_told_of_them(path: str) -> None:
    with Journal(path, limit=SMALL) as journal:
        journal.append([entry_of([b"first"])])
        other = PRODUCER._replace(id=bytes(16))
        while journal.trimmed < 10:
            entry = entry_of([bytes(100 * KIB)], journal.last)
            journal.append([entry._replace(producer=other)])
            journal.move("reader", journal.last)
            journal.commit()
        expected = journal.producers(), journal.cursors(), journal.last
    assert len(expected[0]) == 2
    with Journal(path, limit=SMALL) as journal:
        assert (journal.producers(), journal.cursors(), journal.last) == expected


def test_moved_cursors_go_with_the_next_commit(path: str) -> None:
    with Journal(path) as journal:
        assert journal.cursor("a") == 0
        journal.append([numbered(1, 5)])
        journal.move("a", 2)
        journal.append([numbered(6, 5)])
        journal.move("a", 7)
    with Journal(path) as journal:
        assert journal.cursors() == {"a": 7}
        journal.drop("a")
        journal.commit()
    with Journal(path) as journal:
        assert journal.cursors() == {}


def test_cursor_stays_within_what_is_committed_and_never_goes_back(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 5)])
        journal.move("a", 3)
        for position in (2, 6):
            with pytest.raises(ValueError, match=f"3 to 5, not to {position}"):
                journal.move("a", position)


def test_segments_that_all_cursors_have_passed_are_trimmed_and_nothing_else(path: str) -> None:
    with Journal(path, limit=SMALL) as journal:
        for first in range(1, 41, 2):
            journal.append([numbered(first, 2, 50 * KIB)])
        segments = sorted(Path(path).glob("*.mpsr"))
        begins = [int(segment.stem) for segment in segments]
        assert len(begins) > 3
        journal.move("fast", 40)
        assert journal.cursor("slow") == 0
        assert not journal.trim()
        journal.move("slow", begins[2])  # in the third: two are passed
        assert journal.trim()
        assert journal.trimmed == begins[2] - 1
        assert [segment.exists() for segment in segments] == [
            False,
            False,
            *[True] * (len(segments) - 2),
        ]
        assert read_all(journal) == {n: body(n, 50 * KIB) for n in range(begins[2], 41)}
        assert journal.cursor("new") == begins[2] - 1
        journal.drop("new")
        journal.move("slow", 40)
        while journal.trim():
            pass
        assert (journal.trimmed, read(journal, 40)) == (40, [])
        assert journal.append([numbered(41, 1)]) == [41]
    with Journal(path) as journal:
        assert (journal.trimmed, read_all(journal)) == (40, {41: body(41)})


def test_what_is_done_with_is_kept_as_long_as_there_is_room(path: str) -> None:
    with Journal(path, limit=SMALL) as journal:
        while journal.used < SMALL / 2:
            journal.append([numbered(journal.last + 1, 1, 50 * KIB)])
            journal.move("reader", journal.last)
        assert journal.trimmed == 0
        while not journal.trimmed:
            journal.append([numbered(journal.last + 1, 1, 50 * KIB)])
            journal.move("reader", journal.last)
        assert SMALL / 2 < journal.used <= SMALL
        assert len(read_all(journal)) == journal.last - journal.trimmed > 40


def test_spool_keeps_nothing_that_is_done_with(path: str) -> None:
    with Journal(path, limit=SMALL, use=Use.SPOOL) as journal:
        while journal.last < 100:
            journal.append([numbered(journal.last + 1, 1, 50 * KIB)])
            journal.move("reader", journal.last)
            assert journal.used < SMALL / 2
        assert journal.trimmed > 80


def test_journal_without_cursors_keeps_everything(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 5)])
        assert not journal.trim()
        assert len(read_all(journal)) == 5


def test_full_journal_refuses_whole_appends_until_it_is_read(path: str) -> None:
    with Journal(path, limit=SMALL) as journal:
        journal.cursor("reader")
        last = 0
        with pytest.raises(JournalFull, match="its readers have moved on"):
            while True:
                journal.append([numbered(last + 1, 1, 100 * KIB), numbered(last + 2, 1, 9)])
                last += 2
        assert journal.last == last
        assert SMALL / 2 < journal.used <= SMALL
        assert disk(path) <= SMALL
        assert len(read_all(journal)) == last
        journal.move("reader", last)
        assert journal.append([numbered(last + 1, 1, 100 * KIB)]) == [last + 1]


@pytest.mark.parametrize("limit", [2 * MIB, 8 * MIB])
def test_directory_stays_within_the_limit_over_a_long_run(path: str, limit: int) -> None:
    with Journal(path, limit=limit) as journal:
        most = last = 0
        for _ in range(400):
            last = journal.append([numbered(last + 1, 1, 60 * KIB) for _ in range(2)])[-1]
            journal.move("reader", max(0, last - 8))
            most = max(most, disk(path))
        assert MIB / 2 < most <= limit


def test_what_can_never_fit_is_refused_for_good(path: str) -> None:
    with Journal(path, limit=SMALL) as journal:
        with pytest.raises(MessageTooLarge, match="raise its limit"):
            journal.append([numbered(1, 1, SMALL)])
        assert journal.append([numbered(1, 1)]) == [1]
    with pytest.raises(ConfigurationError):
        Journal(path, limit=1)


def test_lowered_limit_keeps_what_is_there(path: str) -> None:
    with Journal(path, limit=4 * SMALL) as journal:
        for first in range(1, 61):
            journal.append([numbered(first, 1, 100 * KIB)])
    with Journal(path, limit=SMALL) as journal:
        assert len(read_all(journal)) == 60
        journal.move("reader", 60)
        journal.append([numbered(61, 1, 100 * KIB)])


def test_closed_journal_says_so(path: str) -> None:
    journal = Journal(path)
    journal.close()
    journal.close()
    for use in (lambda: journal.append([]), journal.trim):
        with pytest.raises(Closed, match="was closed"):
            use()


def test_one_thread_appends_while_another_reads(path: str) -> None:
    count = 200
    with Journal(path) as journal:
        journal.cursor("reader")

        def append() -> None:
            for first in range(1, count, 4):
                journal.append([numbered(first, 2), numbered(first + 2, 2)])

        thread = threading.Thread(target=append)
        thread.start()
        position = 0
        found: list[bytes] = []
        while position < count:
            for record in read(journal, position):
                found += record.entry.batch()
                position = record.position
                journal.move("reader", position)
        thread.join()
    assert found == [body(n) for n in range(1, count + 1)]


def test_forked_child_cannot_use_or_disturb_it(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1)])
        pid = os.fork()
        if pid == 0:  # pragma: no cover - in a child
            try:
                journal.append([numbered(2, 1)])
            except Closed:
                del journal
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert journal.append([numbered(2, 1)]) == [2]
        assert len(read_all(journal)) == 2


def test_chdir_leads_nobody_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal("events.journal") as journal:
        monkeypatch.chdir("/")
        journal.append([numbered(1, 1)])
        assert read_all(journal) == {1: body(1)}
    assert os.listdir(tmp_path) == ["events.journal"]


def test_small_journal_gives_back_the_room_that_it_does_not_need(path: str) -> None:
    with Journal(path) as journal:
        journal.append([numbered(1, 1, 100 * KIB)])
        assert disk(path) > MIB
    assert disk(path) < 256 * KIB


actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 4), max_size=4)),
        st.tuples(st.just("move"), st.integers(0, 12)),
        st.tuples(st.sampled_from(["trim", "commit", "reopen"]), st.none()),
    ),
    max_size=12,
)


@given(actions)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_use_gives_back_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, object]]
) -> None:
    path = str(tmp_path_factory.mktemp("journal") / "events.journal")
    journal = Journal(path, limit=SMALL)
    journal.cursor("reader")
    expected: dict[int, bytes] = {}
    for action, argument in actions:
        if action == "append":
            entries = []
            last = journal.last
            for count in argument:  # type: ignore[attr-defined]
                entries.append(
                    numbered(last + 1, count, 40 * KIB) if count else entry_of([], lost=1)
                )
                expected |= {last + 1 + n: body(last + 1 + n, 40 * KIB) for n in range(count)}
                last += count or 1
            journal.append(entries)
            assert journal.last == last
        elif action == "move":
            here = journal.cursor("reader")
            journal.move("reader", min(here + argument, journal.last))  # type: ignore[operator]
        elif action == "reopen":
            journal.close()
            journal = Journal(path, limit=SMALL)
        else:
            getattr(journal, action)()
        assert journal.trimmed <= journal.cursor("reader")
        kept = {n: text for n, text in expected.items() if n > journal.trimmed}
        assert read_all(journal) == kept
    journal.close()
