"""Give messages to one sink, in a thread of its own, and begin anew where it fails."""

from __future__ import annotations

import os
from math import inf
from time import time
from typing import TYPE_CHECKING, Any, NoReturn

from mpsr.batch import part_of
from mpsr.errors import ConfigurationError, MessageRejected, MpsrError, SinkError
from mpsr.limits import (
    SINK_BACKOFF_FIRST,
    SINK_BACKOFF_MOST,
    SINK_REMINDER,
    SINK_STUCK,
)
from mpsr.sinks.delivered import Delivered
from mpsr.sinks.group import Group
from mpsr.sinks.protocol import Displaced, Grouping, Reopening, SinkStatus
from mpsr.sinks.rejected import Rejections, checked, described, output_of, place_of, rest_of
from mpsr.system.clock import monotonic
from mpsr.system.threads import start_thread
from mpsr.system.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch
    from mpsr.sinks.delivered import Loss
    from mpsr.sinks.protocol import Sink, State
    from mpsr.sinks.source import Source
    from mpsr.sinks.table import NamedSink
    from mpsr.system.address import Address
    from mpsr.system.threads import Thread


class _SourceFailed(Exception):
    """The source has failed, not the sink; the cause says how."""


class _Stopped(Exception):
    """A message that the sink can never write ends it: ``on_reject=stop``; the cause names it."""


class _Abandoned(Exception):
    """Nobody waits for the sink any more."""


