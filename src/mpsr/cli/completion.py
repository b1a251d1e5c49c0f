"""Print what teaches a shell to complete the command: ``mpsr completion``."""

from __future__ import annotations

import sys
from typing import Final

import click
from click.shell_completion import get_completion_class

from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout
from mpsr.errors import Explanation

_SHELLS: Final = {
    "bash": "mpsr completion bash > ~/.local/share/bash-completion/completions/mpsr",
    "fish": "mpsr completion fish > ~/.config/fish/completions/mpsr.fish",
    "zsh": "mpsr completion zsh > ~/.zfunc/_mpsr   (a directory that fpath names)",
}

_HELP: Final = """\
Print the script by which a shell completes commands, options, choices and files.

\b
Examples:
  mpsr completion bash   to be written where bash looks for it: the script says where
  source <(mpsr completion bash)   for this shell alone
  mpsr completion fish | source
"""


@click.command(help=_HELP, epilog="Exit statuses: see mpsr --help.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> Status:
    """Run ``mpsr completion``."""
    from mpsr.cli.entry import COMPLETE, command  # noqa: PLC0415 - it imports this when it is named

    found = get_completion_class(shell)
    if found is None:
        error = Explanation(f"cannot complete in {shell}", "click does not know it", "update click")
        raise CommandFailed(Status.CONFIGURATION, error)
    script = found(command, {}, "mpsr", COMPLETE).source()
    head = "#compdef mpsr\n" if shell == "zsh" else ""
    body = script.removeprefix("#compdef mpsr\n").strip("\n")
    where = f"# To install it: {_SHELLS[shell]}\n"
    Stdout().write(f"{head}{where}{body}\n".encode(sys.getfilesystemencoding()))
    return Status.OK
