"""Hold what both ends promise each other over a connection."""

from __future__ import annotations

import tracemalloc

import pytest

from mpsr._speedups import codec
from mpsr.batch import Batch
from mpsr.errors import LocalProtocolError, Rejected, RemoteProtocolError
from mpsr.limits import MAX_MESSAGE
from mpsr.wire.frames import (
    HEADER,
    PREFACE,
    Ack,
    Bye,
    FrameType,
    Hello,
    Lost,
    Reject,
    RejectCode,
    Welcome,
    encode,
    max_frame,
)
from mpsr.wire.ledger import Ledger
from mpsr.wire.receiving import ReceivingSession
from mpsr.wire.sending import Acknowledged, SendingSession, Welcomed
from mpsr.wire.transitions import PRODUCER_TRANSITIONS, RECEIVER_TRANSITIONS, State
from tests.wire.pair import (
    PRODUCER_ID,
    ConnectionPair,
    Dropped,
    Messages,
    ReceiverEnd,
    frames_in,
    open_pair,
)

OTHER_ID = b"another producer"


def code(pair: ConnectionPair) -> int | None:
    """Return the code that the receiver closed with."""
    return None if pair.receiver.error is None else pair.receiver.error.code


# -- an undisturbed connection --------------------------------------------------------------


def test_messages_arrive_in_order_and_are_acknowledged() -> None:
    """The whole life of a connection, from HELLO to BYE."""
    pair = open_pair()
    assert pair.producer.state is State.OPEN
    pair.send([b"a", b"b"])
    pair.send([b"c"])
    pair.exchange()
    assert pair.receiver.bodies == [b"a", b"b", b"c"]
    pair.receiver.accept(3)
    pair.exchange()
    assert pair.told == [Welcomed(0, MAX_MESSAGE, 1), Acknowledged(0), Acknowledged(3)]
    pair.bye()
    pair.exchange()
    pair.cut()
    assert pair.receiver.orderly is True
    assert len(pair.receiver.ledger) == 0


def test_receiver_knows_who_speaks() -> None:
    """HELLO's id and label reach the receiver."""
    pair = ConnectionPair(producer_id=OTHER_ID, label="worker 7", lowest_seq=3)
    pair.exchange()
    assert pair.receiver.understood == [Hello(OTHER_ID, 3, "worker 7")]


def test_producer_learns_how_large_messages_may_be() -> None:
    """A producer packs what the receiver will take."""
    pair = open_pair(max_message=100_000)
    assert pair.told[0] == Welcomed(0, 100_000, 1)
    pair.send([b"x" * 100_000])
    pair.exchange()
    assert pair.receiver.bodies == [b"x" * 100_000]


def test_acknowledgement_may_stand_for_part_of_a_batch() -> None:
    """A number, not a batch, is what is acknowledged."""
    pair = open_pair()
    pair.send([b"a", b"b", b"c"])
    pair.exchange()
    pair.receiver.accept(2)
    pair.exchange()
    assert pair.accepted == 2


def test_nothing_is_acknowledged_that_the_receiver_did_not_accept() -> None:
    """To receive is not to accept."""
    pair = open_pair()
    pair.send([b"a"])
    pair.exchange()
    assert pair.accepted == 0
    assert pair.receiver.producer_state is not None
    assert pair.receiver.producer_state.expected_seq == 1


def test_batches_right_behind_hello_need_no_welcome() -> None:
    """A new producer may send at once; its batches wait for the answer to HELLO, not for it."""
    end = ReceiverEnd()
    data = PREFACE + encode(Hello(PRODUCER_ID, 0, "")) + codec.pack_batch([b"a", b"b"], 0)
    end.feed(data + encode(Lost(2, 3, 1)) + codec.pack_batch([b"c"], 5) + encode(Bye()))
    assert end.bodies == [b"a", b"b", b"c"]
    assert end.lost == 3
    assert [type(frame) for frame in frames_in(end.sent)] == [Welcome, Ack]
    end.finish()
    assert end.orderly is True


