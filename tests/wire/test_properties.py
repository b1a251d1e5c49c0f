"""Let chance cut connections, and check that nothing is lost, doubled or out of order."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mpsr._speedups import codec
from mpsr.wire.frames import PREFACE, Bye, Hello, Lost, Observe, encode
from mpsr.wire.ledger import Ledger
from mpsr.wire.sending import Acknowledged, Welcomed
from mpsr.wire.transitions import State
from tests.wire.pair import (
    PRODUCER_ID,
    ConnectionPair,
    Messages,
    ReceiverEnd,
    bytewise,
    cut_at,
    open_pair,
)

BODIES = st.lists(st.binary(max_size=20), min_size=1, max_size=4)
SIZES = st.one_of(st.integers(1, 60), st.just(1_000_000))


class SendBatch(NamedTuple):
    """What a producer keeps until it is accepted: messages, or that there are none."""

    first_seq: int
    bodies: list[bytes]
    lost: int

    @property
    def end_seq(self) -> int:
        """The number behind the last."""
        return self.first_seq + len(self.bodies) + self.lost


class Disturbed(RuleBasedStateMachine):
    """One producer, one receiver's life, and any number of connections between them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.pairs: list[ConnectionPair] = []
        self.produced: list[bytes | None] = []  # by number; None was lost
        self.window: list[SendBatch] = []
        self.accepted = 0  # as far as the producer has heard
        self.alone = False  # whether messages are sent one by one
        self.connect()

    @property
    def pair(self) -> ConnectionPair:
        return self.pairs[-1]

    @property
    def log(self) -> list[bytes | None]:
        """What the receiver was told, over all connections."""
        log: list[bytes | None] = []
        for pair in self.pairs:
            for item in pair.receiver.understood[1:]:
                if isinstance(item, Messages):
                    assert item.first_seq == len(log)
                    log += item.bodies
                else:
                    assert not isinstance(item, Hello | Observe)
                    log += [None] * item.messages
        return log

    # -- the producer -----------------------------------------------------------------------

    @rule(bodies=BODIES)
    def produce(self, bodies: list[bytes]) -> None:
        self.keep(SendBatch(len(self.produced), bodies, 0))
        self.produced += bodies

    @rule(count=st.integers(1, 5))
    def drop(self, count: int) -> None:
        self.keep(SendBatch(len(self.produced), [], count))
        self.produced += [None] * count

    def keep(self, batch: SendBatch) -> None:
        self.window.append(batch)
        if self.pair.producer.state is State.OPEN:
            self.send(batch)

    def send(self, batch: SendBatch) -> None:
        first_seq, bodies, lost = batch
        if lost:
            self.pair.lose(lost, first_seq)
        elif self.alone:
            for seq, body in enumerate(bodies, first_seq):
                self.pair.send([body], seq)
        else:
            self.pair.send(bodies, first_seq)

    @rule()
    def connect(self) -> None:
        """Connect, whether or not the receiver has seen the end of the connection before.

        It has seen its beginning: a receiver takes the newest connection to be the one whose
        HELLO it reads last.
        """
        if self.pairs and self.pair.receiver.orderly is None and not self.pair.receiver.understood:
            self.pair.deliver()
        self.pairs.append(ConnectionPair(self.ledger, lowest_seq=self.accepted))

    @rule()
    def repack(self) -> None:
        self.alone = not self.alone

    # -- the way ----------------------------------------------------------------------------

    @rule(size=SIZES)
    def deliver(self, size: int) -> None:
        self.pair.deliver(size)

    @precondition(lambda self: len(self.pairs) > 1)
    @rule(size=SIZES)
    def deliver_late(self, size: int) -> None:
        """Bring what was on its way over the connection before."""
        self.pairs[-2].deliver(size)

    @rule(size=SIZES)
    def answer(self, size: int) -> None:
        before = len(self.pair.told)
        self.pair.answer(size)
        assert self.pair.refusal is None
        for told in self.pair.told[before:]:
            if isinstance(told, Welcomed):
                for batch in self.window:
                    if batch.end_seq > told.expected_seq:
                        self.send(batch)
            elif isinstance(told, Acknowledged):
                self.accepted = max(self.accepted, told.seq)
                self.window = [kept for kept in self.window if kept.end_seq > self.accepted]

    @rule(which=st.integers(1, 2))
    def cut(self, which: int) -> None:
        if which <= len(self.pairs):
            self.pairs[-which].cut()
        if which == 1:
            self.connect()

    # -- the receiver -----------------------------------------------------------------------

    @rule(part=st.floats(0, 1))
    def accept(self, part: float) -> None:
        producer_state = self.pair.receiver.producer_state
        if producer_state is not None:
            span = producer_state.expected_seq - producer_state.accepted_seq
            self.pair.receiver.accept(producer_state.accepted_seq + int(part * span))

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def everything_is_told_once_and_in_order(self) -> None:
        log = self.log
        assert log == self.produced[: len(log)]
        assert self.accepted <= len(log)

    def teardown(self) -> None:
        """With a connection that lasts, everything arrives."""
        self.cut(1)
        while self.pair.deliver():
            self.answer(1_000_000)
        assert self.log == self.produced
        self.accept(1.0)
        self.answer(1_000_000)
        assert self.accepted == len(self.produced)
        assert self.window == []


