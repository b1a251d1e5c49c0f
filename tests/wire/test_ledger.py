"""Keep each producer's numbers for as long as it may send again."""

from __future__ import annotations

import pytest

from mpsr.batch import ProducerIdentity
from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_PRODUCERS, PRODUCER_EXPIRY
from mpsr.wire.frames import RejectCode
from mpsr.wire.ledger import Ledger, ProducerState

UID = 1000


def identity(number: int, label: str = "") -> ProducerIdentity:
    return ProducerIdentity(number.to_bytes(16, "big"), label)


def numbers(producer_state: ProducerState) -> tuple[int, int, int]:
    return producer_state.expected_seq, producer_state.accepted_seq, producer_state.epoch


def leave(
    ledger: Ledger, producer_state: ProducerState, now: float, *, orderly: bool = False
) -> None:
    """Have a producer send a message that is not accepted, and go."""
    producer_state.expected_seq += 1
    ledger.gone(producer_state, now, orderly=orderly)


def test_new_producer_starts_at_its_lowest_number() -> None:
    """A receiver that knows nothing of a producer believes its HELLO."""
    producer_state = Ledger().open(UID, identity(1, "one"), 7, 0.0)
    assert numbers(producer_state) == (7, 7, 1)
    assert producer_state.identity == identity(1, "one")


def test_returning_producer_goes_on_where_it_stood() -> None:
    """What was received stays received; the epoch counts its connections."""
    ledger = Ledger()
    producer_state = ledger.open(UID, identity(1), 0, 0.0)
    producer_state.expected_seq, producer_state.accepted_seq = 5, 3
    ledger.gone(producer_state, 1.0, orderly=False)
    assert numbers(ledger.open(UID, identity(1, "renamed"), 3, 2.0)) == (5, 3, 2)
    assert producer_state.identity.label == "renamed"


def test_producer_is_believed_what_it_need_not_send() -> None:
    """What lies below HELLO's lowest number was accepted, if only by an earlier receiver."""
    ledger = Ledger()
    leave(ledger, ledger.open(UID, identity(1), 0, 0.0), 1.0)
    assert numbers(ledger.open(UID, identity(1), 9, 2.0)) == (9, 9, 2)


def test_another_user_cannot_speak_for_a_producer() -> None:
    """The same id under another uid is another producer."""
    ledger = Ledger()
    mine = ledger.open(UID, identity(1), 0, 0.0)
    mine.expected_seq = 5
    mine.fence = lambda: pytest.fail("fenced by another user")
    theirs = ledger.open(UID + 1, identity(1), 0, 0.0)
    nobodys = ledger.open(None, identity(1), 0, 0.0)
    assert numbers(theirs) == numbers(nobodys) == (0, 0, 1)
    assert len(ledger) == 3


def test_newer_connection_fences_the_older() -> None:
    """A producer has one live connection, the newest."""
    ledger = Ledger()
    fenced: list[str] = []
    producer_state = ledger.open(UID, identity(1), 0, 0.0)
    producer_state.fence = lambda: fenced.append("first")
    assert ledger.open(UID, identity(1), 0, 0.0) is producer_state
    producer_state.fence = lambda: fenced.append("second")
    assert fenced == ["first"]
    assert numbers(producer_state) == (0, 0, 2)
    assert len(ledger) == 1


def test_older_connection_that_is_read_late_does_not_fence_the_newer() -> None:
    """Connections are old or new by when they were accepted, not by when HELLO was read."""
    ledger = Ledger()
    producer_state = ledger.open(UID, identity(1), 0, 0.0, order=2)
    with pytest.raises(RemoteProtocolError, match="newer") as caught:
        ledger.open(UID, identity(1), 0, 0.0, order=1)
    assert caught.value.code == RejectCode.FENCED
    assert numbers(producer_state) == (0, 0, 1)


def test_live_track_without_a_fence_is_taken_over() -> None:
    """Between HELLO and its answer, a connection has nothing to fence."""
    ledger = Ledger()
    assert ledger.open(UID, identity(1), 0, 0.0) is ledger.open(UID, identity(1), 0, 0.0)


@pytest.mark.parametrize(
    ("expected", "accepted", "orderly", "kept"),
    [
        (5, 5, True, 0),
        (5, 4, True, 1),
        (5, 5, False, 1),
        (5, 4, False, 1),
        (0, 0, True, 0),
        (0, 0, False, 0),
    ],
)
def test_producer_is_forgotten_when_it_ended_with_nothing_to_send(
    expected: int, accepted: int, *, orderly: bool, kept: int
) -> None:
    """A goodbye with everything accepted leaves nothing to remember; anything else does."""
    ledger = Ledger()
    producer_state = ledger.open(UID, identity(1), 0, 0.0)
    producer_state.expected_seq, producer_state.accepted_seq = expected, accepted
    ledger.gone(producer_state, 1.0, orderly=orderly)
    assert len(ledger) == kept
    assert producer_state.fence is None


