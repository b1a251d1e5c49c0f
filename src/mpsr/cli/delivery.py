"""Deliver messages through a producer, as patiently as the command line says."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import plural
from mpsr.errors import (
    AddressError,
    Explanation,
    MessageError,
    NoReceiver,
    ReceiverBusy,
    SendTimedOut,
    TimedOut,
    Undelivered,
)
from mpsr.limits import CLOSE_TIMEOUT
from mpsr.system.endpoint import reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpsr.stats import ProducerStats
    from mpsr.sync.producer import Producer
    from mpsr.system.address import SocketType
    from mpsr.wire.framing import Framing

_GRACE: Final = 0.1  # seconds: a receiver that is there is connected by then
_CHECK_INTERVAL: Final = 0.25  # seconds between two checks of the progress
_REPORT_AFTER: Final = 1.0  # seconds without progress before what is waited for is reported


class Delivery:
    """Messages on their way: taken here, accepted there.

    Args:
        producer: where they go.
        kind: its type of socket.
        framing: its framing.
        timeout: seconds without progress before giving up. None waits for a receiver that has
            been there, as long as it takes, but not for one that has not.
        spooled: whether there is a spool, so that nobody need be there to accept.
        report: is called, once an outage, with what is waited for.
        watch: shown the counters at every look.

    Raises:
        AddressError: nobody could be connected to, and why.
        CommandFailed: nothing was accepted in time.
        MessageError: a message that cannot be sent; what came before it is on its way.

    """

    def __init__(
        self,
        producer: Producer,
        kind: SocketType,
        framing: Framing,
        timeout: float | None,
        *,
        spooled: bool = False,
        report: Callable[[str], None],
        watch: Callable[[ProducerStats], None],
    ) -> None:
        self._producer = producer
        self._kind = kind
        self._timeout = timeout
        self._native = framing == "native"
        self._spooled = spooled
        self._report = report
        self._watch = watch
        self._since = monotonic()  # the last progress, or when this waiting began
        self._probe_at = inf if spooled else self._since + _GRACE
        self._met = False  # whether we were ever connected
        self._settled = 0
        self._told = False
        self._hurried = False

    def patience(self) -> float | None:
        """Return the seconds until there may be something to look at; None: there is not."""
        if self._spooled:
            return None
        stats = self._producer.stats()
        if not (self._met or stats.connects):
            return min(_CHECK_INTERVAL, max(0.0, self._probe_at - monotonic()))
        return _CHECK_INTERVAL if stats.buffered else None

    def take(self, messages: Sequence[bytes]) -> None:
        """Hand messages to the producer, waiting for room; then look."""
        if messages and (self._spooled or (self._met and not self._producer.stats().buffered)):
            self._since = monotonic()
        while messages:
            try:
                self._producer.send_many(messages, timeout=_CHECK_INTERVAL)
                break
            except SendTimedOut as exc:
                messages = exc.messages
                self.look()
            except MessageError:
                if len(messages) == 1:
                    raise
                for message in messages:  # what comes before the bad one is good
                    self.take([message])
                return
        if self._spooled:
            self._watch(self._producer.stats())
        else:
            self.look()

    def finish(self) -> None:
        """Return once everything is accepted, or safe in the spool."""
        while True:
            try:
                timeout = _CHECK_INTERVAL if self._spooled else self.patience() or 0
                self._producer.flush(timeout, spooled=self._spooled)
                break
            except TimedOut:
                self.look()
            except Undelivered:  # the result reports them, as it counts them as lost
                break
        stats = self._producer.stats()
        unused = not (self._spooled or stats.sent or stats.connects)
        if unused and (self._native or self._kind == "dgram"):
            self._probe()  # a foreign server, though, sees no connection that brings nothing

    def look(self) -> None:
        """Check the progress: give up, or report what is waited for."""
        stats = self._producer.stats()
        self._watch(stats)
        now = monotonic()
        settled = stats.accepted + stats.lost
        progress = settled > self._settled or (stats.connects > 0 and not stats.buffered)
        if progress or (stats.connects and not self._met):
            self._since, self._told = now, False
            self._settled, self._met = settled, True
            return
        if not self._met and now >= self._probe_at:
            self._probe_at = inf
            self._expect_somebody()
        waited = now - self._since
        if self._timeout is not None and waited >= self._timeout:
            if not stats.connected:
                self._probe()
            error = Explanation(
                f"{self._producer.address} accepted nothing for {self._timeout:g} s",
                "its receiver is slow, stopped or restarting",
                "look at the receiver, or wait longer with a larger --timeout",
            )
            raise CommandFailed(Status.TIMED_OUT, error)
        if not self._told and (waited >= _REPORT_AFTER or self._hurried):
            self._told = True
            self._report(self._awaited(stats))

    def hurry(self) -> None:
        """Wait no longer than a few seconds from now on. Safe in a signal handler."""
        self._hurried, self._told = True, False
        self._since = monotonic()
        self._timeout = CLOSE_TIMEOUT if self._timeout is None else self._timeout

    def end(self) -> Undelivered | None:
        """Close the producer; return what it could not deliver.

        With a spool it delivers now, if a receiver is there.
        """
        try:
            self._producer.close(timeout=self._timeout if self._spooled else 0)
        except Undelivered as exc:
            return exc
        return None

    def _expect_somebody(self) -> None:
        """Raise at once what waiting will not change."""
        try:
            self._probe()
        except ReceiverBusy:
            pass
        except NoReceiver:
            if self._timeout is None:
                raise

    def _probe(self) -> None:
        """Find out why there is no connection, if there can be none."""
        reach(self._producer.address, type=self._kind).close()

    def _awaited(self, stats: ProducerStats) -> str:
        address, left = self._producer.address, plural(stats.buffered, "message")
        if self._spooled:
            return f"waiting for room in the spool, or for a receiver at {address}"
        if self._hurried:
            return f"{left} to deliver: waiting for up to {self._timeout:g} s; or interrupt again"
        if stats.connected:
            return f"waiting for the receiver at {address} to accept {left}"
        return self._awaited_unconnected(stats)

    def _awaited_unconnected(self, stats: ProducerStats) -> str:
        address, left = self._producer.address, plural(stats.buffered, "message")
        obstacle = self._obstacle()
        if isinstance(obstacle, ReceiverBusy):
            return f"waiting for the receiver at {address}, whose backlog is full"
        if not stats.connects:
            return f"waiting for a receiver at {address}"
        if self._native and obstacle is None:
            hint = "if it is no mpsr receiver, name its --framing"
            return f"waiting for {address} to answer; {hint}"
        return f"waiting for a receiver to return to {address}, to accept {left}"

    def _obstacle(self) -> AddressError | None:
        """Return why there can be no connection now, if there can be none."""
        try:
            self._probe()
        except AddressError as exc:
            return exc
        return None
