"""Print what a receiver receives: ``mpsr recv``."""

from __future__ import annotations

import logging
import os
import resource
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

import click

from mpsr import systemd
from mpsr.cli import metrics, types
from mpsr.cli.complaint import advising
from mpsr.cli.endpoints import FRAMINGS, check_framing, endpoint
from mpsr.cli.formats import DECODERS, FORMATS, check_decoder, format_named
from mpsr.cli.metrics.place import place
from mpsr.cli.printer import Printer
from mpsr.cli.signals import orderly_end
from mpsr.cli.status import Status
from mpsr.cli.stdio import Stdout, plural, say
from mpsr.errors import AddressInUse, Explanation
from mpsr.limits import DESCRIPTOR_RESERVE, JOURNAL_LIMIT, MAX_CONNECTIONS, MAX_MESSAGE
from mpsr.sync.receiver import Receiver
from mpsr.system.address import SOCKET_TYPES
from mpsr.system.path_claim import DEFAULT_MODE
from mpsr.wire.packing import RECEIVER_FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpsr.cli.delivering import Delivering
    from mpsr.cli.metrics.place import Place
    from mpsr.front.listening import Endpoint
    from mpsr.system.address import SocketType
    from mpsr.wire.framing import Framing

_BARRIER_TIMEOUT: Final = 1.0  # seconds: so long we stay for systemd to note why we end
_IN_USE: Final = "stop it, choose another address, or take over from it with --handover"

_HELP: Final = """\
Receive messages at each ADDRESS and print each, a line a message, as it arrives.

\b
Examples:
  mpsr recv app.sock
  mpsr recv app.sock --count 10 --timeout 5s
  mpsr recv app.sock -o json | jq .body
  mpsr recv app.sock -0 | xargs -0 -n1 echo
  mpsr recv /run/app.sock --mode 660 --group www-data
  mpsr recv @app --type dgram
  mpsr recv app.sock /run/log.sock,type=dgram,mode=660
  mpsr recv /run/log.sock --type dgram --mode 666 --decode syslog -o json
  mpsr recv app.sock --decode log --level WARNING
  mpsr recv systemd:
  mpsr recv app.sock --journal events.journal
  mpsr recv app.sock --metrics 127.0.0.1:9464

Behind an ADDRESS may stand, after commas, its own type=, framing=, mode= and group=.
systemd: stands for the sockets that systemd has passed, systemd:NAME for those of a name.

A message is acknowledged to its producer once it is printed; with --journal, once it is on the
disk. Ctrl-C prints what has arrived and ends; a second Ctrl-C ends at once.
"""


