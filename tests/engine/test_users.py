"""Users take turns by bytes, and each stays within what it may have; with a clock of the test's."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpsr
from mpsr._speedups import codec
from mpsr.engine.receiving.allowances import Allowances, UserLimits, cost
from mpsr.engine.receiving.inbox import Inbox
from mpsr.engine.receiving.turns import Turns
from mpsr.limits import KIB, MIB, SILENCE, TURN_COST, TURN_CREDIT
from mpsr.system.address import parse_address
from mpsr.system.endpoint import claim
from mpsr.system.poller import WRITE
from mpsr.wire.frames import PREFACE, Hello, RejectCode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Limits

CHUNK = 1000  # bytes that one read brings
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")


# -- turns ------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, 200_000), min_size=1, max_size=5), min_size=2, max_size=5))
def test_backlogged_users_are_served_alike(users: list[list[int]]) -> None:
    """However many sources a user has, and whatever they bring, bytes are shared evenly."""
    turns: Turns[tuple[int, int]] = Turns()
    for user, sizes in enumerate(users):
        for number in range(len(sizes)):
            turns.add(user, (user, number), 1)
            turns.add(user, (user, number), 4)  # once more: it is still one
    served = Counter[int]()
    seen = Counter[tuple[int, int]]()
    for _ in range(400):
        whose, source, events = turns.take()
        user = source[0]
        assert whose == user
        assert events == (1 if seen[source] else 5)
        seen[source] += 1
        size = users[user][source[1]]
        turns.add(user, source, 1)
        turns.charge(user, size)
        served[user] += max(size, TURN_COST)
    largest = max(max(TURN_COST, *sizes) for sizes in users)
    assert max(served.values()) - min(served[user] for user in range(len(users))) <= 2 * largest
    for user, sizes in enumerate(users):  # a user's own sources come one after the other
        counts = [seen[user, number] for number in range(len(sizes))]
        assert max(counts) - min(counts) <= 1


def test_who_had_nothing_to_read_catches_up_on_little() -> None:
    """Credit does not gather; who comes back is not served alone for long."""
    turns: Turns[str] = Turns()
    turns.add("idle", "idle", 1)
    turns.charge(turns.take()[0], MIB)
    for _ in range(100):
        turns.add("busy", "busy", 1)
        turns.charge(turns.take()[0], MIB)
    served = 0
    turns.add("busy", "busy", 1)
    turns.add("idle", "idle", 1)
    while (taken := turns.take())[0] == "idle":
        turns.add("idle", "idle", 1)
        turns.charge("idle", 64 * KIB)
        served += 64 * KIB
    assert TURN_CREDIT <= served <= TURN_CREDIT + MIB + 64 * KIB
    turns.charge(taken[0], 1)
    while turns.waiting:
        turns.charge(turns.take()[0], 1)
    turns.forget("idle")
    turns.forget("busy")
    assert not turns._served


# -- allowances -------------------------------------------------------------------------------


class Source:
    """A connection that has messages to read, played by the test."""

    def __init__(self, user: int, sizes: list[int]) -> None:
        self.user = user
        self.left = deque(sizes)
        self.begun = 0

    def read(self) -> list[int]:
        """Read CHUNK bytes; return the messages that are whole with it."""
        room, whole = CHUNK, []
        while room and self.left:
            piece = min(room, self.left[0] - self.begun)
            self.begun += piece
            room -= piece
            if self.begun == self.left[0]:
                whole.append(self.left.popleft())
                self.begun = 0
        return whole


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(1, 5 * CHUNK), max_size=12)),
        min_size=1,
        max_size=8,
    ),
    st.none() | st.integers(1, 8 * CHUNK),
    st.none() | st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_users_stay_within_their_limits_and_all_is_read(
    given_sources: list[tuple[int, list[int]]], most: int | None, rate: int | None, chance: object
) -> None:
    """Whatever is sent, in any order: nobody waits for ever, and nothing spins."""
    shuffle, randint = chance.shuffle, chance.randint  # type: ignore[attr-defined]
    allowed: Allowances[Source] = Allowances(UserLimits(nbytes=most, rate=rate))
    sources = [Source(*each) for each in given_sources]
    largest = max((size for each in sources for size in each.left), default=0)
    expected = Counter[int]()
    for each in sources:
        expected[each.user] += len(each.left)
    reading, pending = set(sources), deque[tuple[int, list[int]]]()
    got, now, idle = Counter[int](), 0.0, 0
    while any(each.left for each in sources):
        released = allowed.release(now)
        reading.update(released)
        progress = bool(released)
        order = [each for each in sources if each in reading and each.left]
        shuffle(order)
        for each in order:
            if not allowed.may_read(each.user, each, now):
                allowed.hold(each.user, each, now)
                reading.discard(each)
                continue
            progress = True
            whole = each.read()
            allowed.read(each.user, sum(whole), len(whole), now)
            allowed.left(each.user, each, each.begun, now)
            pending.append((each.user, whole))
            got[each.user] += len(whole)
            flying = sum(
                cost(sum(sizes), len(sizes)) for user, sizes in pending if user == each.user
            )
            flying += sum(other.begun for other in sources if other.user == each.user)
            assert most is None or flying < most + largest + 2 * cost(CHUNK, CHUNK)
            assert rate is None or got[each.user] <= rate * (1 + now) + CHUNK + 1
        for _ in range(randint(0, 3) if progress else len(pending)):
            if pending:
                user, sizes = pending.popleft()
                allowed.accepted(user, sum(sizes), len(sizes))
                progress = True
        idle = 0 if progress else idle + 1
        assert idle < 3, "it is told to look, and there is nothing"
        if not progress:
            wait = allowed.wait_time(now)
            assert wait is not None, "nothing will ever be released"
            now += wait
    assert +got == +expected


def test_idle_users_are_forgotten(limits: Limits) -> None:
    """A process that can become many users cannot fill the memory, nor get new tokens."""
    limits(COUNTED_UIDS=3)
    allowed: Allowances[str] = Allowances(UserLimits(rate=10))
    allowed.read("spent", 1, 20, 0.0)
    for user in range(10):
        allowed.read(user, 100, 1, user)
        allowed.accepted(user, 100, 1)
        assert allowed.may_read("spent", "spent", user) is (user >= 2)
    assert len(allowed._accounts) <= 3


def test_connection_that_does_not_go_on_makes_way_for_another_one() -> None:
    """Where messages that are not whole take all that a user may have, one goes on at a time."""
    allowed: Allowances[str] = Allowances(UserLimits(nbytes=100))
    allowed.left("user", "first", 60, 0.0)
    allowed.left("user", "second", 60, 0.0)
    assert allowed.may_read("user", "first", 0.0)
    for each in ("second", "third"):
        assert not allowed.may_read("user", each, 0.0)
        allowed.hold("user", each, 0.0)
    allowed.left("user", "first", 70, 1.0)
    assert allowed.wait_time(2.0) == SILENCE - 1
    assert allowed.release(2.0) == []
    assert allowed.release(1 + SILENCE) == ["second"]
    assert not allowed.may_read("user", "first", 1 + SILENCE)
    allowed.left("user", "second", 0, 1 + SILENCE)
    allowed.read("user", 100, 1, 1 + SILENCE)
    assert allowed.wait_time(9.0) is None  # until it is accepted
    allowed.accepted("user", 100, 1)
    assert allowed.release(9.0) == ["third"]
    assert not allowed.holding
    allowed.hold("user", "third", 9.0)
    allowed.forget("user", "third")
    assert not allowed.holding


# -- the engine: two users ----------------------------------------------------------------------


@pytest.fixture
def receiver(address: str) -> Iterator[mpsr.Receiver[bytes]]:
    os.chmod(os.path.dirname(address), 0o755)
    with mpsr.Receiver(address, mode=0o666) as receiver:
        yield receiver


@as_root
@pytest.mark.parametrize("size", [100, 50_000])
def test_user_with_one_connection_gets_as_much_as_one_with_twenty(
    address: str, receiver: mpsr.Receiver[bytes], size: int
) -> None:
    """All that send at any time have something to read: then half of what is read is of each."""
    line = b"x" * (size - 1) + b"\n"
    data = line * (400_000 // size)
    got = Counter[int | None]()
    with ExitStack() as stack:
        left: dict[socket.socket, memoryview] = {}
        for number in range(21):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            os.seteuid(2000 if number == 7 else 3000)
            try:
                sock.connect(address)
            finally:
                os.seteuid(0)
            sock.setblocking(False)
            left[sock] = memoryview(data)
        while got.total() < 200 * MIB // (1 if size > KIB else 4):
            for sock, rest in left.items():
                with suppress(BlockingIOError):
                    left[sock] = rest[sock.send(rest) :] or memoryview(data)
            batch = receiver.try_receive_batch()
            if batch is not None:
                got[batch.peer.uid] += batch.nbytes
    assert 0.4 < got[2000] / got.total() < 0.6


# -- the engine: what is held -------------------------------------------------------------------


@pytest.fixture
def limited(address: str) -> Iterator[Inbox]:
    """Give an inbox that takes ten messages a second from each user."""
    engine = Inbox([(claim(parse_address(address)), "auto")], per_uid=UserLimits(rate=10))
    yield engine
    engine.close()


def connect(address: str, data: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    sock.sendall(data)
    sock.settimeout(5)
    return sock


def take_all(inbox: Inbox, now: float) -> list[bytes]:
    """Return what there is at a time, after some rounds."""
    got: list[bytes] = []
    for _ in range(10):
        batch = inbox.next_batch(now)
        got += batch or ()
    return got


def test_connection_that_is_held_costs_nothing_until_its_time(address: str, limited: Inbox) -> None:
    """Neither more data nor its end wakes the receiver; then all is read, and the end too."""
    with connect(address, b"%d\n" * 20 % tuple(range(20))) as sock:
        assert len(take_all(limited, 0)) == 20
        sock.sendall(b"more\nrest")
        assert take_all(limited, 0.5) == []
        assert limited.stats().limited
    # Timers count the clock's time, not the test's.
    assert [source for source, _ in limited._poller.poll(0) if source is not None] == []
    assert limited.wait_time(0.5) == pytest.approx(0.6)
    assert take_all(limited, 1.0) == []
    assert take_all(limited, 1.15) == [b"more"]
    assert limited.stats().connections == 1  # its end is behind the limit, too
    assert take_all(limited, 1.4) == [b"rest"]
    assert take_all(limited, 2) == []
    assert limited.stats().connections == 0
    assert not limited.stats().limited


def test_connection_that_is_held_is_not_late(address: str, limited: Inbox) -> None:
    """A frame that has begun may be read late, but then it must go on."""
    batch = codec.pack_batch([b"x"] * 200, 0)
    begun = codec.pack_batch([b"y"], 200)
    greeting = PREFACE + encode(Hello(bytes(16), 0, "test"))
    with connect(address, greeting + batch + begun[:20]) as sock:
        assert len(take_all(limited, 0)) == 200
        assert take_all(limited, 0.1) == []
        sock.sendall(begun[20:-1])
        for step in range(1, 180):
            assert take_all(limited, step / 10) == []
        assert limited.stats().connections == 1
        assert limited.stats().limited
        for step in range(180, 230):
            take_all(limited, step / 10)
        assert not limited.stats().limited
        assert limited.stats().connections == 1
        for step in range(230, 350):
            take_all(limited, step / 10)
        assert limited.stats().rejected == 1


def test_connection_that_is_held_is_answered(
    address: str, limited: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its peer has not read yet is sent, and its end is noted then."""
    for ends in (False, True):
        with connect(address, PREFACE + encode(Hello(os.urandom(16), 0, "test"))) as sock:
            sock.sendall(codec.pack_batch([b"x"] * 50, 0))
            assert len(take_all(limited, 100.0 * ends)) == 50
            sock.sendall(codec.pack_batch([b"y"], 50))
            assert take_all(limited, 100.0 * ends) == []
            (held,) = limited._connections.held
            with monkeypatch.context() as patch:
                patch.setattr(held.socket.__class__, "send", refuse, raising=False)
                assert held.state is not None
                limited._connections.pending_acks.add(held.state)
                limited.send_acks()
            assert held.out
            if ends:
                sock.close()
            for source, events in limited._poller.poll(1):
                if source is held:
                    limited._serve(source, events & WRITE)
            assert not held.out
            assert [each for each, _ in limited._poller.poll(0) if each is held] == []
            if ends:
                limited._connections.reject(held, "the test has seen enough", RejectCode.DEADLINE)
                assert not limited._connections.held
            else:
                assert take_all(limited, 50.0) == [b"y"]
    assert not limited._connections.users


def refuse(*_: object) -> int:
    raise BlockingIOError


def test_stop_takes_what_is_held(address: str, limited: Inbox) -> None:
    """What has arrived by the stop is handed out, whatever the rate."""
    with connect(address, b"x\n" * 50) as sock:
        assert len(take_all(limited, 0)) == 50
        sock.sendall(b"y\n" * 50)
        assert take_all(limited, 0) == []
        limited.stop()
        assert take_all(limited, 0) == [b"y"] * 50
    assert limited.finished
