"""Keep each producer's expected and accepted sequence numbers.

A producer is known by (uid, producer id), so that nobody can speak for another user's. Its
state is never forgotten while it is connected. Afterwards it is forgotten when it has been gone for
long, when it said goodbye with nothing left to send again, or when it never sent anything and left
by itself; and where there are too many, the longest gone of the user who has most goes first.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mpsr.errors import RemoteProtocolError
from mpsr.limits import MAX_PRODUCERS, PRODUCER_EXPIRY
from mpsr.wire.frames import RejectCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpsr.batch import ProducerIdentity

    Key = tuple[int | None, bytes]


class ProducerState:
    """Where one producer stands."""

    __slots__ = (
        "accepted_seq",
        "begin_seq",
        "epoch",
        "expected_seq",
        "fence",
        "identity",
        "key",
        "order",
    )

    def __init__(self, key: Key, identity: ProducerIdentity, seq: int, epoch: int = 0) -> None:
        self.key: Key = key
        self.identity: ProducerIdentity = identity
        self.begin_seq: int = (
            seq  # as long as this is expected, the producer has nothing to send again
        )
        self.expected_seq: int = seq  # everything below was received
        self.accepted_seq: int = seq  # everything below was acknowledged
        self.epoch: int = epoch  # how many connections it has had
        self.order: int = 0  # of the live connection, among all that were accepted
        self.fence: Callable[[], None] | None = None  # ends the live connection


class Ledger:
    """The states of all producers that may still send again."""

    def __init__(self, *, most: int = MAX_PRODUCERS, expiry: float = PRODUCER_EXPIRY) -> None:
        self._most = most
        self._expiry = expiry
        self._live: dict[Key, ProducerState] = {}
        self._gone: dict[
            int | None, dict[Key, tuple[ProducerState, float]]
        ] = {}  # by uid; oldest first
        self._counts: Counter[int | None] = Counter()  # states of each uid, live and gone
        self.forgotten: set[Key] | None = None
        """Whom it no longer knows; somebody who wants to hear of them puts a set here."""

    def __len__(self) -> int:
        return self._counts.total()

    def states(self) -> list[ProducerState]:
        """Return where each producer stands, whether it is connected or gone."""
        gone = (state for of in self._gone.values() for state, _ in of.values())
        return [*self._live.values(), *gone]

    def restore(self, states: Iterable[ProducerState], now: float) -> None:
        """Take back states that were kept elsewhere; of two of one producer, what is newer."""
        for state in states:
            uid, known = state.key[0], self._gone.get(state.key[0], {}).get(state.key)
            if known is not None:
                known[0].expected_seq = max(known[0].expected_seq, state.expected_seq)
                known[0].accepted_seq = max(known[0].accepted_seq, state.accepted_seq)
            else:
                state.begin_seq = -1
                self._counts[uid] += 1
                self._keep(state, now)

    def open(
        self,
        uid: int | None,
        identity: ProducerIdentity,
        lowest_seq: int,
        now: float,
        *,
        order: int = 0,
    ) -> ProducerState:
        """Return the state for a new connection, after fencing an older one.

        Which is newer tells the ``order`` in which they were accepted: an old one's HELLO may
        be read late. What lies below ``lowest_seq`` was accepted, by the producer's own word,
        so a state never expects less. Raises RemoteProtocolError: BUSY when there are too many
        producers, FENCED for a connection that is older than the live one.
        """
        key = (uid, identity.id)
        if self.forgotten is not None:
            self.forgotten.discard(key)
        state = self._live.get(key)
        if state is not None:
            if order < state.order:
                error = "a newer connection speaks for this producer"
                raise RemoteProtocolError(error, code=RejectCode.FENCED)
            if state.fence is not None:
                state.fence()
        elif key in self._gone.get(uid, ()):
            state, _ = self._gone[uid].pop(key)
        else:
            self._make_room(now)
            state = ProducerState(key, identity, lowest_seq)
            self._counts[uid] += 1
        state.identity = identity
        state.epoch += 1
        state.order = order
        if lowest_seq >= state.expected_seq:  # it has nothing to send again
            state.begin_seq = lowest_seq
        state.expected_seq = max(state.expected_seq, lowest_seq)
        state.accepted_seq = max(state.accepted_seq, lowest_seq)
        self._live[key] = state
        return state

    def gone(
        self, state: ProducerState, now: float, *, orderly: bool, rejected: bool = False
    ) -> None:
        """Note that a producer's live connection ended; one that was ``rejected`` returns."""
        del self._live[state.key]
        state.fence = None
        sent = rejected or state.expected_seq != state.begin_seq
        if sent and not (orderly and state.accepted_seq == state.expected_seq):
            self._keep(state, now)
        else:
            self._forget(state.key)

    def _keep(self, state: ProducerState, now: float) -> None:
        self._gone.setdefault(state.key[0], {})[state.key] = (state, now)

    def _forget(self, key: Key) -> None:
        self._counts[key[0]] -= 1
        if not self._counts[key[0]]:
            del self._counts[key[0]]
        if self.forgotten is not None:
            self.forgotten.add(key)

    def _make_room(self, now: float) -> None:
        for uid in list(self._gone):
            gone = self._gone[uid]
            while gone and now - next(iter(gone.values()))[1] >= self._expiry:
                self._forget_oldest(uid)
            if not gone:
                del self._gone[uid]
        if len(self) < self._most:
            return
        if not self._gone:
            error = f"the receiver already knows {len(self)} producers"
            raise RemoteProtocolError(error, code=RejectCode.BUSY)
        self._forget_oldest(max(self._gone, key=lambda uid: self._counts[uid]))

    def _forget_oldest(self, uid: int | None) -> None:
        gone = self._gone[uid]
        key = next(iter(gone))
        del gone[key]
        self._forget(key)
