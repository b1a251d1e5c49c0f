"""Run the command that argv names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from mpsr.cli.common import equip
from mpsr.cli.complaint import complain
from mpsr.cli.signals import heed_interrupts
from mpsr.cli.status import Status, is_defect, status_of, table
from mpsr.cli.stdio import abandon_stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

COMPLETE: Final = "_MPSR_COMPLETE"  # set by the script of `mpsr completion` in a shell


def run(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit status."""
    try:
        if instruction := os.environ.get(COMPLETE):
            from click.shell_completion import shell_complete

            return shell_complete(command, {}, "mpsr", COMPLETE, instruction)
        with command.make_context("mpsr", list(arguments)) as context:
            return int(command.invoke(context) or Status.OK)
    except click.exceptions.Exit as end:
        return end.exit_code
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told in three lines
        return _report(error)


def _report(error: BaseException) -> int:
    status = status_of(error)
    if is_defect(error) and os.environ.get("MPSR_DEBUG"):
        import traceback

        traceback.print_exception(error)
    complain(error)
    if status in (Status.IO, Status.STDOUT_CLOSED):
        abandon_stdout()
    return status


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click calls it
    if value:
        from mpsr.cli import version

        click.echo(version.LINE)
        if version.MISSING:
            click.echo(version.MISSING)
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


_START: Final = """\
mpsr sends messages from many processes to one. Try it in two terminals:

  mpsr recv app.sock                 the receiver: it prints what arrives
  mpsr send app.sock "hello"         a producer; start as many as you like

Or watch both at work:               mpsr demo

What next:
  mpsr recv app.sock --journal DIR   keep every message, and: mpsr log DIR
  mpsr systemd /run/app.sock         have systemd start the receiver
  mpsr completion bash               have the shell complete all this

The commands, and exit statuses: mpsr --help     Those of one: mpsr recv --help
The manual: mpsr man recv | man -l -
"""

# The commands with what the help says of each: to list them is to import none.
_COMMANDS: Final = {
    "recv": "Print the messages that arrive at an address.",
    "send": "Send messages to an address.",
    "status": "Print what a receiver is doing.",
    "top": "Watch a receiver and its producers.",
    "tap": "Print samples of the messages that pass.",
    "log": "Print the messages that a journal holds.",
    "journal": "Verify, measure, trim or salvage a journal.",
    "systemd": "Print systemd units for a receiver.",
    "demo": "Watch many producers and one receiver at work.",
    "bench": "Measure throughput and latency on this machine.",
    "completion": "Print the script by which a shell completes mpsr.",
    "man": "Print a manual page.",
}


def _imported(name: str) -> click.Command:  # noqa: C901, PLR0912 - a table
    """Return a command, whose module is imported now.

    Each is imported by a statement: programs that freeze others do not find modules named by text.
    """
    match name:
        case "recv":
            from mpsr.cli.recv import recv as found
        case "send":
            from mpsr.cli.send import send as found
        case "status":
            from mpsr.cli.look import status as found
        case "top":
            from mpsr.cli.top import top as found
        case "tap":
            from mpsr.cli.tap import tap as found
        case "log":
            from mpsr.cli.log import log as found
        case "journal":
            from mpsr.cli.journal import journal as found
        case "systemd":
            from mpsr.cli.systemd import systemd as found
        case "demo":
            from mpsr.cli.demo import demo as found
        case "bench":
            from mpsr.cli.bench import bench as found
        case "completion":
            from mpsr.cli.completion import completion as found
        case "man":
            from mpsr.cli.man import man as found
        case _:
            raise AssertionError(name)
    return found


class _Commands(click.Group):
    """The commands, each imported when it is named: none waits for what another needs."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found = self.commands.get(cmd_name)
        if found is None:
            found = _imported(cmd_name)
            found.short_help = _COMMANDS[cmd_name]
            equip(found)
            self.commands[cmd_name] = found
        heed_interrupts()  # there is work from here on, to be ended in order
        return found

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        found = ((name, told) for name, told in _COMMANDS.items() if name.startswith(incomplete))
        return [CompletionItem(name, help=told) for name, told in found]


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
    """Tell a newcomer what to try, unless a command follows."""
    if context.invoked_subcommand is None:
        click.echo(_START, nl=False)