class Runner:
    """Gives one sink what its source has, until that is finished.

    Args:
        named: the sink, to be made anew after each failure.
        source: where its messages come from.
        journal: the id of the receiver's journal; "" without one.
        path: the path of that journal; None without one.
        tell: is given a line for people, in the sink's thread.
        ended: is called in the end.
        lost: is given each loss that producers have reported, once the sink has committed it.

    Attributes:
        failure: what ended the source, or the sink for good; None while neither has.
        source_failed: whether it was the source.
        reopens: whether the sink can make its file anew.
        output: the path of the sink's local file or directory; None if it has none.
        leads_to: the address of the receiver to which it passes messages on; None for other sinks.
        rejected: the path where its rejected messages are stored; None if one stops it.

    """

    def __init__(
        self,
        named: NamedSink,
        source: Source,
        journal: str,
        *,
        path: str | None,
        tell: Callable[[str], None],
        ended: Callable[[], None],
        lost: Callable[[Loss], None] | None = None,
    ) -> None:
        self.name: str = named.name
        self.failure: BaseException | None = None
        self.source_failed: bool = False
        self._make = named.make
        first = named.make()  # an error is reported at once
        self._first: Sink | None = first
        self.reopens: bool = isinstance(first, Reopening)
        self.output: str | None = output_of(first)
        self.leads_to: Address | None = getattr(first, "leads_to", None)
        self.rejected: str | None = place_of(named, self.output, path)
        self._rejections = Rejections(named.name, self.rejected, journal, tell)
        self._may_store = named.on_reject != "stop"
        self._source = source
        self._journal = journal
        self._tell = tell
        self._ended = ended
        self._lost = lost
        self._state: State = "running"
        self._error: str | None = None
        self._since = time()
        self._calling: tuple[str, float] | None = None  # what was called, and when
        self._stuck = False  # that was told
        self._delivered = Delivered()
        self._stopping = False
        self._abandoned = False
        self._reopen = False
        self._pause = Waiter()
        self._backoff = SINK_BACKOFF_FIRST
        self._failing_since: float | None = None
        self._told: tuple[str, float] = ("", -inf)  # the last failure that was told, and when
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = start_thread(self._run, name=f"mpsr sink {self.name}")

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread is not None and self._thread.alive

    def stop(self) -> None:
        """End once the source is finished; at once, if the sink fails."""
        self._stopping = True
        self._pause.wake()
        self._source.wake()

    def reopen(self) -> None:
        """Have the sink's file made anew, if it was moved away."""
        self._reopen = True
        self._source.wake()

    def join(self, timeout: float) -> bool:
        """Wait for the end; return False, and give the sink up, if that takes longer (seconds)."""
        if self._thread is None:  # it was never started
            self._source.close()
            return True
        if self._thread.join(timeout):
            return True
        self._abandoned = True
        return False

    def status(self) -> SinkStatus:
        """Return how it gets on; in any thread."""
        error, state, since = self._error, self._state, self._since
        stuck = self._stuck_for()
        if stuck is not None and error is None:
            what, seconds = stuck
            state, since = "failing", time() - seconds
            error = f"{what}() has not returned for {seconds:.0f} s"
        done = self._delivered
        return SinkStatus(
            self.name,
            state,
            self._source.lag,
            error,
            since,
            self._rejections.count,
            done.messages,
            done.nbytes,
            done.lost,
        )

    def check(self) -> None:
        """Tell, once, that the sink does not return."""
        stuck = self._stuck_for()
        if stuck is None:
            self._stuck = False
        elif not self._stuck:
            self._stuck = True
            self._tell(f"{self.name}: {stuck[0]}() has not returned for {stuck[1]:.0f} s")

    def _stuck_for(self) -> tuple[str, float] | None:
        calling = self._calling
        seconds = 0.0 if calling is None else monotonic() - calling[1]
        return (calling[0], seconds) if calling is not None and seconds > SINK_STUCK else None

    # -- in its thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._session():
                self._pause.wait(self._next_pause())
                if self._stopping:
                    break
        except _Abandoned:
            pass
        finally:
            self._rejections.finish()
            self._source.close()
            self._be("stopped", self._error)
            self._ended()

    def _next_pause(self) -> float:
        jitter = 0.5 + int.from_bytes(os.urandom(2), "big") / 0x20000
        pause = self._backoff * jitter
        self._backoff = min(2 * self._backoff, SINK_BACKOFF_MOST)
        return pause

    def _session(self) -> bool:
        """Give messages to a sink; return whether to try again, after a pause."""
        try:
            while not self._attempt():
                pass
            return False
        except _Abandoned:
            raise
        except _SourceFailed as exc:
            self.failure, self.source_failed = exc.__cause__, True
        except _Stopped as exc:
            self.failure = exc.__cause__
            self._error = str(exc)
            self._tell(f"{self.name}: {exc}")
        except ConfigurationError as exc:
            self.failure = exc
            self._error = str(exc)
            self._tell(f"{self.name}: {exc}; it gets nothing more, until it is started again")
        except Exception as exc:  # noqa: BLE001 - whatever a sink raises
            self._fail(exc)
            return not self._stopping
        return False

    def _attempt(self) -> bool:
        """Make a sink and give it messages; return False if its output is gone."""
        sink, self._first = self._first or self._make(), None
        try:
            self._open(sink)
            self._pump(sink)
        except Displaced as exc:
            if str(exc):
                self._tell(f"{self.name}: {exc}")
            return False
        finally:
            self._call("close", sink.close)
            self._source.leave()
        return True

    def _open(self, sink: Sink) -> None:
        after = self._call("open", sink.open, self._journal)
        if after is not None:  # a commit that raised an error may have committed
            self._count(after)
        self._delivered.forget()
        try:
            gone = self._source.begin(after)
        except ConfigurationError as exc:
            error = f"{exc}: the sink has been given messages that this journal never had"
            raise ConfigurationError(error) from None
        if gone and not self._rejections.has_last(self._source.cursor):
            self._tell(
                f"{self.name}: {gone} messages that it has not had are gone from the journal"
            )

    def _pump(self, sink: Sink) -> None:
        group = Group(getattr(sink, "grouping", Grouping()))
        while True:
            batch = self._take()
            if batch is not None:
                self._write(sink, group, batch)
                group.add(batch)
            finished = batch is None and self._source.finished
            reopen = self._reopen
            if finished or reopen or group.is_due(idle=batch is None):
                self._commit(sink, group)
            if reopen:
                self._reopen = False
                if isinstance(sink, Reopening):
                    self._call("reopen", sink.reopen)
            elif finished:
                return
            elif batch is None:
                if group.last is None:
                    self._recover()  # it could be opened, and has all
                    self._be("waiting", None)
                self._source.wait(group.wait_time())

    def _write(self, sink: Sink, group: Group, batch: Batch[Any]) -> None:
        """Have the sink write a batch, except for the messages that it can never write."""
        self._be("running", self._error)
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                self._call("write", sink.write, part)
            except MessageRejected as exc:
                reasons = checked(part, exc)
                if self.rejected is None:
                    self._stop_at(sink, group, part, reasons)
                self._rejections.add(part, reasons)  # synced before the sink may pass them
                parts += reversed([*rest_of(part, reasons)])
            else:
                self._delivered.write(part)

    def _stop_at(
        self, sink: Sink, group: Group, batch: Batch[Any], reasons: dict[int, str]
    ) -> NoReturn:
        """Commit the messages before a rejected one, and stop."""
        index, why = next(iter(reasons.items()))
        if batch.position is not None:  # else the batch is acknowledged as one
            if index:
                before = part_of(batch, 0, index, lost=batch.lost)
                self._call("write", sink.write, before)
                self._delivered.write(before)
                group.add(before)
            self._commit(sink, group)
        what = f"it can never write {described(batch, index)}: {why}"
        how = "on_reject=stop" if not self._may_store else "there is no file to store it"
        advice = "give rejected=FILE to store such messages, and continue"
        raise _Stopped(f"{what}; it stops here ({how}); {advice}") from MessageRejected(reasons)

    def _commit(self, sink: Sink, group: Group) -> None:
        last = group.last
        if last is not None:
            if self._delivered.pending:  # else all messages were rejected
                self._call("commit", sink.commit)
                self._count()
            self._source.done(last)
            self._rejections.committed()
            group.clear()
            self._recover()

    def _count(self, after: int | None = None) -> None:
        """Count what was committed, and report the losses in it."""
        for loss in self._delivered.commit(after):
            if self._lost is not None:
                self._lost(loss)

    def _take(self) -> Batch[Any] | None:
        if self._abandoned:
            raise _Abandoned
        try:
            return self._source.take()
        except MpsrError as exc:
            raise _SourceFailed from exc

    def _call(self, what: str, function: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - the sink's
        self._calling = (what, monotonic())
        try:
            return function(*args)
        finally:
            self._calling = None
            if self._abandoned:
                raise _Abandoned

    # -- telling ------------------------------------------------------------------------------

    def _be(self, state: State, error: str | None) -> None:
        if error is not None and state != "stopped":
            state = "failing"  # until a commit has shown otherwise
        if (state, error) != (self._state, self._error):
            self._since = time()
        self._state, self._error = state, error

    def _fail(self, exc: Exception) -> None:
        why, now = _why(exc), monotonic()
        self._be("failing", why)
        if self._failing_since is None:
            self._failing_since = now
        before, at = self._told
        if (why != before and now > at + 1) or now > at + SINK_REMINDER:
            self._told = (why, now)
            self._tell(f"{self.name}: {why}; it is tried again until it works, and nothing is lost")

    def _recover(self) -> None:
        self._backoff = SINK_BACKOFF_FIRST
        if self._failing_since is not None:
            seconds = monotonic() - self._failing_since
            self._tell(f"{self.name} works again, after {seconds:.0f} s")
            self._failing_since, self._told = None, ("", -inf)
        self._error = None


def _why(exc: Exception) -> str:
    if isinstance(exc, SinkError):
        return str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return f"it raised {type(exc).__name__}: {exc}".rstrip(": ")
