"""Look at a receiver again and again, also after it was away."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from mpsr.errors import Closed, MpsrError
from mpsr.observe import watch
from mpsr.system import primitives
from mpsr.system.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.observe import Status
    from mpsr.system.trust import ReceiverUid

_RETRY: Final = 0.5  # seconds until a receiver that is away is looked for again


class Source:
    """Looks at a receiver in a thread, until it is told to stop.

    Args:
        address: of the receiver.
        interval: seconds from one look to the next.
        receiver_uid: users allowed to receive, as ``observe.watch`` takes them.
        seen: called, in the thread, with what was seen.
        away: called, in the thread, with why there is nothing to be seen, at each try.

    """

    def __init__(
        self,
        address: str,
        interval: float,
        receiver_uid: ReceiverUid,
        *,
        seen: Callable[[Status], object],
        away: Callable[[str], object],
    ) -> None:
        self._address = address
        self._interval = interval
        self._receiver_uid = receiver_uid
        self._seen = seen
        self._away = away
        self._stopped = False

    def start(self) -> None:
        """Begin to look."""
        start_thread(self._run, name="mpsr top")

    def stop(self) -> None:
        """Look no more; what is under way is not waited for."""
        self._stopped = True

    def _run(self) -> None:
        while not self._stopped:
            try:
                watching = watch(
                    self._address, interval=self._interval, receiver_uid=self._receiver_uid
                )
                with closing(watching) as looks:
                    for status in looks:
                        if self._stopped:
                            return
                        self._seen(status)
            except Closed:
                self._away(f"the receiver at {self._address} has ended")
            except MpsrError as exc:
                self._away(str(exc))
            primitives.sleep(_RETRY)
