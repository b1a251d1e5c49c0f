"""Give every command what all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from mpsr.cli import types
from mpsr.cli.suggestions import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.shell_completion import CompletionItem

_DIRECTORIES: Final = frozenset({"DIR"})  # metavars of what a shell completes as a directory
_FILES: Final = frozenset({"ADDRESS", "ADDRESS...", "FILE", "PATH"})  # ... and as a file

receiver_uid = click.option(  # of each command that connects to a receiver
    "--receiver-uid",
    type=types.user,
    metavar="USER",
    help="Who may receive, by name or number, or any.  [default: your own user and root, where "
    "others could have taken the address; else the owner of its directory, too]",
)

_NOTE: Final = (
    "Each option can be set by a variable, too: {variable} for {option}; the command line wins."
)


def equip(command: click.Command, prefix: str = "MPSR") -> None:
    """Equip a command, and what commands it has.

    Each option is given a variable, each choice guesses what was meant, each number says what it
    must be, and a shell completes what is a path.
    """
    name = f"{prefix}_{_upper(command.name or '')}"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            parameter.envvar = f"{name}_{_upper(_longest(parameter))}"
        kind = parameter.type
        if type(kind) is click.Choice:
            parameter.type = Choice(kind.choices, kind.case_sensitive)
        elif type(kind) is click.IntRange:
            parameter.type = types.Count(kind.min, kind.max)
        what = (parameter.metavar or parameter.name or "").upper()
        if isinstance(parameter, click.Argument) or what in _DIRECTORIES:
            completed = "dir" if what in _DIRECTORIES else "file" if what in _FILES else ""
            if completed:
                parameter.type = _Located(parameter.type, completed)
        elif what in _FILES:
            parameter.type = _Located(parameter.type, "file")
    if line := _note(command):
        command.epilog = f"{line}\n\n{command.epilog or ''}"
    for each in children(command):
        equip(each, name)


def children(command: click.Command) -> Iterator[click.Command]:
    """Give the commands of a group; none of another."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield found


def variables(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """Give the variables of an equipped command, each with its option."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str):
            yield parameter.envvar, parameter


def _note(command: click.Command) -> str:
    found = [(name, _longest(option)) for name, option in variables(command)]
    if not found:
        return ""
    variable, option = max(found, key=lambda each: each[1] == "--quiet")
    return _NOTE.format(variable=variable, option=option)


def _longest(option: click.Option) -> str:
    return next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])


def _upper(name: str) -> str:
    return name.lstrip("-").replace("-", "_").upper()


class _Located(click.ParamType[Any]):
    """Another type, whose values a shell completes as files or directories."""

    def __init__(self, inner: click.ParamType[Any], kind: str) -> None:
        self.name = inner.name
        self.inner = inner
        self._kind = kind

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - as click has it
        return self.inner.convert(value, param, ctx)

    def split_envvar_value(self, rv: str) -> Any:  # noqa: ANN401 - as click has it
        return self.inner.split_envvar_value(rv)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Have the shell complete it, which knows the files."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell alone

        del ctx, param
        return [CompletionItem(incomplete, type=self._kind)]
