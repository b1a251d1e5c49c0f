"""Decide what each user may have: connections, rings, bytes in flight and messages a second.

A user beyond its bytes or its rate is not read: what it sends stays in the kernel, its producers
wait, and nothing is lost. This module is told the time and what was read; it reads nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from mpsr.limits import COUNTED_UIDS, MAX_RINGS_PER_UID, SILENCE

if TYPE_CHECKING:
    from collections.abc import Hashable

S = TypeVar("S")

_ROUNDING: Final = 1e-6  # of a token
_END: Final = 4  # bytes: what a message costs beside its own, to know where it ends


class UserLimits(NamedTuple):
    """What one user may have; None is no limit."""

    connections: int | None = None
    """Connections at once."""
    rings: int = MAX_RINGS_PER_UID
    """Rings of shared memory."""
    nbytes: int | None = None
    """Bytes that were read and are not accepted."""
    rate: int | None = None
    """Messages a second, and as many at once after a pause."""


def cost(nbytes: int, messages: int) -> int:
    """Return the bytes that a batch takes in memory."""
    return nbytes + _END * messages


class _Account(Generic[S]):
    """What one user has."""

    __slots__ = (
        "filled_at",
        "going",
        "heard_at",
        "held",
        "nbytes",
        "tokens",
        "unfinished",
        "whole",
    )

    def __init__(self, tokens: float, now: float) -> None:
        self.tokens = tokens
        self.filled_at = now
        self.whole = 0  # bytes of batches that are not accepted
        self.nbytes = 0  # with those of what is not whole
        self.unfinished: dict[S, int] = {}
        self.going: S | None = None  # what goes on, where only its rest makes room
        self.heard_at = now  # when that last brought something
        self.held: dict[S, None] = {}


class Allowances(Generic[S]):
    """The bytes in flight, and the messages a second, of each user.

    Attributes:
        limited: whether there is a limit of either.

    """

    def __init__(self, limits: UserLimits) -> None:
        """Keep users within limits."""
        self._most = limits.nbytes
        self._rate = limits.rate
        self.limited: bool = limits.nbytes is not None or limits.rate is not None
        self._accounts: dict[Hashable, _Account[S]] = {}
        self._held: set[Hashable] = set()  # users with something held

    @property
    def holding(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    # -- what happens -----------------------------------------------------------------------

    def read(self, user: Hashable, nbytes: int, messages: int, now: float) -> None:
        """Note that a batch of a user was read."""
        account = self._account(user, now)
        size = cost(nbytes, messages)
        account.whole += size
        account.nbytes += size
        if self._rate is not None:
            self._fill(account, now)
            account.tokens -= messages

    def left(self, user: Hashable, source: S, size: int, now: float) -> None:
        """Note how much a read has left that is not whole."""
        account = self._account(user, now)
        before = account.unfinished.get(source, 0)
        if size != before and source is account.going:
            account.heard_at = now
        account.nbytes += size - before
        if size:
            account.unfinished[source] = size
        else:
            account.unfinished.pop(source, None)
        if not size or self._has_room(account):
            account.going = None

    def accepted(self, user: Hashable, nbytes: int, messages: int) -> None:
        """Note that a batch of a user is out of our hands."""
        account = self._accounts.get(user)
        if account is not None:
            size = min(cost(nbytes, messages), account.whole)
            account.whole -= size
            account.nbytes -= size

    def forget(self, user: Hashable, source: S) -> None:
        """Note that a source is closed."""
        account = self._accounts.get(user)
        if account is None:
            return
        account.nbytes -= account.unfinished.pop(source, 0)
        account.held.pop(source, None)
        if source is account.going:
            account.going = None
        if not account.held:
            self._held.discard(user)

    # -- who may be read --------------------------------------------------------------------

    def may_read(self, user: Hashable, source: S, now: float) -> bool:
        """Tell whether a source may be read now."""
        account = self._accounts.get(user)
        return account is None or (
            self._seconds(account, now) <= 0
            and (self._has_room(account) or self._goes_on(account, source, now))
        )

    def hold(self, user: Hashable, source: S, now: float) -> None:
        """Note that a source has something to read, and may not be read."""
        self._account(user, now).held[source] = None
        self._held.add(user)

    def release(self, now: float) -> list[S]:
        """Return what may be read again, one source a user: the others wait for what it brings."""
        released: list[S] = []
        for user in tuple(self._held):
            account = self._accounts[user]
            source = self._next(account, now)
            if source is not None:
                released.append(source)
                del account.held[source]
                if not account.held:
                    self._held.discard(user)
        return released

    def wait_time(self, now: float) -> float | None:
        """Return the seconds until something is released in any case; None if that has no time."""
        times: list[float] = []
        for user in self._held:
            account = self._accounts[user]
            seconds = max(0.0, self._seconds(account, now))
            if self._has_room(account) or self._next(account, now) is not None:
                times.append(seconds)
            elif not account.whole:  # if the one that goes on does not, another one will
                goes_on_at = now if account.going in account.held else account.heard_at + SILENCE
                times.append(max(seconds, goes_on_at - now))
        return min(times, default=None)

    def _next(self, account: _Account[S], now: float) -> S | None:
        """Return which source that is held may be read, the longest held first."""
        if self._seconds(account, now) > 0:
            return None
        if self._has_room(account):
            return next(iter(account.held), None)
        return next((each for each in account.held if self._goes_on(account, each, now)), None)

    def _has_room(self, account: _Account[S]) -> bool:
        return self._most is None or account.nbytes < self._most

    def _goes_on(self, account: _Account[S], source: S, now: float) -> bool:
        """Tell whether a source may finish what it began, where only that makes room.

        Where it has brought nothing for SILENCE it is the next one's turn.
        """
        if account.whole:
            return False
        if account.going is None:
            account.going, account.heard_at = next(iter(account.unfinished)), now
        stalls = now - account.heard_at >= SILENCE and account.going not in account.held
        if stalls and source is not account.going:
            account.going, account.heard_at = source, now
        return source is account.going

    # -- tokens -----------------------------------------------------------------------------

    def _seconds(self, account: _Account[S], now: float) -> float:
        """Return the seconds until a user has tokens: at most 0 if it has some."""
        if self._rate is None:
            return 0.0
        self._fill(account, now)
        missing = 1 - account.tokens
        return missing / self._rate if missing > _ROUNDING else 0.0

    def _fill(self, account: _Account[S], now: float) -> None:
        if self._rate is not None and now > account.filled_at:
            tokens = account.tokens + (now - account.filled_at) * self._rate
            account.tokens = min(tokens, float(self._rate))
            account.filled_at = now

    def _account(self, user: Hashable, now: float) -> _Account[S]:
        account = self._accounts.get(user)
        if account is None:
            if len(self._accounts) >= COUNTED_UIDS:
                self._forget_idle(now)
            account = self._accounts[user] = _Account(float(self._rate or 0), now)
        return account

    def _forget_idle(self, now: float) -> None:
        """Forget the users of whom nothing is known but what is so of any other."""
        for user, account in tuple(self._accounts.items()):
            self._fill(account, now)
            full = self._rate is None or account.tokens >= self._rate
            if full and not (account.nbytes or account.unfinished or account.held):
                del self._accounts[user]
