"""Give all sinks of a receiver its messages, each at its own pace."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError, Explanation, SinkError
from mpsr.front.following import has_ended, journal_of, show_sinks, stand_aside
from mpsr.limits import SINK_STOP_TIMEOUT
from mpsr.sinks.runner import Runner
from mpsr.sinks.source import MAIN_CURSOR, source_of
from mpsr.sinks.table import NamedSink, sink
from mpsr.system.address import are_one
from mpsr.system.clock import monotonic
from mpsr.system.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from mpsr.sinks.delivered import Loss
    from mpsr.sinks.protocol import SinkStatus
    from mpsr.sync.receiver import Receiver

_LOOK: Final = 1.0  # seconds between two looks at whether a sink is stuck, or the receiver over


class Delivery:
    """Sinks that are given what a receiver receives, each in a thread of its own.

    ::

        with mpsr.Receiver("app.sock", journal="app.journal") as receiver:
            with mpsr.sinks.Delivery(receiver, ["file:app.jsonl", "sqlite:app.db"]) as delivery:
                delivery.wait()

    With a journal each sink has a cursor there, so that one that is slow, or fails, holds up no
    other, and what it has not had is kept for it. Without one there is a single sink, and a
    message is acknowledged to its producer once that has committed it. Nobody may iterate the
    receiver meanwhile.

    Args:
        receiver: what receives; without ``decode=``.
        sinks: texts such as ``"file:events.jsonl"``, or what ``sink()`` has made of one.
        tell: is given a line where a sink fails, or works again, in that sink's thread; default:
            a warning to the logger ``mpsr``.
        lost: is given each loss that producers have reported, once the first of the sinks has
            committed it, in that sink's thread.

    Raises:
        ConfigurationError: a sink makes no sense, two have one name, or several have no journal.

    """

    def __init__(
        self,
        receiver: Receiver[Any],
        sinks: Sequence[str | NamedSink],
        *,
        tell: Callable[[str], None] | None = None,
        lost: Callable[[Loss], None] | None = None,
    ) -> None:
        named = [sink(each) if isinstance(each, str) else each for each in sinks]
        self._receiver = receiver
        self._waiter = Waiter()
        self._stopped = False
        self._reopening = False
        self._tell = tell or logging.getLogger("mpsr").warning
        journal = journal_of(receiver)
        names = [each.name for each in named]
        if not names:
            raise ConfigurationError("there is no sink: name one at least")
        for name in names:
            if names.count(name) > 1:
                error = f"two sinks have the name {name}: give one of them another, with ?name="
                raise ConfigurationError(error)
        if journal is None and len(names) > 1:
            error = "several sinks need a journal, which keeps what one of them has not had yet"
            raise ConfigurationError(error)
        if journal is not None:
            stand_aside(receiver, keep=MAIN_CURSOR in names)
            for name, position in journal.cursors().items():
                if name not in names:
                    self._tell(
                        f"{journal.path} keeps what comes behind {position} for its cursor "
                        f"{name!r}, which no sink here has: mpsr journal trim --drop removes it"
                    )
        journal_id = "" if journal is None else journal.id.hex()
        self._runners: list[Runner] = []
        with ExitStack() as undo:
            for each in named:
                source = source_of(receiver, journal, each.name)
                undo.callback(source.close)
                runner = Runner(
                    each,
                    source,
                    journal_id,
                    path=None if journal is None else journal.path,
                    tell=self._tell,
                    ended=self._waiter.wake,
                    lost=lost if each is named[0] else None,
                )
                self._runners.append(runner)
            self._check_outputs()
            undo.pop_all()
        show_sinks(receiver, lambda: [each._asdict() for each in self.statuses()])

    def _check_outputs(self) -> None:
        """Raise ConfigurationError if two sinks have one file, or one leads to this receiver."""
        for each in self._runners:
            target = each.leads_to
            if target is not None and any(are_one(target, own) for own in self._receiver.addresses):
                why = "messages would circulate without end"
                raise ConfigurationError(
                    Explanation(
                        f"{each.name} is an address of this receiver itself",
                        why,
                        "name the address of another receiver",
                    )
                )
        rejected = [each.rejected for each in self._runners if each.rejected is not None]
        for path in rejected:
            if rejected.count(path) > 1 or path in {each.output for each in self._runners}:
                error = f"several sinks would write to {path}: give one of them a rejected=FILE"
                raise ConfigurationError(error)

    def start(self) -> None:
        """Begin to give the sinks what there is."""
        for each in self._runners:
            each.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the sinks have ended, or are to end: then leave it, or call ``close``.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Returns:
            Whether one of these is so; False where the time was over before.

        Raises:
            JournalError: the receiver's journal has failed.
            ConfigurationError: a sink can never work; the others went on.
            MessageRejected: a sink was stopped by a message that it can never write.

        """
        until = None if timeout is None else monotonic() + timeout
        while any(each.alive for each in self._runners):
            if self._stopped or has_ended(self._receiver):
                return True
            left = _LOOK if until is None else min(_LOOK, until - monotonic())
            if left <= 0:
                return False
            self._waiter.wait(left)
            if self._reopening:
                self._reopening = False
                for each in self._runners:
                    each.reopen()
            for each in self._runners:
                each.check()
            if any(each.source_failed for each in self._runners):
                break
        stopped = self._stopped or has_ended(self._receiver)
        for each in sorted(self._runners, key=lambda each: not each.source_failed):
            # Once the receiver is stopped, close() reports the sinks that failed.
            if each.failure is not None and (each.source_failed or not stopped):
                raise each.failure
        return True

    @property
    def reopens(self) -> bool:
        """Whether a sink has a file that it can make anew."""
        return any(each.reopens for each in self._runners)

    def reopen(self) -> None:
        """Have files that were moved away made anew, as after log rotation.

        Safe in a signal handler; ``wait``, which must be under way, does it.
        """
        self._reopening = True
        self._waiter.wake()

    def statuses(self) -> list[SinkStatus]:
        """Return how each sink gets on; in any thread."""
        return [each.status() for each in self._runners]

    def stop(self) -> None:
        """Stop the receiver, and have ``wait`` return; safe in a signal handler."""
        self._stopped = True
        self._receiver.stop()
        self._waiter.wake()

    def close(self, timeout: float = SINK_STOP_TIMEOUT) -> None:
        """Stop the receiver, and wait until the sinks have what it has received.

        Args:
            timeout: seconds to wait at most, for all of them together. What a sink has not
                committed then stays in the journal, or with the producers.

        Raises:
            SinkError: a sink does not have all; it says which.

        """
        self.stop()
        until = monotonic() + timeout
        for each in self._runners:
            each.stop()
        ended = [each.join(max(0.0, until - monotonic())) for each in self._runners]
        left = []
        for runner, orderly in zip(self._runners, ended, strict=True):
            status = runner.status()
            if not orderly or status.error is not None:
                many = f"{status.lag} message{'s' * (status.lag != 1)}"
                left.append(f"{status.name} has not had {many if status.lag else 'all'}")
        if left:
            raise SinkError(f"{', '.join(left)}: what it has not had is kept")

    @property
    def alive(self) -> bool:
        """Whether the thread of a sink is still at work."""
        return any(each.alive for each in self._runners)

    def abandon(self) -> None:
        """Give the sinks nothing more, and wait for none."""
        for each in self._runners:
            each.stop()
            each.join(0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; behind an exception wait for nobody."""
        if kind is None:
            self.close()
        else:
            self.abandon()
