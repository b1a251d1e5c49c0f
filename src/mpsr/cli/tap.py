"""Show samples of the messages that a receiver hands out: ``mpsr tap``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from mpsr.amounts import size
from mpsr.cli.common import receiver_uid
from mpsr.cli.look import answer_timeout, consumer
from mpsr.cli.signals import orderly_end
from mpsr.cli.status import Status
from mpsr.cli.stdio import Stdout, say
from mpsr.errors import Closed, Explanation
from mpsr.json_format import content, origin, to_json
from mpsr.limits import MAX_TAP_RATE
from mpsr.names import printable

if TYPE_CHECKING:
    from mpsr import observe
    from mpsr.observe import Sample, Tap
    from mpsr.system.trust import ReceiverUid

_RATE: Final = 100  # samples a second, without --rate: more than anybody reads


_HELP: Final = """\
Show messages that pass through the receiver at ADDRESS, as it hands them out.

\b
Examples:
  mpsr tap app.sock
  mpsr tap app.sock --match 'status=5..' --limit 10
  mpsr tap app.sock -o json | jq .body

It shows a sample: a few messages of each batch, and no more than --rate in all. At the end it says
how many have passed. Producers and the receiver are not slowed; whoever does not read what it
shows only gets fewer. --match chooses among the samples: it finds nothing in what was skipped.
"""


@click.command(
    help=_HELP,
    short_help="Show messages as they pass through a receiver.",
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("address", metavar="ADDRESS")
@click.option(
    "--match", metavar="REGEX", help="Show only messages in which this regular expression is found."
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="End after so many messages."
)
@click.option(
    "--rate",
    type=click.IntRange(min=1, max=MAX_TAP_RATE),
    metavar="N",
    default=_RATE,
    help=f"Samples a second, at most.  [default: {_RATE}]",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="text: the message, its sender before it. json: an object a message, with the keys of "
    "mpsr recv -o json, size and skipped.  [default: text]",
)
@answer_timeout
@receiver_uid
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing but messages and errors.")
def tap(
    *,
    address: str,
    match: str | None,
    limit: int | None,
    rate: int,
    output: str,
    timeout: float,
    receiver_uid: ReceiverUid,
    quiet: bool,
) -> Status:
    """Run ``mpsr tap``."""
    from mpsr import observe  # noqa: PLC0415 - loaded once the command line makes sense

    shower = _Shower(_compiled(match), limit, output, quiet=quiet)
    samples = observe.tap(address, rate=rate, timeout=timeout, receiver_uid=receiver_uid)
    with orderly_end(shower.end), samples:
        try:
            shower.show(samples)
        except Closed as exc:
            if not quiet:
                say(str(exc))
        finally:
            if not quiet:
                say(shower.summary(samples.passed))
    return Status.OK


def _compiled(match: str | None) -> re.Pattern[bytes] | None:
    """Return what a message has to match; its time is spent here, not in the receiver."""
    if match is None:
        return None
    try:
        return re.compile(match.encode("utf-8", "surrogateescape"))
    except re.error as exc:
        what, why = "bad value for --match", f"{match!r} is no regular expression: {exc}"
        raise click.UsageError(Explanation(what, why)) from None


class _Shower:
    """Shows samples, and counts them."""

    def __init__(
        self, pattern: re.Pattern[bytes] | None, limit: int | None, output: str, *, quiet: bool
    ) -> None:
        self._pattern = pattern
        self._limit = limit
        self._format = _json if output == "json" else _text
        self._quiet = quiet
        self._stdout = Stdout()
        self._sampled = self._shown = 0
        self._stuck = False
        self._ended = False

    def end(self, _: int = 0) -> None:
        """End with the next word of the receiver, which comes within a second."""
        self._ended = True

    def show(self, samples: Tap) -> None:
        """Show samples until there are enough, a signal comes, or nobody reads them."""
        self._stdout.watch(self.end)
        for sample in samples:
            if self._ended:
                return
            if sample is None:
                self._look_at(samples.status)
                continue
            self._sampled += 1
            if self._pattern is None or self._pattern.search(sample.body) is not None:
                self._stdout.write(self._format(sample))
                self._shown += 1
                if self._shown == self._limit:
                    return

    def _look_at(self, status: observe.Status | None) -> None:
        """Tell why nothing passes, once."""
        stuck = status is not None and status["consumer"]["state"] == "stuck"
        if status is not None and stuck and not (self._stuck or self._quiet):
            say(f"the consumer is {consumer(status['consumer'])}")
        self._stuck = stuck

    def summary(self, passed: int) -> str:
        """Return what was shown, and of how many."""
        found = "" if self._pattern is None else f"; --match looked at {self._sampled:,}"
        return f"showed {self._shown:,} of {max(passed, self._sampled):,} messages{found}"


def _text(sample: Sample) -> bytes:
    """Return a line: who sent it, and the message, which cannot command a terminal."""
    time = datetime.fromtimestamp(sample.time).astimezone().strftime("%H:%M:%S")
    who = f"{sample.peer.pid or '?'}"
    if sample.producer is not None and sample.producer.label:
        who += f" {printable(sample.producer.label)}"
    skipped = f"  … {sample.skipped:,} skipped\n" if sample.skipped else ""
    cut = f" … {size(sample.size)}" if sample.size > len(sample.body) else ""
    body = printable(sample.body.decode("utf-8", "backslashreplace"))
    return f"{skipped}{time} {who}: {body}{cut}\n".encode("utf-8", "backslashreplace")


def _json(sample: Sample) -> bytes:
    """Return an object, as ``mpsr recv -o json`` prints it."""
    time = datetime.fromtimestamp(sample.time).astimezone().isoformat(timespec="microseconds")
    head = origin(time, sample.peer, sample.producer)
    if sample.address is not None:
        head += f',"address":{to_json(sample.address)}'
    told = f'"seq":{sample.seq},"size":{sample.size},"skipped":{sample.skipped}'
    return f"{head},{told},{content(sample.body)}}}\n".encode()