def test_batches_behind_hello_wait_for_the_answer() -> None:
    """Before its producer_state is known, nothing of a producer is received."""
    session = ReceivingSession()
    data = PREFACE + encode(Hello(PRODUCER_ID, 0, "")) + codec.pack_batch([b"a"], 0)
    session.receive_data(memoryview(data))
    session.receive_data(memoryview(codec.pack_batch([b"b"], 1)))
    assert session.events_received() == [Hello(PRODUCER_ID, 0, "")]
    assert session.state is State.GREETED
    assert session.data_to_send() == b""


def test_what_is_wrong_behind_hello_is_told_by_its_answer() -> None:
    """A HELLO that was told can always be answered, whatever came behind it."""
    session = ReceivingSession()
    data = PREFACE + encode(Hello(PRODUCER_ID, 0, "")) + codec.pack_batch([b"a"], 0)
    session.receive_data(memoryview(data + HEADER.pack(0, 7, 1, 0)))
    session.receive_data(memoryview(codec.pack_batch([b"b"], 1)))
    (hello,) = session.events_received()
    assert isinstance(hello, Hello)
    end = ReceiverEnd()
    end.feed(data)
    assert end.producer_state is not None
    end.producer_state.expected_seq = 0
    with pytest.raises(RemoteProtocolError, match="flags") as caught:
        session.welcome(end.producer_state)
    assert caught.value.code == RejectCode.MALFORMED
    (received,) = session.events_received()
    assert isinstance(received, Batch)
    assert list(received) == [b"a"]
    assert [type(frame) for frame in frames_in(session.data_to_send())] == [Welcome, Ack, Reject]


# -- a producer that returns ----------------------------------------------------------------


def test_returning_producer_learns_where_to_go_on() -> None:
    """WELCOME tells what was received, ACK what of it was accepted."""
    first = open_pair()
    first.send([b"a", b"b", b"c"])
    first.exchange()
    first.receiver.accept(1)
    first.cut()
    second = open_pair(first.receiver.ledger, lowest_seq=1)
    assert second.told == [Welcomed(3, MAX_MESSAGE, 2), Acknowledged(1)]


def test_overlap_after_a_return_is_dropped() -> None:
    """What is sent again, in whatever batches, is received once."""
    first = open_pair()
    first.send([b"a", b"b", b"c"])
    first.exchange()
    first.cut()
    second = open_pair(first.receiver.ledger)
    second.send([b"a", b"b"], first_seq=0)
    second.send([b"c", b"d", b"e"], first_seq=2)
    second.exchange()
    assert second.receiver.understood[1:] == [Messages(3, [b"d", b"e"])]
    assert second.refusal is None


def test_accepted_overlap_is_not_received_again() -> None:
    """A producer that missed an acknowledgement does no harm by sending again."""
    first = open_pair()
    first.send([b"a"])
    first.exchange()
    first.receiver.accept(1)  # and the answer is lost with the connection
    first.cut()
    second = open_pair(first.receiver.ledger)
    assert second.accepted == 1
    second.send([b"a"], first_seq=0)
    second.send([b"b"], first_seq=1)
    second.exchange()
    assert second.receiver.bodies == [b"b"]


def test_new_receiver_starts_where_the_producer_says() -> None:
    """A receiver that knows nothing is sent all that was not accepted."""
    first = open_pair()
    first.send([b"a", b"b"])
    first.exchange()
    first.receiver.accept(1)
    first.cut()
    second = open_pair(Ledger(), lowest_seq=1)
    second.send([b"b"], first_seq=1)
    second.exchange()
    assert second.receiver.understood[1:] == [Messages(1, [b"b"])]