def test_full_ledger_of_live_producers_turns_new_ones_away() -> None:
    """Who is connected is never forgotten; a new producer hears BUSY."""
    ledger = Ledger(most=2)
    ledger.open(UID, identity(1), 0, 0.0)
    ledger.open(UID, identity(2), 0, 0.0)
    with pytest.raises(RemoteProtocolError, match="already knows 2 producers") as caught:
        ledger.open(UID, identity(3), 0, 9.9)
    assert caught.value.code == RejectCode.BUSY
    assert len(ledger) == 2


def test_producers_that_never_sent_anything_leave_nothing_behind() -> None:
    """However many come and go, nobody is locked out by them."""
    ledger = Ledger(most=2)
    for number in range(1000):
        ledger.gone(ledger.open(UID, identity(number), number, 0.0), 0.0, orderly=False)
    assert len(ledger) == 0
    returned = ledger.open(UID, identity(1), 3, 0.0)
    returned.fence = None
    assert ledger.open(UID, identity(1), 8, 0.0) is returned
    ledger.gone(returned, 0.0, orderly=False)
    assert len(ledger) == 0


def test_producer_that_returns_with_everything_accepted_leaves_nothing_behind() -> None:
    """By its own word it has nothing to send again."""
    ledger = Ledger()
    producer_state = ledger.open(UID, identity(1), 0, 0.0)
    producer_state.expected_seq = producer_state.accepted_seq = 5
    ledger.gone(producer_state, 1.0, orderly=False)
    assert len(ledger) == 1
    ledger.gone(ledger.open(UID, identity(1), 5, 2.0), 3.0, orderly=False)
    assert len(ledger) == 0


def test_rejected_producer_is_remembered_though_nothing_was_read() -> None:
    """It returns with what it had sent, and must not take the receiver for a forgetful one."""
    ledger = Ledger()
    for epoch in (1, 2, 3):
        state = ledger.open(UID, identity(1), 0, 0.0)
        assert state.epoch == epoch
        ledger.gone(state, 0.0, orderly=False, rejected=True)
    assert len(ledger) == 1


def test_full_ledger_forgets_the_longest_gone_of_the_user_who_has_most() -> None:
    """Who fills it makes room for others, and for itself, out of its own."""
    ledger = Ledger(most=5)
    ledger.forgotten = set()
    leave(ledger, ledger.open(UID, identity(0), 0, 0.0), 0.0)
    for number in (1, 2, 3, 4):
        leave(ledger, ledger.open(UID + 1, identity(number), 0, 0.0), float(number))
    ledger.open(UID + 1, identity(5), 0, 9.0)
    ledger.open(UID, identity(6), 0, 9.0)
    assert ledger.forgotten == {(UID + 1, identity(1).id), (UID + 1, identity(2).id)}
    assert len(ledger) == 5
    assert ledger.open(UID + 1, identity(2), 0, 9.0).epoch == 1  # it can tell
    assert ledger.open(UID, identity(0), 0, 9.0).epoch == 2


def test_known_producers_return_to_a_full_ledger() -> None:
    """Who is known needs no room."""
    ledger = Ledger(most=2)
    live = ledger.open(UID, identity(1), 0, 0.0)
    producer_state = ledger.open(UID, identity(2), 0, 0.0)
    leave(ledger, producer_state, 0.0)
    assert ledger.open(UID, identity(2), 0, 1.0) is producer_state
    assert ledger.open(UID, identity(1), 0, 1.0) is live


def test_long_gone_producers_are_forgotten() -> None:
    """What counts is when a producer left last."""
    ledger = Ledger(most=9, expiry=10.0)
    for number, left in ((1, 0.0), (2, 1.0), (3, 8.0)):
        leave(ledger, ledger.open(UID, identity(number), 0, 0.0), left)
    leave(ledger, ledger.open(UID, identity(2), 0, 5.0), 5.0)
    ledger.open(UID, identity(4), 0, 11.0)
    assert len(ledger) == 3
    assert ledger.open(UID, identity(2), 0, 11.0).epoch == 3
    assert ledger.open(UID, identity(1), 0, 11.0).epoch == 1


def test_expired_producer_is_still_known_until_another_comes() -> None:
    """Nothing is forgotten before somebody new needs room."""
    ledger = Ledger(most=2, expiry=10.0)
    leave(ledger, ledger.open(UID, identity(1), 0, 0.0), 0.0)
    assert ledger.open(UID, identity(1), 0, 99.0).epoch == 2


def test_defaults_are_the_documented_limits() -> None:
    """65,536 producers, for an hour."""
    ledger = Ledger()
    assert (ledger._most, ledger._expiry) == (MAX_PRODUCERS, PRODUCER_EXPIRY) == (65_536, 3600.0)
