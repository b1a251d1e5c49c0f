"""Read what stands behind a sink's scheme: a target, and options as in a URL's query."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from mpsr.errors import ConfigurationError, Explanation
from mpsr.limits import GIB, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_QUERY: Final = re.compile(r"[a-z][a-z0-9_-]*=[^&?]*(?:&[a-z][a-z0-9_-]*=[^&?]*)*")
_SIZE: Final = re.compile(r"([0-9]+)([KMG]?)")
_BYTES: Final = {"": 1, "K": KIB, "M": MIB, "G": GIB}
_USER: Final = re.compile(r"(?<=//)[^/\s]*@")  # of a URL that a command contains
_MODE: Final = re.compile(r"0?[0-7]{3}")
_OWNERS: Final = 0o600  # what the sink itself needs
_TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)")
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def split(target: str) -> tuple[str, str]:
    """Return what stands before the query, and the query, which may be empty."""
    before, mark, query = target.rpartition("?")
    return (before, query) if mark and _QUERY.fullmatch(query) else (target, "")


def without_user(target: str) -> str:
    """Return a target without the user and password that a URL may contain.

    Args:
        target: the text after the scheme; a URL begins with ``//``.

    Raises:
        ConfigurationError: it is a URL, and another program may read another part of it as the
            password. The error does not repeat the text, which may contain one.

    """
    if not target.startswith("//"):
        return _USER.sub("", target)
    authority = target[2:].partition("/")[0].partition("?")[0].partition("#")[0]
    user, at, _ = authority.rpartition("@")
    if authority and target.count("@") > len(at):
        raise ConfigurationError(
            "it is ambiguous where the user and password of this URL end: write %2F for /, %3F for "
            "?, %23 for # and %40 for @, except for the @ before the host"
        )
    return "//" + target[2 + len(user) + len(at) :]


def options(target: str, known: Mapping[str, Callable[[str], Any]]) -> tuple[str, dict[str, Any]]:
    """Return what stands before the query, and the options in it.

    ``events.jsonl?format=json&rotate=100M`` has two options. What follows a question mark and
    does not look like options belongs to the target.

    Args:
        target: the text behind the scheme.
        known: by name, what makes a value of an option's text; it raises ConfigurationError or
            ValueError for one that makes no sense.

    Raises:
        ConfigurationError: an option is unknown, stands twice or makes no sense.

    """
    before, query = split(target)
    found: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, _, text = part.partition("=")
        if name not in known:
            raise ConfigurationError(_unknown(name, known))
        if name in found:
            error = Explanation(f"{name}= is given twice", advice="remove one of them")
            raise ConfigurationError(error)
        try:
            found[name] = known[name](unquote(text))
        except ConfigurationError as exc:
            why = Explanation.of(exc)
            error = Explanation(f"{name}={text} is invalid", why.what, why.advice)
            raise ConfigurationError(error) from None
        except ValueError:
            raise ConfigurationError(f"{name}={text} is invalid") from None
    return before, found


def _unknown(name: str, known: Mapping[str, object]) -> Explanation:
    """Return the text for an option that a sink does not have."""
    close = get_close_matches(name, known, 1)
    names = ", ".join(f"{each}=" for each in known)
    advice = f"choose one of {names}" if names else "remove it: the sink has no options"
    if close:
        advice = f"did you mean {close[0]}=?"
    return Explanation(f"{name}= is no option of this sink", advice=advice)


def unnamed(what: str, example: str) -> ConfigurationError:
    """Return the error for a target that is missing or incomplete."""
    return ConfigurationError(Explanation(f"it names no {what}", advice=f"write it like {example}"))


def choice(*names: str) -> Callable[[str], str]:
    """Return what takes one of these words."""

    def chosen(text: str) -> str:
        if text not in names:
            raise ConfigurationError(f"it is none of {', '.join(names)}")
        return text

    return chosen


def in_utf8(path: str, library: str) -> None:
    """Raise ConfigurationError for a path whose bytes are not UTF-8, which a library requires."""
    try:
        path.encode()
    except UnicodeEncodeError:
        why = f"{library} opens only files whose names are UTF-8"
        raise ConfigurationError(
            Explanation(f"cannot write to {path}", why, "choose another path")
        ) from None


def count(text: str) -> int:
    """Return a number of at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ConfigurationError("it is not a whole number, 1 or more")
    return int(text)


def size(text: str) -> int:
    """Return bytes: ``1000``, ``64K``, ``100M`` or ``1G``, in powers of 1,024."""
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise ConfigurationError(
            Explanation("it is no size", advice="write it like 64K, 100M or 1G")
        )
    return int(match[1]) * _BYTES[match[2]]


def mode(text: str) -> int:
    """Return the permissions of a file: ``640``."""
    if _MODE.fullmatch(text) is None or int(text, 8) & 0o711 != _OWNERS:
        error = "it must be octal, let the owner read and write, and no user execute, like 640"
        raise ConfigurationError(error)
    return int(text, 8)


def seconds(text: str) -> float:
    """Return seconds: ``500ms``, ``30s``, ``5m``, ``12h`` or ``1d``."""
    match = _TIME.fullmatch(text)
    if match is None or not float(match[1]):
        advice = "write it like 500ms, 30s, 5m, 12h or 1d"
        raise ConfigurationError(Explanation("it is no time", advice=advice))
    return float(match[1]) * _SECONDS[match[2]]
