"""Show many producers and one receiver, as real processes: ``mpsr demo``."""

from __future__ import annotations

import multiprocessing
import os
import select
import sys
from tempfile import TemporaryDirectory
from typing import Final

import click

from mpsr.cli.complaint import complain
from mpsr.cli.signals import end_by_signals, held_back, immediate_end
from mpsr.cli.status import CommandFailed, Status, status_of
from mpsr.cli.stdio import Stdout, plural
from mpsr.errors import Explanation, MpsrError, TimedOut
from mpsr.sync.producer import Producer
from mpsr.sync.receiver import Receiver

_PATIENCE: Final = 10.0  # seconds: a demonstration never hangs


_HELP: Final = """\
Start a receiver and some producers, each a process, and show what they say.

\b
Examples:
  mpsr demo
  mpsr demo --producers 20 --messages 100
  mpsr demo --text "{i} was here"

The producers run at once, so their lines come in any order.
"""


@click.command(
    help=_HELP,
    epilog="Exit statuses: see mpsr --help.",
)
@click.option(
    "--producers",
    type=click.IntRange(1, 256),
    default=5,
    metavar="N",
    help="How many processes send.  [default: 5]",
)
@click.option(
    "--messages",
    type=click.IntRange(1, 1_000_000),
    default=1,
    metavar="N",
    help="How many messages each sends.  [default: 1]",
)
@click.option(
    "--text",
    default="Message from producer {i}",
    help='What they say; {i} is the producer\'s number.  [default: "Message from producer {i}"]',
)
def demo(*, producers: int, messages: int, text: str) -> Status:
    """Run ``mpsr demo``."""
    bodies = [os.fsencode(text.replace("{i}", str(i))) for i in range(producers)]
    if max(map(len, bodies)) > select.PIPE_BUF // 2:  # a longer line could be torn in a pipe
        raise click.UsageError(
            Explanation(
                f"--text is longer than {select.PIPE_BUF // 2} bytes",
                "in a pipe, parts of longer lines could be mixed",
                "choose a shorter text",
            )
        )
    screen = Stdout()
    processes = multiprocessing.get_context("fork")
    children = []
    got = 0
    with immediate_end(), TemporaryDirectory(prefix="mpsr-demo-") as directory:
        address = os.path.join(directory, "demo.sock")
        try:
            with Receiver(address) as receiver:
                screen.write(b"[Server] Listening...\n")
                for i, body in enumerate(bodies):
                    arguments = (address, i, [body] * messages, screen)
                    child = processes.Process(target=_produce, args=arguments)
                    with held_back():  # every child in the list was started
                        child.start()
                        children.append(child)
                for got in range(producers * messages):  # noqa: B007 - reported when it is too few
                    message = receiver.receive(timeout=_PATIENCE)
                    screen.write(b"[Server] Got: " + message + b"\n")
            # Closing has acknowledged the last one, so every producer comes to its end.
            for child in children:
                child.join()
        except TimedOut:
            line = f"only {got} of {plural(producers * messages, 'message')} came"
            error = Explanation(line, "a producer was stopped or is slow", "run it again")
            raise CommandFailed(Status.FAILURE, error) from None
        finally:
            for child in children:
                child.kill()  # no more than a precaution, unless we were interrupted
                child.join()
    return Status(max(_status(child.exitcode or 0) for child in children))


def _status(exitcode: int) -> int:
    """Return an exit status for what multiprocessing tells: a signal is a negative number."""
    return 128 - exitcode if exitcode < 0 else exitcode


def _produce(address: str, i: int, messages: list[bytes], screen: Stdout) -> None:
    """Be a producer: a child process."""
    end_by_signals()
    try:
        with Producer(address, label=f"producer {i}") as producer:
            producer.send_many(messages)
            producer.flush(timeout=_PATIENCE)  # returns once all of it is accepted
        screen.write(b"[Producer %d] Sent.\n" % i)
    except (MpsrError, CommandFailed) as exc:
        complain(exc, who=f"producer {i}")
        sys.exit(status_of(exc))
