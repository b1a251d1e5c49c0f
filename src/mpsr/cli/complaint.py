"""Tell an error in three lines: what happened, why, and what to try."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource
from click.exceptions import NoArgsIsHelpError

from mpsr.cli.arguments import in_options
from mpsr.cli.status import SILENT, CommandFailed, is_defect, status_of
from mpsr.cli.stdio import say
from mpsr.errors import (
    Explanation,
    JournalDamaged,
    JournalFull,
    JournalInUse,
    MessageTooLarge,
    MpsrError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# What to try, if an error does not say it itself. The first row that fits decides; no advice is
# better than one that fits any error.
_ADVICE: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (MessageTooLarge, "raise --max-message, here and at the receiver"),
    (JournalInUse, "stop that process, or choose another directory"),
    (JournalDamaged, "copy what can be read with: mpsr journal salvage"),
    (JournalFull, "make room on the disk, or raise --journal-limit"),
)


def complain(error: BaseException | Explanation, *, who: str = "") -> None:
    """Tell an error on stderr, in one piece; nothing if nobody needs to hear of it.

    Args:
        error: what went wrong.
        who: the process that it went wrong in, if it is a child.

    """
    text = error if isinstance(error, Explanation) else explained(error)
    if text is None:
        return
    parts = (("why", text.why), ("try", text.advice))
    what = f"{who}: {text.what}" if who else text.what
    say(what, *(f"  {name}: {part}" for name, part in parts if part))


def explained(error: BaseException) -> Explanation | None:
    """Return the three parts of an exception; None where there is nothing to tell."""
    if status_of(error) in SILENT:
        return None
    if isinstance(error, click.ClickException):
        return _misused(error)
    if is_defect(error):
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        advice = "report it with the traceback, which MPSR_DEBUG=1 prints"
        return Explanation(f"internal error: {what}", "this is a bug in mpsr", advice)
    if isinstance(error, MemoryError) and not error.args:
        what, advice = "there is not enough memory", "raise ulimit -v, or the container's limit"
        return Explanation(what, advice=advice)
    if isinstance(error, OSError) and not isinstance(error, MpsrError):
        return Explanation("input or output failed", error.strerror or str(error))
    text = Explanation.of(error)
    if isinstance(error, MpsrError):  # in the words of the library
        text = in_options(text)
    advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), "")
    return Explanation(text.what, text.why, text.advice or advice)


@contextmanager
def advising(kind: type[MpsrError], advice: str) -> Iterator[None]:
    """Give other advice with an error of this kind: what the options of a command can do."""
    try:
        yield
    except kind as exc:
        text = in_options(Explanation.of(exc))
        error = Explanation(text.what, text.why, advice)
        raise CommandFailed(status_of(exc), error) from exc


def _misused(error: click.ClickException) -> Explanation:
    """Return what is wrong with a command line."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    text = error.message
    if isinstance(text, Explanation):
        what, why, advice = text.what, text.why, text.advice
    else:  # in the words of click
        what, why, advice = text.rstrip("."), "", _example(context)
    if isinstance(error, (click.NoSuchOption, click.NoSuchCommand)):
        from mpsr.cli.suggestions import unknown  # noqa: PLC0415 - needed for a slip alone

        what, advice = unknown(error, "mpsr" if context is None else context.command_path)
    elif isinstance(error, NoArgsIsHelpError):
        what = "COMMAND is missing"
    elif isinstance(error, click.BadParameter):
        name = _named(error.param, context) if error.param is not None else "an argument"
        if isinstance(error, click.MissingParameter):
            what = f"{name} is missing"
        else:
            what, why = f"bad value for {name}", what
            advice = text.advice if isinstance(text, Explanation) else ""
    return Explanation(what, why, advice)


def _example(context: click.Context | None) -> str:
    """Return the first example in the help of a command, as advice; empty if it has none."""
    if context is None:
        return ""
    lines = (line.strip() for line in (context.command.help or "").splitlines())
    found = next((line for line in lines if line.startswith(f"{context.command_path} ")), "")
    return found and f"write it like: {found.partition('  ')[0]}"


def _named(parameter: click.Parameter, context: click.Context | None) -> str:
    """Return how a user calls a parameter, and where its value came from, if not from there."""
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(context or click.Context(click.Command(None))).strip("[].")
    name = max(parameter.opts, key=len)
    source = context and parameter.name and context.get_parameter_source(parameter.name)
    if source is ParameterSource.ENVIRONMENT:
        return f"{name} in the variable {parameter.envvar}"
    return name
