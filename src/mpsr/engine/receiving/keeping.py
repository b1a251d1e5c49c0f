"""Keep a claimed path: notice when its socket is gone, and claim it again.

Anything may remove a socket's file or its directory: a person, a package's script, what cleans
directories by age. The receiver would go on with the connections it has, and nobody would find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsr.errors import MpsrError
from mpsr.limits import PATH_CHECK_INTERVAL, PATH_TOUCH_INTERVAL
from mpsr.system.timer import Timer, make_timer

if TYPE_CHECKING:
    from logging import Logger

    from mpsr.system.claims import Claim


class Keeper:
    """Checks a claim at intervals.

    Attributes:
        claim: what is claimed.
        timer: a descriptor that is readable when it is time to look; None where there is none.
        look_at: when it is time, on the monotonic clock; None for a claim that nobody can take.

    """

    def __init__(self, claim: Claim, logger: Logger) -> None:
        self.claim: Claim = claim
        self.look_at: float | None = None
        self.timer: Timer | None = None
        self._logger = logger
        self._touched_at: float | None = None
        self._told = ""  # why the path is not ours, as it was said last
        if claim.address.kind == "path":
            self.look_at = 0.0
            self.timer = make_timer()

    def look(self, now: float) -> Claim | None:
        """Return a new claim in the place of one whose socket is gone, if it is to be had."""
        self.look_at = now + PATH_CHECK_INTERVAL
        if self.timer is not None:
            self.timer.set(self.look_at)
        if self._touched_at is None or now - self._touched_at >= PATH_TOUCH_INTERVAL:
            self._touched_at = now
            self.claim.touch()
        if self.claim.holds():
            return None
        address = self.claim.address
        try:
            self.claim = self.claim.again()
        except (MpsrError, OSError) as exc:
            if str(exc) != self._told:
                self._told = str(exc)
                what = "the socket at %s or its lock is gone, and cannot be claimed again: %s"
                self._logger.warning(what, address, exc)
            return None
        self._told = ""
        self._logger.warning("the socket at %s or its lock was gone; both are there again", address)
        return self.claim

    def close(self) -> None:
        """Give the descriptor back."""
        if self.timer is not None:
            self.timer.close()
