"""Print what a receiver hands out, and count it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from mpsr import systemd
from mpsr.amounts import size
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.errors import Closed, Explanation, TimedOut

if TYPE_CHECKING:
    from mpsr.batch import Batch
    from mpsr.cli.formats import Format
    from mpsr.sync.receiver import Receiver


class Printer:
    """Prints batches, and counts what is printed."""

    def __init__(self, output: Stdout, form: Format) -> None:
        self._output = output
        self._form = form
        self._messages = self._nbytes = self._lost = 0

    def run(self, receiver: Receiver, count: int | None, timeout: float | None) -> None:
        """Print until the receiver is stopped, ``count`` messages came, or none in time."""
        self._output.watch(receiver.stop)
        last, interval = monotonic(), systemd.watchdog_interval()
        while True:
            try:
                until = None if timeout is None else last + timeout
                batch = self._next(receiver, until, interval)
            except Closed:
                break
            except TimedOut:
                error = Explanation(
                    f"no message came to {receiver.address} within {timeout:g} s",
                    advice="start a producer, or wait longer with a larger --timeout",
                )
                raise CommandFailed(Status.TIMED_OUT, error) from None
            self._tell_losses(batch)
            due = len(batch) if count is None else min(len(batch), count - self._messages)
            self._print(batch, due)
            if self._messages == count:
                receiver.acknowledge(due)
                _tell_discarded(batch, len(batch) - due)
                return
            if batch:
                last = monotonic()
        if self._output.deserted:
            raise CommandFailed(Status.STDOUT_CLOSED)

    @property
    def deserted(self) -> bool:
        """Whether nobody reads what is printed any more."""
        return self._output.deserted

    @property
    def messages(self) -> int:
        """How many were printed."""
        return self._messages

    @staticmethod
    def _next(receiver: Receiver, until: float | None, interval: float | None) -> Batch:
        """Return the next batch, which acknowledges the one before; keep a watchdog content."""
        while True:
            patience = None if until is None else max(0.0, until - monotonic())
            if interval is None or (patience is not None and patience <= interval):
                return receiver.receive_batch(patience)
            systemd.keep_alive()
            try:
                return receiver.receive_batch(interval)
            except TimedOut:
                continue

    def summary(self, connections: str) -> str:
        """Return in one line what was printed."""
        line = f"received {plural(self._messages, 'message')}, {size(self._nbytes)}"
        line += f" from {connections}" if connections else ""
        return line + (f"; producers lost {self._lost}" if self._lost else "")

    def _print(self, batch: Batch, due: int) -> None:
        try:
            self._output.write(self._form(batch, due))
        except CommandFailed:
            if not self._output.deserted:  # whoever has left does not care
                _tell_discarded(batch, len(batch))
            raise
        self._messages += due
        self._nbytes += batch.nbytes if due == len(batch) else sum(map(len, batch.raw[:due]))

    def _tell_losses(self, batch: Batch) -> None:
        if batch.lost:
            self._lost += batch.lost
            label = batch.producer.label if batch.producer is not None else ""
            lost = plural(batch.lost, "message")
            say(f'producer "{label}" (pid {batch.peer.pid}) lost {lost} before this')


def _tell_discarded(batch: Batch, count: int) -> None:
    """Tell what is lost of a batch; native producers keep it for the next receiver."""
    if count and batch.producer is None:
        what = plural(count, "message")
        say(f"{what} not printed: lost, for their sender awaits no acknowledgement")
