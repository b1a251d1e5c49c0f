"""Find the sink that a text names: its scheme in a table, or among those that others install."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast
from urllib.parse import unquote

from mpsr.errors import ConfigurationError, Explanation
from mpsr.sinks.options import split, without_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.sinks.protocol import Sink

BUILT_IN: Final = ("arrow", "duckdb", "exec", "file", "mpsr", "nats", "parquet", "sqlite")
GROUP: Final = "mpsr.sinks"  # of entry points: each names a function like those

_OWN: Final = ("name", "rejected", "on_reject")  # options of every sink, which it does not see
_LONGEST_NAME: Final = 200  # bytes: a journal keeps it beside each cursor


class NamedSink(NamedTuple):
    """A sink to be made, and the name of its cursor in a journal."""

    name: str
    make: Callable[[], Sink]
    """Makes one; raises ConfigurationError where the text makes no sense."""
    rejected: str | None = None
    """The file for messages that the sink can never write; None: next to its output, or else next
    to the journal."""
    on_reject: Literal["store", "stop"] | None = None
    """Whether such a message is stored, or ends the sink; None: stored if there is a place."""
    label: str = ""
    """The value of ``name=``, which distinguishes several sinks of one output."""


def sink(text: str, extra: dict[str, Callable[[str], Sink]] | None = None) -> NamedSink:
    """Return the sink that a text like ``file:events.jsonl?rotate=100M`` names.

    Every sink has the options ``name=NAME``, ``rejected=FILE`` and ``on_reject=store|stop``. The
    default name is the text without options, user and password.

    Args:
        text: a scheme, a colon, and what that scheme makes of the rest.
        extra: further schemes, and what makes a sink of what stands behind each.

    Raises:
        ConfigurationError: there is no such scheme, what it needs is not installed, or it
            refuses the rest.

    """
    own = extra or {}
    scheme, colon, target = text.partition(":")
    try:
        shown = scheme + colon + without_user(target)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{scheme}: {exc}") from None
    target, given = _own_options(target)
    name = given.get("name", split(shown)[0])
    if not name or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        what = f"{shown}: its name is empty or longer than {_LONGEST_NAME} bytes"
        advice = "add ?name=NAME at the end, with another name"
        raise ConfigurationError(Explanation(what, advice=advice))
    rejected = unquote(given["rejected"]) if "rejected" in given else None
    on_reject = given.get("on_reject")
    if on_reject not in {None, "store", "stop"}:
        error = Explanation(
            f"{shown}: on_reject={on_reject} is invalid", "it is none of store, stop"
        )
        raise ConfigurationError(error)
    if rejected == "":
        error = Explanation(
            f"{shown}: rejected= names no file", advice="write it like rejected=FILE"
        )
        raise ConfigurationError(error)
    if rejected is not None and on_reject == "stop":
        what = f"{shown}: rejected= has no effect with on_reject=stop"
        why, advice = "on_reject=stop stores no message", "remove one of these options"
        raise ConfigurationError(Explanation(what, why, advice))
    factory = own.get(scheme) or _factory(shown, [*own])

    def make() -> Sink:
        try:
            return factory(target)
        except ConfigurationError as exc:
            why = Explanation.of(exc)
            error = Explanation(f"{shown.rstrip(':')}: {why.what}", why.why, why.advice)
            raise ConfigurationError(error) from exc.__cause__

    how = cast("Literal['store', 'stop'] | None", on_reject)
    return NamedSink(name, make, rejected, how, given.get("name", ""))


def _own_options(target: str) -> tuple[str, dict[str, str]]:
    """Return the target without the options that every sink has, and these."""
    before, query = split(target)
    given: dict[str, str] = {}
    others = []
    for part in query.split("&") if query else ():
        option, _, value = part.partition("=")
        if option in given:
            error = Explanation(f"{option}= is given twice", advice="remove one of them")
            raise ConfigurationError(error)
        if option in _OWN:
            given[option] = value
        else:
            others.append(part)
    if not given:
        return target, given
    return f"{before}?{'&'.join(others)}" if others else before, given


def _factory(text: str, own: list[str]) -> Callable[[str], Sink]:
    scheme, colon, target = text.partition(":")
    if scheme in BUILT_IN and colon:
        return _built_in(scheme)
    from importlib.metadata import entry_points

    others = {each.name: each for each in entry_points(group=GROUP)}
    if scheme in others and colon:
        try:
            return others[scheme].load()  # type: ignore[no-any-return]  # what others install
        except Exception as exc:
            what = f"{text}: {others[scheme].value} cannot be loaded"
            raise ConfigurationError(Explanation(what, str(exc))) from exc
    schemes = sorted({*BUILT_IN, *others, *own})
    close = get_close_matches(scheme, schemes, 1) if colon else []
    advice = "write it like file:events.jsonl or sqlite:events.db"
    if close:
        advice = f"did you mean {close[0]}:{target}?"
    shown = ", ".join(f"{each}:" if each != "-" else each for each in schemes)
    raise ConfigurationError(Explanation(f"{text} names no sink", f"the sinks are {shown}", advice))


def _built_in(scheme: str) -> Callable[[str], Sink]:
    """Return the function of a sink of this package, whose module is imported now.

    Each is imported by a statement: programs that freeze others do not find modules named by text.
    """
    factory: Callable[[str], Sink]
    match scheme:
        case "arrow":
            from mpsr.sinks import arrow

            factory = arrow.sink
        case "duckdb":
            from mpsr.sinks import duckdb

            factory = duckdb.sink
        case "exec":
            from mpsr.sinks import exec as programs

            factory = programs.sink
        case "file":
            from mpsr.sinks import file

            factory = file.sink
        case "mpsr":
            from mpsr.sinks import funnel

            factory = funnel.sink
        case "nats":
            from mpsr.sinks import nats

            factory = nats.sink
        case "parquet":
            from mpsr.sinks import parquet

            factory = parquet.sink
        case "sqlite":
            from mpsr.sinks import sqlite

            factory = sqlite.sink
        case _:
            raise AssertionError(scheme)
    return factory
