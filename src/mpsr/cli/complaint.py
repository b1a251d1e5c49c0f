"""Tell an error in three lines: what happened, why, and what to try."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from mpsr.cli.status import SILENT, CommandFailed, is_defect, status_of
from mpsr.cli.stdio import say
from mpsr.errors import (
    AddressDenied,
    AddressError,
    AddressInUse,
    ConfigurationError,
    Explanation,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalFull,
    JournalInUse,
    MessageError,
    MessageTooLarge,
    MpsrError,
    NoJournal,
    NoReceiver,
    ProtocolError,
    ReceiverBusy,
    Rejected,
    TimedOut,
    Undelivered,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is said of an error that does not say it itself: why, and what to try. The first row that
# fits decides.
_BY_ERROR: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (NoReceiver, "nobody receives there", "start the receiver"),
    (ReceiverBusy, "it answers nobody for now", "try again, or see whether it is stopped"),
    (AddressInUse, "another process receives there", "stop it, or choose another address"),
    (AddressDenied, "the permissions forbid it", "change the permissions or the user"),
    (AddressError, "the system does not allow it", "choose another address"),
    (MessageTooLarge, "it is above the limit", "raise --max-message, here and at the receiver"),
    (MessageError, "it cannot be sent as it is", "choose another --framing, or encode it"),
    (TimedOut, "nothing came in time", "see whether the other side runs, or wait longer"),
    (JournalInUse, "another process has it open", "stop that, or choose another directory"),
    (JournalDenied, "the permissions forbid it", "change the permissions or the user"),
    (NoJournal, "there is none", "check the path of the directory"),
    (JournalDamaged, "it is not as it was written", "mpsr journal salvage DIR"),
    (JournalFull, "there is no room", "make room, or raise the limit"),
    (JournalError, "the disk or its file system fails", "look at the disk, then start again"),
    (Undelivered, "the receiver has not come back for more", "look at it, then send again"),
    (Rejected, "it said no more", "see what the receiver says on its stderr"),
    (ProtocolError, "the other side broke the wire format", "use one version on both sides"),
    (ConfigurationError, "it cannot work so", "correct what the first line names"),
    (MpsrError, "the cause is not known", "try again, and look at the other side's stderr"),
    (CommandFailed, "it cannot go on so", "see mpsr --help"),
    (OSError, "the system reports it", "look at the file or disk that was in use, and try again"),
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
        advice = "please report it; MPSR_DEBUG=1 shows where it is"
        return Explanation(f"a defect of mpsr: {what}", "nobody foresaw it", advice)
    if isinstance(error, MemoryError) and not error.args:
        what, advice = "there is not enough memory", "raise ulimit -v, or the container's limit"
        return Explanation(what, "the process may have no more", advice)
    text = Explanation.of(error)
    if isinstance(error, OSError) and not isinstance(error, MpsrError):
        text = Explanation("input or output failed", error.strerror or str(error))
    rows = (row for row in _BY_ERROR if isinstance(error, row[0]))
    _, why, advice = next(rows, (None, "", ""))
    return Explanation(text.what, text.why or why, text.advice or advice)


@contextmanager
def advising(kind: type[MpsrError], advice: str) -> Iterator[None]:
    """Give other advice with an error of this kind: what the options of a command can do."""
    try:
        yield
    except kind as exc:
        text = Explanation.of(exc)
        error = Explanation(text.what, text.why, advice)
        raise CommandFailed(status_of(exc), error) from exc


def _misused(error: click.ClickException) -> Explanation:
    """Return what is wrong with a command line."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    text = error.message
    what = text.what if isinstance(text, Explanation) else text.rstrip(".")
    why, advice = (text.why, text.advice) if isinstance(text, Explanation) else ("", "")
    path, usage = "mpsr", "mpsr COMMAND"
    if context is not None:
        path = context.command_path
        usage = " ".join((path, *context.command.collect_usage_pieces(context)))
    if isinstance(error, (click.NoSuchOption, click.NoSuchCommand)):
        from mpsr.cli.suggestions import unknown  # noqa: PLC0415 - needed for a slip alone

        what, advice = unknown(error, path)
    elif isinstance(error, click.BadParameter):
        name = _named(error.param, context) if error.param is not None else "an argument"
        if isinstance(error, click.MissingParameter):
            what = f"{name} is missing"
        else:
            what, why = f"bad value for {name}", what
    return Explanation(what, why or f"the usage is {usage}", advice or f"{path} --help")


def _named(parameter: click.Parameter, context: click.Context | None) -> str:
    """Return how a user calls a parameter, and where its value came from, if not from there."""
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(context or click.Context(click.Command(None))).rstrip(".")
    name = max(parameter.opts, key=len)
    source = context and parameter.name and context.get_parameter_source(parameter.name)
    if source is ParameterSource.ENVIRONMENT:
        return f"{name} in the variable {parameter.envvar}"
    return name