def test_newer_connection_fences_the_older_one() -> None:
    """An old connection that lingers can no longer move the numbers."""
    old = open_pair()
    old.send([b"a"])
    old.exchange()
    new = open_pair(old.receiver.ledger)
    assert code(old) == RejectCode.FENCED
    old.exchange()
    assert isinstance(old.refusal, Rejected)
    assert old.refusal.code == RejectCode.FENCED
    old.receiver.session.receive_data(memoryview(codec.pack_batch([b"x"], 1)))
    assert old.receiver.session.events_received() == []
    new.send([b"b"], first_seq=1)
    new.exchange()
    assert new.receiver.bodies == [b"b"]


def test_another_producer_is_not_fenced() -> None:
    """Producers do not disturb each other."""
    ledger = Ledger()
    one, two = open_pair(ledger), ConnectionPair(ledger, producer_id=OTHER_ID)
    two.exchange()
    one.send([b"a"])
    two.send([b"b"])
    one.exchange()
    two.exchange()
    assert (one.receiver.bodies, two.receiver.bodies) == ([b"a"], [b"b"])
    assert (code(one), code(two)) == (None, None)


def test_receiver_without_room_asks_to_come_back() -> None:
    """BUSY closes the connection, and is told from what is final."""
    pair = open_pair(Ledger(most=0))
    assert code(pair) == RejectCode.BUSY
    assert isinstance(pair.refusal, Rejected)
    assert pair.refusal.code == RejectCode.BUSY


# -- gaps and losses ------------------------------------------------------------------------


def test_gap_is_refused() -> None:
    """A number that is missing is never guessed over."""
    pair = open_pair()
    pair.send([b"a"])
    pair.send([b"c"], first_seq=2)
    pair.exchange()
    assert code(pair) == RejectCode.GAP
    assert pair.receiver.bodies == [b"a"]
    assert str(pair.refusal) == "the receiver refused this producer: a gap: expected 1, got 2"


def test_gap_in_a_loss_is_refused() -> None:
    """Nor is a loss that does not follow."""
    pair = open_pair()
    pair.lose(2, first_seq=1)
    pair.exchange()
    assert code(pair) == RejectCode.GAP
    assert pair.receiver.lost == 0


def test_received_and_lost_add_up_to_sent() -> None:
    """Every number is either a message or a loss."""
    pair = open_pair()
    pair.send([b"a"])
    pair.lose(3)
    pair.lose(2)
    pair.send([b"b", b"c"])
    pair.lose(1)
    pair.exchange()
    assert pair.receiver.understood[1:] == [
        Messages(0, [b"a"]),
        Dropped(5),
        Messages(6, [b"b", b"c"]),
        Dropped(1),
    ]
    assert len(pair.receiver.bodies) + pair.receiver.lost == pair.next_seq


def test_loss_is_told_with_the_messages_behind_it() -> None:
    """A batch says what was lost before it."""
    session = ReceivingSession()
    pair = open_pair()
    assert pair.receiver.producer_state is not None
    session.receive_data(memoryview(PREFACE + encode(Hello(PRODUCER_ID, 0, ""))))
    session.welcome(pair.receiver.producer_state)
    session.events_received()
    session.receive_data(memoryview(encode(Lost(0, 3, 1)) + codec.pack_batch([b"a"], 3)))
    (event,) = session.events_received()
    assert isinstance(event, Batch)
    assert (event.first_seq, event.lost, list(event)) == (3, 3, [b"a"])


def test_loss_with_nothing_behind_it_is_told_at_once() -> None:
    """A loss does not wait for a message that may never come."""
    pair = open_pair()
    assert pair.receiver.producer_state is not None
    session = pair.receiver.session
    session.receive_data(memoryview(encode(Lost(0, 3, 1))))
    (event,) = session.events_received()
    assert isinstance(event, Batch)
    assert (event.first_seq, event.lost, list(event)) == (3, 3, [])
    assert (len(event), event.nbytes) == (0, 0)


