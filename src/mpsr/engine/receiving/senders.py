"""Decide who may send to a receiver, and count who was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpsr.limits import COUNTED_UIDS
from mpsr.system.processes import peer_named

if TYPE_CHECKING:
    from logging import Logger

    from mpsr.batch import Peer

Authorize = Callable[["Peer"], object]


class Senders:
    """Who may send; by default whoever can connect.

    Attributes:
        refused: connections and datagrams that were refused, by user id.

    """

    def __init__(
        self,
        uids: frozenset[int] | None = None,
        gids: frozenset[int] | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        """Let those send whose user is one of ``uids`` or whose groups are among ``gids``.

        Of these ``authorize`` then chooses. None leaves a condition out.
        """
        self._uids = uids
        self._gids = gids
        self._authorize = authorize
        self.refused: Counter[int | None] = Counter()

    def refusal(self, peer: Peer, logger: Logger, *, quietly: bool = False) -> str | None:
        """Return why a peer may not send, and count it unless ``quietly``; None if it may."""
        why = self._why(peer, logger)
        if why is not None:
            if not quietly:
                self.count(peer, why, logger)
            return f"uid {peer.uid} may not send here: {why}"
        return None

    def count(self, peer: Peer, why: str, logger: Logger) -> None:
        """Count a peer as refused, and tell of its user once."""
        uid = peer.uid if peer.uid in self.refused or len(self.refused) < COUNTED_UIDS else None
        if not self.refused[uid]:  # once: whoever tries again and again would flood the log
            logger.warning("refused uid %s (%s): %s", peer.uid, peer_named(peer.pid, peer.uid), why)
        self.refused[uid] += 1

    def _why(self, peer: Peer, logger: Logger) -> str | None:
        if not self._is_listed(peer):
            return "neither its user nor a group of it is allowed"
        if self._authorize is None:
            return None
        try:
            allowed = self._authorize(peer)
        except Exception as exc:  # noqa: BLE001 - whatever a user's function raises
            logger.warning("authorize= failed, so that %s is refused: %r", peer, exc)
            allowed = False
        return None if allowed else "authorize= refuses it"

    def _is_listed(self, peer: Peer) -> bool:
        if self._uids is None and self._gids is None:
            return True
        if self._uids is not None and peer.uid in self._uids:
            return True
        if self._gids is None:
            return False
        return peer.gid in self._gids or not self._gids.isdisjoint(peer.groups or ())
