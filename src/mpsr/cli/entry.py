"""Run the command that argv names."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import shell_complete

from mpsr.cli.signals import heed_interrupts
from mpsr.cli.status import Status, is_defect, line_of, status_of, table
from mpsr.cli.stdio import abandon_stdout, say

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULES: Final = {"status": "look"}  # where it differs: status.py has the exit statuses
_COMPLETE: Final = "_MPSR_COMPLETE"  # set by the completion script that a shell has loaded


def run(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit status."""
    try:
        instruction = os.environ.get(_COMPLETE)
        if instruction:
            return shell_complete(command, {}, "mpsr", _COMPLETE, instruction)
        with command.make_context("mpsr", list(arguments)) as context:
            return int(command.invoke(context) or Status.OK)
    except click.exceptions.Exit as end:
        return end.exit_code
    except BaseException as error:  # noqa: BLE001 - whatever it is, one line tells it
        return _report(error)


def _report(error: BaseException) -> int:
    status = status_of(error)
    if is_defect(error) and os.environ.get("MPSR_DEBUG"):
        import traceback  # noqa: PLC0415 - not light

        traceback.print_exception(error)
    line = line_of(error)
    if line:
        say(line)
    if status in (Status.IO, Status.STDOUT_CLOSED):
        abandon_stdout()
    return status


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click calls it
    if value:
        from mpsr.cli import version  # noqa: PLC0415 - it loads the codec, which may fail

        click.echo(version.LINE)
        context.exit()


_HELP: Final = """\
Send messages from many processes to one, over a Unix domain socket.

\b
Examples:
  mpsr recv app.sock                     print what arrives
  mpsr send app.sock "hello" "world"     two messages
  tail -f app.log | mpsr send app.sock   a message a line
  mpsr status app.sock                   what the receiver is doing
  mpsr top app.sock                      the same, live, with its producers' rates
  mpsr tap app.sock --match error        some of the messages that pass
  mpsr log events.journal -n 20          the last 20 messages of a journal
  mpsr log events.journal -f             its messages, as they come
  mpsr journal verify events.journal     whether a journal is whole
  mpsr systemd /run/app.sock             units by which systemd starts a receiver
  mpsr demo                              watch five producers and a receiver
  mpsr bench                             measure it on this machine

An ADDRESS is a path, @name (Linux's abstract namespace) or fd:N (an inherited socket); a
receiver's may be systemd:NAME, too (sockets that systemd passes).
"""


class _Commands(click.Group):
    """The commands, each imported when it is named: none waits for what another needs."""

    def list_commands(self, _: click.Context) -> list[str]:
        looks = ["status", "top", "tap"]
        return ["recv", "send", *looks, "log", "journal", "systemd", "demo", "bench"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = _MODULES.get(cmd_name, cmd_name)
        found: click.Command = getattr(import_module(f"mpsr.cli.{module}"), cmd_name)
        heed_interrupts()  # there is work from here on, to be ended in order
        return found


@click.group(
    cls=_Commands,
    help=_HELP,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExit statuses:\n{table()}",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the versions of mpsr and Python, and which codec is in use.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Show the help, unless a command follows."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