def test_loss_is_counted_once_over_a_return() -> None:
    """A loss told again counts for what is new of it."""
    first = open_pair()
    first.lose(3)
    first.exchange()
    first.cut()
    second = open_pair(first.receiver.ledger)
    second.lose(5, first_seq=0)
    second.exchange()
    assert first.receiver.lost + second.receiver.lost == 5


@pytest.mark.parametrize("bad", [HEADER.pack(0, 7, 1, 0), codec.pack_batch([b"a"], 9)])
def test_loss_before_a_bad_frame_stays_counted(bad: bytes) -> None:
    """What is counted as received is told, even where the next frame breaks the format."""
    pair = open_pair()
    pair.receiver.feed(encode(Lost(0, 3, 1)) + bad)
    assert pair.receiver.error is not None
    assert pair.receiver.lost == 3


# -- the end --------------------------------------------------------------------------------


def test_end_without_bye_is_a_crash() -> None:
    """Only BYE makes an end orderly; a crashed producer is remembered."""
    pair = open_pair()
    pair.send([b"a"])
    pair.exchange()
    pair.receiver.accept(1)
    pair.cut()
    assert pair.receiver.orderly is False
    assert len(pair.receiver.ledger) == 1


def test_data_after_bye_is_refused() -> None:
    """Who said BYE says nothing more."""
    pair = open_pair()
    pair.bye()
    pair.exchange()
    pair.receiver.feed(codec.pack_batch([b"a"], 0))
    assert code(pair) == RejectCode.UNEXPECTED
    assert pair.receiver.bodies == []
    pair.receiver.finish()
    assert pair.receiver.orderly is False


def test_producer_cannot_send_after_bye() -> None:
    """Its own session holds a producer to its BYE."""
    pair = open_pair()
    pair.bye()
    with pytest.raises(LocalProtocolError, match=r"^BATCH cannot pass in state ENDED$"):
        pair.producer.sent(1)
    with pytest.raises(LocalProtocolError, match=r"^BYE cannot pass in state ENDED$"):
        pair.producer.bye()


def test_acknowledgement_that_crosses_bye_is_heard() -> None:
    """What was on its way when BYE was sent is no fault."""
    pair = open_pair()
    pair.send([b"a"])
    pair.deliver()
    pair.receiver.accept(1)
    pair.bye()
    pair.exchange()
    assert (pair.accepted, pair.refusal) == (1, None)


def test_nothing_is_acknowledged_to_who_said_bye() -> None:
    """No answer is made that nobody reads."""
    pair = open_pair()
    pair.send([b"a"])
    pair.bye()
    pair.exchange()
    pair.receiver.accept(1)
    assert pair.answer() == 0


def test_producer_cannot_send_before_welcome() -> None:
    """Where to go on is not known yet."""
    session = SendingSession(PRODUCER_ID, 0, "")
    with pytest.raises(LocalProtocolError, match=r"^BATCH cannot pass in state GREETED$"):
        session.sent(1)


def test_welcome_needs_a_hello() -> None:
    """An answer without a question is a defect of the caller, in every state."""
    pair = open_pair()
    assert pair.receiver.producer_state is not None
    with pytest.raises(LocalProtocolError, match="no HELLO to answer in state OPEN"):
        pair.receiver.session.welcome(pair.receiver.producer_state)
    with pytest.raises(LocalProtocolError, match="no HELLO to answer in state DETECTING"):
        ReceivingSession().welcome(pair.receiver.producer_state)


# -- a peer that breaks the rules -----------------------------------------------------------


def test_nothing_is_understood_after_a_failure() -> None:
    """A connection that broke the format once is not believed again."""
    pair = open_pair()
    pair.receiver.feed(encode(Ack(0)))
    assert code(pair) == RejectCode.UNEXPECTED
    sent = pair.receiver.sent
    pair.receiver.feed(codec.pack_batch([b"a"], 0))
    assert pair.receiver.bodies == []
    assert pair.receiver.sent == sent


