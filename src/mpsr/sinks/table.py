"""Find the sink that a text names: its scheme in a table, or among those that others install."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr.errors import ConfigurationError, Explanation
from mpsr.sinks.options import split

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.sinks.protocol import Sink

# scheme: the module of this package that has a function `sink`
BUILT_IN: Final = {
    "arrow": "arrow",
    "duckdb": "duckdb",
    "exec": "exec",
    "file": "file",
    "mpsr": "funnel",
    "nats": "nats",
    "parquet": "parquet",
    "sqlite": "sqlite",
}
GROUP: Final = "mpsr.sinks"  # of entry points: each names a function like those

_USER: Final = re.compile(r"(?<=//)[^/?]*@")  # of a URL, with a password perhaps
_NAME: Final = re.compile(r"([?&])name=([^&?]*)(&|$)")
_LONGEST_NAME: Final = 200  # bytes: a journal keeps it beside each cursor


class NamedSink(NamedTuple):
    """A sink to be made, and the name of its cursor in a journal."""

    name: str
    make: Callable[[], Sink]
    """Makes one; raises ConfigurationError where the text makes no sense."""


def sink(text: str, extra: dict[str, Callable[[str], Sink]] | None = None) -> NamedSink:
    """Return the sink that a text like ``file:events.jsonl?rotate=100M`` names.

    Its name is the text without its options, or what ``name=`` says among these.

    Args:
        text: a scheme, a colon, and what that scheme makes of the rest.
        extra: further schemes, and what makes a sink of what stands behind each.

    Raises:
        ConfigurationError: there is no such scheme, what it needs is not installed, or it
            refuses the rest.

    """
    own = extra or {}
    scheme, colon, target = text.partition(":")
    named = _NAME.search(target)
    if named is not None:
        before, after = target[: named.start()], target[named.end() :]
        target = before + (named[1] + after if after else "")
    text = _USER.sub("", text, count=1)  # from now on it is only shown
    name = named[2] if named is not None else _USER.sub("", scheme + colon + split(target)[0])
    if not name or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        error = f"{text}: give it a name of 1 to {_LONGEST_NAME} bytes, with name= behind a ?"
        raise ConfigurationError(error)
    factory = own.get(scheme) or _factory(text, [*own])

    def make() -> Sink:
        try:
            return factory(target)
        except ConfigurationError as exc:
            why = Explanation.of(exc)
            error = Explanation(f"{text}: {why.what}", why.why, why.advice)
            raise ConfigurationError(error) from exc.__cause__

    return NamedSink(name, make)


def _factory(text: str, own: list[str]) -> Callable[[str], Sink]:
    scheme, colon, target = text.partition(":")
    if scheme in BUILT_IN and colon:
        factory: Callable[[str], Sink] = import_module(f"mpsr.sinks.{BUILT_IN[scheme]}").sink
        return factory
    from importlib.metadata import entry_points  # noqa: PLC0415 - not light, and not for all

    others = {each.name: each for each in entry_points(group=GROUP)}
    if scheme in others and colon:
        try:
            return others[scheme].load()  # type: ignore[no-any-return]  # what others install
        except Exception as exc:
            error = f"{text}: {others[scheme].value} cannot be loaded: {exc}"
            raise ConfigurationError(error) from exc
    schemes = sorted({*BUILT_IN, *others, *own})
    close = get_close_matches(scheme, schemes, 1) if colon else []
    meant = f"did you mean {close[0]}:{target}? There" if close else "there"
    shown = ", ".join(f"{each}:" if each != "-" else each for each in schemes)
    raise ConfigurationError(f"{text} names no sink; {meant} are: {shown}")
