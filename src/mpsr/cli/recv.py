"""Print what a receiver receives: ``mpsr recv``."""

from __future__ import annotations

import logging
import os
import resource
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import click

from mpsr.cli import types
from mpsr.cli.formats import FORMATS, format_named
from mpsr.cli.signals import orderly_end
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.errors import Closed, TimedOut
from mpsr.limits import DESCRIPTOR_RESERVE, JOURNAL_LIMIT, MAX_CONNECTIONS, MAX_MESSAGE
from mpsr.sync.receiver import Receiver
from mpsr.system.path_claim import DEFAULT_MODE
from mpsr.wire.packing import FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.batch import Batch
    from mpsr.cli.formats import Format
    from mpsr.system.address import SocketType
    from mpsr.wire.framing import Framing


_HELP: Final = """\
Receive messages at ADDRESS and print each, a line a message, as it arrives.

\b
Examples:
  mpsr recv app.sock
  mpsr recv app.sock --count 10 --timeout 5s
  mpsr recv app.sock -o json | jq .body
  mpsr recv app.sock -0 | xargs -0 -n1 echo
  mpsr recv /run/app.sock --mode 660 --group www-data
  mpsr recv @app --type dgram
  mpsr recv app.sock --journal events.journal

A message is acknowledged to its producer once it is printed; with --journal, once it is on the
disk. Ctrl-C prints what has arrived and ends; a second Ctrl-C ends at once.
"""


@click.command(
    help=_HELP,
    short_help="Print the messages that arrive at an address.",
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("address")
@click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    default="text",
    help="text: the bytes, untouched. json: an object a message, with who sent it. hex: its bytes "
    "as digits. raw: nothing between messages.  [default: text]",
)
@click.option("-0", "--null", is_flag=True, help="End messages with NUL instead of a newline.")
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="Exit after so many messages."
)
@click.option(
    "--timeout",
    type=types.duration,
    metavar="TIME",
    help="Give up (exit 124) when no message comes for so long: 500ms, 5s, 2m.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["stream", "dgram"]),
    default="stream",
    help="The type of socket.  [default: stream]",
)
@click.option(
    "--framing",
    type=click.Choice(["auto", *FRAMINGS]),
    metavar="NAME",
    default="auto",
    help="How bytes become messages: native, lines, null, length, length-le (little-endian), "
    "octet-counted (syslog), eof (a connection is a message), or auto: by what each "
    "connection begins with.  [default: auto]",
)
@click.option(
    "--mode",
    type=types.mode,
    metavar="MODE",
    default=f"{DEFAULT_MODE:o}",
    help="The permissions of a path: 660 lets a group send. With 600, programs of other users "
    "(nginx, HAProxy, syslog) are refused, and nobody here hears of it.  [default: 600]",
)
@click.option("--group", metavar="NAME", help="The group, by name or number, of a path.")
@click.option(
    "--max-message",
    type=types.size,
    metavar="SIZE",
    default=str(MAX_MESSAGE),
    help="The largest message: 64K, 16M; more closes the connection.  [default: 16M]",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    metavar="N",
    default=MAX_CONNECTIONS,
    help=f"Connections at once; more wait.  [default: {MAX_CONNECTIONS}]",
)
@click.option(
    "--journal",
    metavar="DIR",
    help="Commit messages to the directory DIR, which is made if it is missing, before they are "
    "acknowledged, and print them from there: what was not printed when it ends, or is killed, is "
    "printed by the next one. See mpsr log.",
)
@click.option(
    "--journal-limit",
    type=types.capacity,
    metavar="SIZE",
    help="What the journal may take of the disk; senders wait while it is full.  [default: 1G]",
)
@click.option("-q", "--quiet", is_flag=True, help="Tell only of losses, warnings and errors.")
def recv(
    *,
    address: str,
    output: str,
    null: bool,
    count: int | None,
    timeout: float | None,
    kind: SocketType,
    framing: Framing,
    mode: int,
    group: str | None,
    max_message: int,
    max_connections: int,
    journal: str | None,
    journal_limit: int | None,
    quiet: bool,
) -> Status:
    """Run ``mpsr recv``."""
    if journal_limit is not None and journal is None:
        raise click.UsageError("--journal-limit has no use without --journal")
    if null and output == "raw":
        raise click.UsageError("--null has no use with --output raw, which puts nothing between")
    if kind == "dgram" and framing != "auto":
        raise click.UsageError("--framing has no use with --type dgram: a datagram is a message")
    stdout = Stdout()
    _allow_descriptors(max_connections)
    printer = _Printer(stdout, format_named(output, b"\0" if null else b"\n"))
    stop = _Stop()
    with (
        orderly_end(stop),  # from the outset, so that no signal leaves the socket's file behind
        _warnings_told(),
        Receiver(
            address,
            type=kind,
            framing=framing,
            mode=mode,
            group=group,
            max_message=max_message,
            max_connections=max_connections,
            journal=journal,
            journal_limit=JOURNAL_LIMIT if journal_limit is None else journal_limit,
        ) as receiver,
    ):
        stop.of(receiver)
        try:
            stdout.watch(receiver.stop)
            if not quiet:
                say(f"listening on {receiver.address} (pid {os.getpid()})")
            printer.run(receiver, count, timeout)
        finally:
            if not (quiet or stdout.deserted):
                connections = (
                    "" if kind == "dgram" else plural(receiver.stats().accepted, "connection")
                )
                say(printer.summary(connections))
    return Status.OK


class _Stop:
    """Stops the receiver at a signal, or as soon as there is one."""

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._wanted = False

    def __call__(self, _: int) -> None:
        self._wanted = True
        if self._receiver is not None:
            with suppress(Closed):  # it has ended by itself
                self._receiver.stop()

    def of(self, receiver: Receiver) -> None:
        """Stop this one."""
        self._receiver = receiver
        if self._wanted:
            receiver.stop()


class _Printer:
    """Prints batches, and counts what is printed."""

    def __init__(self, output: Stdout, form: Format) -> None:
        self._output = output
        self._form = form
        self._messages = self._nbytes = self._lost = 0

    def run(self, receiver: Receiver, count: int | None, timeout: float | None) -> None:
        """Print until the receiver is stopped, ``count`` messages came, or none in time."""
        last = monotonic()
        while True:
            patience = None if timeout is None else max(0.0, last + timeout - monotonic())
            try:
                batch = receiver.receive_batch(patience)  # acknowledges the batch before
            except Closed:
                break
            except TimedOut:
                line = f"no message came to {receiver.address} within {timeout:g} s"
                raise CommandFailed(Status.TIMED_OUT, line) from None
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

    def summary(self, connections: str) -> str:
        """Return in one line what was printed."""
        line = f"received {plural(self._messages, 'message')}, {plural(self._nbytes, 'byte')}"
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


class _Teller(logging.Handler):
    """Tells on stderr what the library warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def _warnings_told() -> Iterator[None]:
    logger, teller = logging.getLogger("mpsr"), _Teller()
    logger.addHandler(teller)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.propagate = True


def _allow_descriptors(connections: int) -> None:
    """Raise the process's limit of open files, as far as it may be, to what is wanted."""
    wanted = connections + 2 * DESCRIPTOR_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < connections + DESCRIPTOR_RESERVE:
        most = max(1, allowed - DESCRIPTOR_RESERVE)
        say(f"no more than {plural(most, 'connection')} at once: see ulimit -n")
