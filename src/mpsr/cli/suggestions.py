"""Guess what was meant by a word that is mistyped, or another's word for the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from mpsr.errors import Explanation

if TYPE_CHECKING:
    from collections.abc import Collection

_SYNONYMS: Final = {
    "benchmark": "bench",
    "cat": "log",
    "consume": "recv",
    "emit": "send",
    "example": "demo",
    "get": "recv",
    "help": "--help",
    "history": "log",
    "info": "status",
    "listen": "recv",
    "logs": "log",
    "monitor": "top",
    "produce": "send",
    "producer": "send",
    "publish": "send",
    "push": "send",
    "put": "send",
    "receive": "recv",
    "receiver": "recv",
    "replay": "log",
    "serve": "recv",
    "server": "recv",
    "service": "systemd",
    "sniff": "tap",
    "stats": "status",
    "subscribe": "recv",
    "tail": "log",
    "unit": "systemd",
    "version": "--version",
    "watch": "tap",
    "write": "send",
}


def meant(word: str, known: Collection[str]) -> str | None:
    """Return which of the known words was meant, if one is close; synonyms are for commands."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed for a slip alone

    synonyms = {alias: name for alias, name in _SYNONYMS.items() if name in known}
    words = {name.lower(): name for name in known}
    exact = synonyms.get(word.lower()) or words.get(word.lower())
    if exact is not None:
        return exact
    beginnings = [name for name in known if len(word) > 1 and name.startswith(word)]
    if len(beginnings) == 1:
        return beginnings[0]
    found = get_close_matches(word.lower(), [*words, *synonyms], n=1, cutoff=0.65)
    return (words.get(found[0]) or synonyms[found[0]]) if found else None


def unknown(error: click.NoSuchOption | click.NoSuchCommand, path: str) -> tuple[str, str]:
    """Return what is unknown, and what to try: what was probably meant, or a list."""
    context = error.ctx
    known: list[str] = []
    if isinstance(error, click.NoSuchOption):
        word, kind = error.option_name, "option"
        if context is not None:
            options = context.command.get_params(context)
            known = [flag for each in options for flag in each.opts if flag.startswith("--")]
    else:
        word, kind = error.command_name, "command"
        if context is not None and isinstance(context.command, click.Group):
            known = [*context.command.list_commands(context)]
            if context.parent is None:
                known += ["--help", "--version"]
    guess = meant(word, known)
    if guess is None:
        return f"{path} has no {kind} {word!r}", f"{path} --help lists the {kind}s"
    whole = guess if kind == "option" else f"{path} {guess}"
    return f"{path} has no {kind} {word!r}", f"did you mean {whole}?"


class Choice(click.Choice[Any]):
    """A choice that guesses what was meant."""

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - as click has it
        """Return the choice, or say which are there."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            raise click.BadParameter(not_among(str(value), self.choices), ctx, param) from None


def not_among(text: str, known: Collection[str]) -> Explanation:
    """Return the text for a word that is none of those known."""
    guess = meant(text, known)
    advice = f"did you mean {guess}?" if guess else ""
    return Explanation(f"{text!r} is none of {', '.join(known)}", advice=advice)