def test_reject_is_sent_once() -> None:
    """The first fault is the one that is told."""
    session = ReceivingSession("native")
    with pytest.raises(RemoteProtocolError):
        session.receive_data(memoryview(b"x"))
    session.reject(RejectCode.DEADLINE, "too late")
    (reject,) = frames_in(session.data_to_send())
    assert isinstance(reject, Reject)
    assert reject.code == RejectCode.MALFORMED


def test_receiver_may_close_for_a_reason_of_its_own() -> None:
    """A deadline, say, is told in any state that can hear it."""
    pair = open_pair()
    pair.receiver.session.reject(RejectCode.DEADLINE, "its frame did not come in time")
    pair.receiver.sent += pair.receiver.session.data_to_send()
    pair.exchange()
    assert isinstance(pair.refusal, Rejected)
    assert pair.refusal.code == RejectCode.DEADLINE
    assert pair.producer.state is State.FAILED


@pytest.mark.parametrize("framing", ["lines", "null", "length", "eof"])
def test_foreign_peers_are_never_answered(framing: str) -> None:
    """Who speaks a framing without sessions would not understand a REJECT."""
    end = ReceiverEnd(framing, max_message=3)  # type: ignore[arg-type]
    end.feed(b"\0\0\0\x09too large")
    assert end.error is not None
    assert end.sent == b""


def test_producer_fails_for_good_at_a_bad_answer() -> None:
    """A receiver that breaks the format is not believed again."""
    pair = open_pair()
    with pytest.raises(RemoteProtocolError):
        pair.producer.receive_data(memoryview(encode(Bye())))
    assert pair.producer.state is State.FAILED
    with pytest.raises(RemoteProtocolError):
        pair.producer.receive_data(memoryview(encode(Ack(0))))
    with pytest.raises(LocalProtocolError):
        pair.producer.sent(1)


def test_producer_hears_what_came_before_a_bad_frame_in_the_same_read() -> None:
    """Whether a refusal is for good does not depend on how the bytes are cut."""
    pair = open_pair()
    pair.send([b"a"])
    answer = encode(Ack(1)) + encode(Reject(RejectCode.BUSY, "later")) + b"\xff" * HEADER.size
    with pytest.raises(Rejected) as e:
        pair.producer.receive_data(memoryview(answer))
    assert e.value.code == RejectCode.BUSY
    assert pair.producer.events_received()[-1] == Acknowledged(1)


def test_acknowledgement_of_what_was_not_sent_is_refused() -> None:
    """A receiver cannot accept what it cannot have."""
    pair = open_pair()
    pair.send([b"a"])
    with pytest.raises(
        RemoteProtocolError, match=r"^malformed ACK: it accepts 2, but only 1 "
    ) as e:
        pair.producer.receive_data(memoryview(encode(Ack(2))))
    assert e.value.code == RejectCode.MALFORMED
    assert not isinstance(e.value, Rejected)


def test_welcome_below_the_lowest_number_is_refused() -> None:
    """A producer has nothing left of what was accepted."""
    session = SendingSession(PRODUCER_ID, 5, "")
    with pytest.raises(RemoteProtocolError, match=r"^malformed WELCOME: it expects 4, but HELLO"):
        session.receive_data(memoryview(encode(Welcome(1, 4, 4096))))


# -- what a session holds -------------------------------------------------------------------


def test_begun_frame_is_pending() -> None:
    """An engine can tell a frame that has begun from a silent connection."""
    pair = open_pair()
    session = pair.receiver.session
    assert session.pending == 0
    data = codec.pack_batch([b"hello"], 0)
    for size in range(1, len(data)):
        session.receive_data(memoryview(data)[size - 1 : size])
        assert session.pending == size
    session.receive_data(memoryview(data)[-1:])
    assert session.pending == 0