def test_cut_connections_deliver_everything_once_and_in_order() -> None:
    """Within one receiver's life, resending neither loses, doubles nor reorders."""
    run_state_machine_as_test(
        Disturbed, settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )


@given(
    parts=st.lists(st.one_of(BODIES, st.integers(1, 9)), max_size=8),
    places=st.lists(st.integers(0, 2000), max_size=20),
    orderly=st.booleans(),
)
def test_connection_means_the_same_however_it_is_cut(
    parts: list[list[bytes] | int], places: list[int], *, orderly: bool
) -> None:
    """Received and lost add up to what was sent, over any split of the bytes."""
    data = PREFACE + encode(Hello(PRODUCER_ID, 0, ""))
    seq = lost = 0
    bodies: list[bytes] = []
    for part in parts:
        if isinstance(part, int):
            data += encode(Lost(seq, part, 1))
            seq += part
            lost += part
        else:
            data += codec.pack_batch(part, seq)
            seq += len(part)
            bodies += part
    data += encode(Bye()) if orderly else b""
    ends = []
    for pieces in ([data], cut_at(data, places), bytewise(data)):
        end = ReceiverEnd()
        end.feed_all(pieces)
        end.finish()
        ends.append(end)
    assert [end.error for end in ends] == [None, None, None]
    assert ends[0].understood == ends[1].understood == ends[2].understood
    assert ends[0].sent == ends[1].sent == ends[2].sent
    assert all(end.bodies == bodies and end.lost == lost for end in ends)
    assert all(end.orderly is orderly for end in ends)
    assert len(bodies) + lost == seq


@given(
    sent=st.lists(BODIES, min_size=1, max_size=6),
    again=st.lists(st.integers(0, 30), max_size=6),
)
def test_whatever_is_sent_again_is_dropped(sent: list[list[bytes]], again: list[int]) -> None:
    """Batches over any stretch of old numbers, up to the newest, change nothing."""
    pair = open_pair()
    for bodies in sent:
        pair.send(bodies)
    pair.exchange()
    everything = [body for bodies in sent for body in bodies]
    for place in again:
        begin = place % len(everything)
        pair.receiver.feed(codec.pack_batch(everything[begin:], begin))
        pair.receiver.feed(encode(Lost(begin, len(everything) - begin, 1)))
    assert pair.receiver.bodies == everything
    assert pair.receiver.lost == 0
    assert pair.receiver.error is None


@given(seqs=st.lists(st.integers(0, 12), max_size=20))
def test_acknowledgements_only_rise(seqs: list[int]) -> None:
    """Whatever order they are heard in, the highest one counts; none is beyond what was sent."""
    pair = open_pair()
    pair.send([b"x"] * 12)
    pair.exchange()
    for seq in seqs:
        pair.receiver.session.acknowledge(seq)
        pair.receiver.sent += pair.receiver.session.data_to_send()
        pair.exchange()
    assert pair.refusal is None
    assert pair.accepted == max(seqs, default=0)
