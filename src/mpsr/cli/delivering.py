"""Give what is received to sinks: ``mpsr recv --to``."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import click

from mpsr import systemd
from mpsr.amounts import size
from mpsr.cli.status import CommandFailed, Status, status_of
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.errors import ConfigurationError, Explanation, MessageRejected, SinkError
from mpsr.sinks.delivery import Delivery
from mpsr.sinks.source import MAIN_CURSOR
from mpsr.sinks.table import NamedSink, sink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

    from mpsr.batch import Batch
    from mpsr.cli.formats import Format
    from mpsr.sinks.delivered import Loss
    from mpsr.sinks.protocol import SinkStatus
    from mpsr.sync.receiver import Receiver

_STDOUT: Final = ("-", "stdout")
_SWITCH_INTERVAL: Final = 0.0002  # seconds: so soon what receives has its turn beside busy sinks


class Delivering:
    """Runs sinks in place of a printer.

    Raises click.UsageError where the sinks make no sense, alone or beside each other.
    """

    def __init__(self, texts: Sequence[str], form: Format, *, journal: bool) -> None:
        self._form = form
        self._delivery: Delivery | None = None
        self._stopped = False
        self._status = Status.OK
        try:
            self._sinks = [self._named(text) for text in texts]
            for each in self._sinks:
                each.make()  # what makes no sense is told before anything is claimed
        except ConfigurationError as exc:
            text = Explanation.of(exc)
            raise click.UsageError(Explanation(f"--to {text.what}", text.why, text.advice)) from exc
        if len(texts) > 1 and not journal:
            why = "it keeps the messages that some of the sinks have not written yet"
            raise click.UsageError(
                Explanation("several --to require --journal", why, "add --journal DIR")
            )

    def _named(self, text: str) -> NamedSink:
        if text in _STDOUT:
            return NamedSink(MAIN_CURSOR, lambda: _StdoutSink(self._form))
        return sink(text, {"-": _no_target, "stdout": _no_target})

    def prepare(self, receiver: Receiver) -> None:
        """Make the sinks, and from now on take SIGHUP as they need it, until an orderly end."""
        self._delivery = delivery = Delivery(receiver, self._sinks, tell=say, lost=_tell_loss)
        if self._stopped:
            delivery.stop()
        _reopen_at_sighup(delivery)

    def run(self) -> None:
        """Deliver until the receiver is stopped, and the sinks have what it has received."""
        delivery = self._delivery
        if delivery is None:
            return
        interval = systemd.watchdog_interval()
        atexit.register(self._leave)  # before the sinks have theirs registered, so after these
        sys.setswitchinterval(_SWITCH_INTERVAL)
        try:
            delivery.start()
            while not delivery.wait(interval):
                systemd.keep_alive()
            delivery.close()
        except SinkError as exc:
            self._status = Status.DATA if isinstance(exc, MessageRejected) else Status.IO
            raise CommandFailed(self._status, str(exc)) from exc
        except BaseException as exc:  # a second signal above all: nobody is waited for
            self._status = status_of(exc)
            delivery.abandon()
            raise

    def _leave(self) -> None:
        """End at once, where the thread of a sink is still at work.

        Python would end it in the middle of a library that may not be left so, and be aborted.
        """
        if self._delivery is not None and self._delivery.alive:
            os._exit(self._status)

    def stop(self) -> None:
        """Ask for an orderly end; in a signal handler."""
        self._stopped = True
        if self._delivery is not None:
            self._delivery.stop()

    @property
    def statuses(self) -> list[SinkStatus]:
        """How each sink gets on."""
        return [] if self._delivery is None else self._delivery.statuses()

    deserted: bool = False

    @property
    def messages(self) -> int:
        """How many messages the first of the sinks has committed."""
        return self.statuses[0].delivered if self.statuses else 0

    def summary(self, connections: str) -> str:
        """Return in one line what was delivered."""
        statuses = self.statuses
        parts = [
            f"{plural(each.delivered, 'message')}, {size(each.delivered_bytes)}"
            + (f" to {each.name}" if len(statuses) > 1 else "")
            for each in statuses
        ]
        line = f"delivered {'; '.join(parts) or 'no message'}"
        line += f" from {connections}" if connections else ""
        rejected = sum(each.rejected for each in statuses)
        line += f"; rejected {rejected}" if rejected else ""
        lost = max((each.lost for each in statuses), default=0)
        return line + (f"; producers lost {lost}" if lost else "")


def _tell_loss(loss: Loss) -> None:
    label = loss.producer.label if loss.producer is not None else ""
    lost = plural(loss.messages, "message")
    say(f'producer "{label}" (pid {loss.peer.pid}) lost {lost} before this')


class _StdoutSink:
    """Prints what it is given; who reads it may leave."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._stdout = Stdout()

    def open(self, journal: str) -> None:
        """Have nothing to go on from: what is printed is not looked at again."""

    def write(self, batch: Batch[Any]) -> None:
        """Print a batch."""
        try:
            self._stdout.write(self._form(batch, len(batch)))
        except CommandFailed as exc:
            if self._stdout.deserted:
                raise ConfigurationError("whoever read it is gone") from exc
            raise SinkError(str(exc)) from exc

    def commit(self) -> None:
        """Do nothing: it is written."""

    def close(self) -> None:
        """Leave it open: it is the process's."""


def _no_target(_: str) -> _StdoutSink:
    advice = "write --to stdout; --output chooses the format"
    raise ConfigurationError(Explanation("stdout has no target", advice=advice))


def _reopen_at_sighup(delivery: Delivery) -> None:
    """Have SIGHUP reopen files, as log rotation expects, where a sink has one; tell systemd."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or not delivery.reopens:
        return

    def handle(_: int, __: FrameType | None) -> None:
        systemd.reloading()
        delivery.reopen()
        systemd.ready()

    signal.signal(signal.SIGHUP, handle)