def test_begun_preface_is_pending() -> None:
    """A preface that has begun counts like a frame."""
    session = ReceivingSession()
    assert session.pending == 0
    for size in range(1, len(PREFACE)):
        session.receive_data(memoryview(PREFACE)[size - 1 : size])
        assert session.pending == size
    session.receive_data(memoryview(PREFACE)[-1:])
    assert session.pending == 0


@pytest.mark.parametrize("kind", [FrameType.BATCH, FrameType.HELLO, 99])
def test_declared_4_gib_is_refused_and_allocates_nothing(kind: int) -> None:
    """A producer cannot make a receiver set memory aside by announcing much."""
    pair = open_pair()
    header = memoryview(HEADER.pack(0xFFFF_FFFF, kind, 0, 0))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError) as caught:
            pair.receiver.session.receive_data(header)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == RejectCode.TOO_LARGE
    assert peak < 64 * 1024


def test_producer_cannot_be_made_to_hold_much() -> None:
    """Nor can a receiver make a producer: all its frames are small."""
    session = SendingSession(PRODUCER_ID, 0, "")
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive_data(memoryview(HEADER.pack(4097, FrameType.REJECT, 0, 0)))
    assert caught.value.code == RejectCode.TOO_LARGE


def test_session_holds_no_more_than_a_frame_and_a_read() -> None:
    """However much a producer sends, what is not whole is bounded by one frame."""
    limit = 10_000
    pair = open_pair(max_message=limit)
    session = pair.receiver.session
    frame = codec.pack_batch([b"a" * limit], 0)
    piece = 777
    tracemalloc.start()
    try:
        for number in range(20):
            data = codec.pack_batch([b"a" * limit], number)
            for place in range(0, len(data), piece):
                session.receive_data(memoryview(data)[place : place + piece])
                assert session.pending <= HEADER.size + max_frame(limit)
            session.events_received()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3 * len(frame)


def test_session_keeps_nothing_of_a_buffer_that_may_change() -> None:
    """Batches share what they were read into only if it is bytes."""
    buffer = bytearray(b"hello\nwor")
    session = ReceivingSession()
    session.receive_data(memoryview(buffer))
    buffer[:] = b"xxxxxxxxx"
    session.receive_data(memoryview(b"ld\n"))
    events = session.events_received()
    assert [list(event) for event in events if isinstance(event, Batch)] == [[b"hello"], [b"world"]]


# -- the tables -----------------------------------------------------------------------------


def test_tables_agree_on_what_passes() -> None:
    """What one end may send in a state, the other can take in the same state.

    A receiver may refuse before HELLO is whole, when its producer has already greeted, a new
    receiver asks for a hand-over, and an observer for a status; a producer that said BYE may still
    hear what was on its way.
    """
    only_receiver = set(RECEIVER_TRANSITIONS) - set(PRODUCER_TRANSITIONS)
    only_producer = set(PRODUCER_TRANSITIONS) - set(RECEIVER_TRANSITIONS)
    assert only_receiver == {
        (State.PREFACE, FrameType.REJECT),
        (State.HELLO, FrameType.REJECT),
        (State.HELLO, FrameType.HANDOVER),
        (State.ASKED, FrameType.OFFER),
        (State.ASKED, FrameType.REJECT),
        (State.HELLO, FrameType.OBSERVE),
        (State.OBSERVED, FrameType.STATUS),
        (State.OBSERVED, FrameType.TAP),
        (State.OBSERVED, FrameType.REJECT),
    }
    assert only_producer == {
        (State.ENDED, FrameType.ACK),
        (State.ENDED, FrameType.REJECT),
        (State.ENDED, FrameType.RING),
    }
    for both in set(RECEIVER_TRANSITIONS) & set(PRODUCER_TRANSITIONS):
        assert RECEIVER_TRANSITIONS[both] is PRODUCER_TRANSITIONS[both]