@click.command(
    help=_HELP,
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True, type=endpoint)
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
    type=click.Choice(list(SOCKET_TYPES)),
    help="The type of socket.  [default: stream, or what a socket of systemd's is]",
)
@click.option(
    "--framing",
    type=click.Choice(FRAMINGS),
    metavar="NAME",
    default="auto",
    help="How bytes become messages: native, lines, null, length, length-le (little-endian), "
    "octet-counted (syslog), eof (a connection is a message), packet (a datagram or packet "
    "is a message), or auto: by what each connection begins with.  [default: auto]",
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
    "--allow-user",
    "users",
    type=types.user_id,
    metavar="USER",
    multiple=True,
    help="Let this user send, by name or number, and refuse others; can be repeated.",
)
@click.option(
    "--allow-group",
    "groups",
    type=types.group_id,
    metavar="GROUP",
    multiple=True,
    help="Let the members of this group send, too; can be repeated.",
)
@click.option(
    "--observer",
    "observers",
    type=types.user_id,
    metavar="USER",
    multiple=True,
    help="Let this user look inside, too (mpsr status, tap), by name or number; can be repeated.",
)
@click.option(
    "--decode",
    type=click.Choice(DECODERS),
    help="syslog: with -o json, add the fields of a syslog message (RFC 5424 and 3164). log: show "
    "the records of mpsr.logging as people read them, or, with -o json, add their fields.",
)
@click.option(
    "--level",
    type=types.level,
    metavar="LEVEL",
    help="With --decode log: only records of this level (INFO, WARNING, 35) or a higher one.",
)
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
    "--max-connections-per-user",
    type=click.IntRange(min=1),
    metavar="N",
    help="Connections of one user at once; more of that user wait.  [default: no limit]",
)
@click.option(
    "--max-rate-per-user",
    type=click.IntRange(min=1),
    metavar="N",
    help="Messages a second from one user; more wait.  [default: no limit]",
)
@click.option(
    "--max-bytes-per-user",
    type=types.capacity,
    metavar="SIZE",
    help="What one user's messages that are read and not printed, or with --journal not on the "
    "disk, may take; more wait.  [default: no limit]",
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
@click.option(
    "--metrics",
    "metrics_at",
    type=place,
    metavar="WHERE",
    help="Serve metrics for Prometheus at HOST:PORT, like 127.0.0.1:9464 (port 0: any free one), "
    "or at unix:PATH, behind which may stand, after commas, mode= (else 660) and group=.",
)
@click.option(
    "--to",
    "sinks",
    metavar="SINK",
    multiple=True,
    help="Give messages to SINK in place of stdout: file:PATH, sqlite:FILE, duckdb:FILE, "
    "parquet:DIR, arrow:DIR, nats://HOST:PORT/STREAM/SUBJECT, mpsr:ADDRESS, exec:COMMAND, or - "
    "(stdout). Can be repeated, with --journal.",
)
@click.option(
    "--handover",
    is_flag=True,
    help="Take the address over from a receiver that runs there: nobody is refused meanwhile, and "
    "it ends with status 0.",
)
@click.option("-q", "--quiet", is_flag=True, help="Tell only of losses, warnings and errors.")
def recv(
    *,
    addresses: tuple[Endpoint, ...],
    output: str,
    null: bool,
    count: int | None,
    timeout: float | None,
    kind: SocketType | None,
    framing: Framing,
    mode: int,
    group: str | None,
    users: tuple[int, ...],
    groups: tuple[int, ...],
    observers: tuple[int, ...],
    decode: str | None,
    level: int | None,
    max_message: int,
    max_connections: int,
    max_connections_per_user: int | None,
    max_rate_per_user: int | None,
    max_bytes_per_user: int | None,
    journal: str | None,
    journal_limit: int | None,
    metrics_at: Place | None,
    sinks: tuple[str, ...],
    handover: bool,
    quiet: bool,
) -> Status:
    """Run ``mpsr recv``."""
    if journal_limit is not None and journal is None:
        raise click.UsageError(
            Explanation(
                "--journal-limit requires --journal",
                "the limit applies to a journal, and no journal was given",
                "add --journal DIR, or remove --journal-limit",
            )
        )
    if null and output == "raw":
        raise click.UsageError(
            Explanation(
                "--null has no use with --output raw",
                "raw puts nothing between messages",
                "remove --null, or choose --output text",
            )
        )
    check_decoder(decode, output, level)
    if kind is not None:
        check_framing(kind, framing, RECEIVER_FRAMINGS)
    _allow_descriptors(max_connections)
    form = format_named(output, b"\0" if null else b"\n", decode, level or 0)
    if sinks and not (count is None and timeout is None):
        what, why = "--count and --timeout have no use with --to", "sinks run until a signal"
        raise click.UsageError(Explanation(what, why, "remove --count and --timeout, or --to"))
    out: Printer | Delivering
    if sinks:
        from mpsr.cli.delivering import Delivering  # noqa: PLC0415 - not light, and not for all

        out = Delivering(sinks, form, journal=journal is not None)
    else:
        out = Printer(Stdout(), form)
    stop = _Stop()
    with (
        orderly_end(stop),  # from the outset, so that no signal leaves the socket's file behind
        _warnings_told(),
        nullcontext() if handover else advising(AddressInUse, _IN_USE),
        Receiver(
            addresses,
            type=kind,
            framing=framing,
            mode=mode,
            group=group,
            allow_uids=users if users or groups else None,
            allow_gids=groups if users or groups else None,
            max_message=max_message,
            max_connections=max_connections,
            max_connections_per_uid=max_connections_per_user,
            max_rate_per_uid=max_rate_per_user,
            max_bytes_per_uid=max_bytes_per_user,
            journal=journal,
            journal_limit=JOURNAL_LIMIT if journal_limit is None else journal_limit,
            handover=handover,
            observers=observers,
        ) as receiver,
        metrics.served(receiver, metrics_at, handover=handover, quiet=quiet),
    ):
        stop.of(receiver if isinstance(out, Printer) else out)
        try:
            if not isinstance(out, Printer):
                out.prepare(receiver)
            where = ", ".join(map(str, receiver.addresses))
            if not quiet:
                say(f"listening on {where} (pid {os.getpid()})")
            systemd.ready(f"receiving at {where}")
            if isinstance(out, Printer):
                out.run(receiver, count, timeout)
            else:
                out.run()
        finally:
            systemd.stopping()
            if not (quiet or out.deserted):
                accepted = receiver.stats().accepted
                datagrams = not accepted and (out.messages or _datagrams_alone(addresses, kind))
                say(out.summary("" if datagrams else plural(accepted, "connection")))
    systemd.barrier(_BARRIER_TIMEOUT)
    return Status.OK


def _datagrams_alone(addresses: Sequence[Endpoint], kind: SocketType | None) -> bool:
    return all((each.type or kind) == "dgram" for each in addresses)


class _Stop:
    """Stops the receiver at a signal, or as soon as there is one."""

    def __init__(self) -> None:
        self._receiver: Receiver | Delivering | None = None
        self._wanted = False

    def __call__(self, _: int) -> None:
        self._wanted = True
        if self._receiver is not None:
            self._receiver.stop()

    def of(self, receiver: Receiver | Delivering) -> None:
        """Stop this one."""
        self._receiver = receiver
        if self._wanted:
            receiver.stop()


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
