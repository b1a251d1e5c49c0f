"""Send messages from the command line or stdin: ``mpsr send``."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

import click

from mpsr.cli import common, types
from mpsr.cli.complaint import complain
from mpsr.cli.delivery import Delivery
from mpsr.cli.endpoints import check_framing
from mpsr.cli.reporter import ProgressReporter
from mpsr.cli.result import SendResult
from mpsr.cli.signals import orderly_end
from mpsr.cli.sources import Arguments, Stdin, Unreadable, body_of
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import say
from mpsr.errors import Explanation, MessageError, MpsrError
from mpsr.limits import KIB, MAX_MESSAGE
from mpsr.sync.producer import Producer
from mpsr.system.address import SOCKET_TYPES
from mpsr.wire.packing import FRAMINGS, PRODUCER_FRAMINGS

if TYPE_CHECKING:
    from mpsr.cli.sources import Source
    from mpsr.system.address import SocketType
    from mpsr.system.trust import ReceiverUid
    from mpsr.wire.framing import Framing


_JSON_GROWTH: Final = 6  # bytes that JSON has at most for one of a body: a control character
_JSON_ITEMS: Final = 64 * KIB  # bytes of a line for its other items
_HELP: Final = """\
Send each MESSAGE, or else each line of stdin, to the receiver at ADDRESS.

\b
Examples:
  mpsr send app.sock "hello" "world"
  tail -f app.log | mpsr send app.sock --label app.log
  find . -print0 | mpsr send app.sock -0
  mpsr send app.sock --whole < report.json
  mpsr send app.sock --json < app.db.rejected
  mpsr send /dev/log --type dgram "<13>hello"
  mpsr send server.sock --framing lines "for a foreign server"
  mpsr send app.sock --spool unsent.spool "safe, also while no receiver is there"

Lines leave as they come. It ends well once the receiver has accepted every message.
"""


@click.command(help=_HELP, epilog="Exit statuses: see mpsr --help.")
@click.argument("address")
@click.argument("message", nargs=-1, type=click.UNPROCESSED)
@click.option("-0", "--null", is_flag=True, help="Messages on stdin end with NUL, not newline.")
@click.option("--whole", is_flag=True, help="All of stdin is one message.")
@click.option(
    "--json",
    "objects",
    is_flag=True,
    help="Each line of stdin is an object with body or body_b64, as recv -o json prints it and "
    "sinks store rejected messages: send that body.",
)
@click.option("--skip-empty", is_flag=True, help="Leave empty messages out.")
@click.option(
    "--timeout",
    type=types.duration,
    metavar="TIME",
    help="Wait so long for a receiver to appear (else exit 69), then for it to accept anything "
    "(else exit 124): 500ms, 5s, 2m. Without it a receiver must be there, and is waited for, if "
    "it is slow or restarts, as long as it takes.",
)
@click.option("--label", metavar="NAME", default="mpsr send", help="A name for receivers to show.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(list(SOCKET_TYPES)),
    default="stream",
    help="The type of socket.  [default: stream]",
)
@click.option(
    "--framing",
    type=click.Choice([*FRAMINGS, "packet"]),
    metavar="NAME",
    help="What the receiver understands: native (the only one with acknowledgements), lines, null, "
    "length, length-le (little-endian), octet-counted (syslog), eof (a connection a message), "
    "or packet (a datagram or packet a message).  [default: native; of datagrams packet]",
)
@click.option(
    "--max-message",
    type=types.size,
    metavar="SIZE",
    default=str(MAX_MESSAGE),
    help="The largest message: 64K, 16M.  [default: 16M]",
)
@click.option(
    "--spool",
    metavar="DIR",
    help="Keep in the directory DIR, which is made if it is missing, what no receiver has accepted "
    "yet; the next run sends it first. No receiver need be there: it ends well once every message "
    "is accepted or safe in DIR.",
)
@common.receiver_uid
@click.option("-q", "--quiet", is_flag=True, help="Tell only of errors.")
def send(
    *,
    address: str,
    message: tuple[str, ...],
    null: bool,
    whole: bool,
    objects: bool,
    skip_empty: bool,
    timeout: float | None,
    label: str,
    kind: SocketType,
    framing: Framing | None,
    max_message: int,
    spool: str | None,
    receiver_uid: ReceiverUid,
    quiet: bool,
) -> Status:
    """Run ``mpsr send``."""
    _check_options(message, {"--null": null, "--whole": whole, "--json": objects})
    framing = framing or PRODUCER_FRAMINGS[kind][0]
    check_framing(kind, framing, PRODUCER_FRAMINGS)
    splitting: Framing = "eof" if whole else "null" if null else "lines"
    longest = _JSON_GROWTH * max_message + _JSON_ITEMS if objects else max_message
    parse = body_of if objects else None
    source = Arguments(message) if message else Stdin(splitting, longest, parse)
    with closing(source):
        producer = Producer(
            address,
            type=kind,
            framing=framing,
            label=label,
            max_message=max_message,
            receiver_uid=receiver_uid,
            spool=spool,
        )
        result = SendResult(
            producer.address, kind, framing, spool=spool, left=producer.stats().sent
        )
        reporter = ProgressReporter(source, quiet=quiet)
        delivery = Delivery(
            producer,
            kind,
            framing,
            timeout,
            spooled=spool is not None,
            report=reporter.report,
            watch=reporter.watch,
        )

        def begin_end(signum: int) -> None:
            result.signum = signum
            source.stop()
            delivery.hurry()

        try:
            with orderly_end(begin_end):
                result.failure = _deliver(delivery, source, skip_empty=skip_empty)
        finally:
            result.undelivered = delivery.end()
            result.unfinished = source.unfinished
            reporter.close()
            stats = producer.stats()
            for each in result.complaints(stats):
                complain(each)
            if not quiet:
                say(result.summary(stats))
    return result.status(stats)


def _check_options(message: tuple[str, ...], given: dict[str, bool]) -> None:
    names = [name for name, is_given in given.items() if is_given]
    if message and names:
        what, why = f"{names[0]} has no effect on a MESSAGE", "it says how to read stdin"
        advice = f"remove {names[0]}, or pass the messages on stdin"
        raise click.UsageError(Explanation(what, why, advice))
    if len(names) > 1:
        what = f"{names[0]} and {names[1]} exclude each other"
        why = "each says where a message ends"
        raise click.UsageError(Explanation(what, why, "remove one of them"))


def _deliver(delivery: Delivery, source: Source, *, skip_empty: bool) -> Exception | None:
    """Deliver everything that can be delivered; return what went wrong."""
    failure: MessageError | Unreadable | None = None
    try:
        try:
            for messages in source.groups(delivery.patience):
                delivery.take([m for m in messages if m] if skip_empty else messages)
        except (MessageError, Unreadable) as exc:
            failure = exc
        delivery.finish()
    except (MpsrError, CommandFailed) as exc:
        return failure or exc
    return failure
