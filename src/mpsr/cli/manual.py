"""Write the manual pages of the commands as roff."""

from __future__ import annotations

import re
from textwrap import wrap
from typing import TYPE_CHECKING, Final

import click

from mpsr import __version__
from mpsr.cli.common import children, variables
from mpsr.cli.status import MEANINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

_ESCAPES: Final = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga"})
_UNTOUCHED: Final = "\b"  # click's mark of a paragraph whose lines stay as they are

_WIDTH: Final = 72  # columns


def pages(command: click.Command, path: str = "mpsr") -> Iterator[tuple[str, str]]:
    """Give the name and the text of each page: of a command, then of those that it has."""
    yield path.replace(" ", "-"), _page(command, path)
    for each in children(command):
        yield from pages(each, f"{path} {each.name}")


def _page(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    title = path.replace(" ", "-").upper()
    summary = command.get_short_help_str(200).rstrip(".")
    lines = [
        f'.TH "{_text(title)}" "1" "" "mpsr {_text(__version__)}" "mpsr"',
        ".SH NAME",
        f"{_text(path.replace(' ', '-'))} \\- {_text(summary[:1].lower() + summary[1:])}",
        ".SH SYNOPSIS",
        f"\\fB{_text(path)}\\fR {_text(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    if options := [each for each in command.get_params(context) if isinstance(each, click.Option)]:
        lines.append(".SH OPTIONS")
        for option in options:
            flags, told = option.get_help_record(context) or ("", "")
            lines += [".TP", f"\\fB{_text(flags)}\\fR", _filled(told)]
    if found := list(children(command)):
        lines.append(".SH COMMANDS")
        for each in found:
            page = f"{path} {each.name}".replace(" ", "-")
            lines += [".TP", f"\\fB{_text(page)}\\fR(1)", _text(each.get_short_help_str(200))]
    if named := list(variables(command)):
        lines += [".SH ENVIRONMENT", "A variable that is set and not empty stands for its option."]
        for variable, option in named:
            several = ", several with spaces between" if option.multiple else ""
            lines += [".TP", f"\\fB{variable}\\fR", _text(f"{max(option.opts, key=len)}{several}")]
    lines.append(".SH EXIT STATUS")
    for status, meaning in MEANINGS.items():
        lines += [".TP", f"\\fB{status}\\fR", _text(meaning)]
    if path != "mpsr":
        parent = path.rpartition(" ")[0].replace(" ", "-")
        lines += [".SH SEE ALSO", f"\\fB{_text(parent)}\\fR(1)"]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """Give a help text: paragraphs are filled, but those that keep their lines."""
    first = True
    for paragraph in re.split(r"\n[ \t]*\n", text.strip("\n")):
        if not first:
            yield ".PP"
        first = False
        if paragraph.startswith(_UNTOUCHED):
            yield ".nf"
            yield from map(_text, paragraph.removeprefix(_UNTOUCHED).strip("\n").split("\n"))
            yield ".fi"
        else:
            yield _filled(paragraph)


def _filled(text: str) -> str:
    """Return text as lines of a width that is read well in the source, too."""
    return "\n".join(_text(line) for line in wrap(text, _WIDTH, break_on_hyphens=False))


def _text(text: str) -> str:
    """Return text that roff takes as it is; a line may not begin like a request."""
    escaped = text.translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
