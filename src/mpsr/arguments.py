"""Check the arguments that callers pass, and say in one sentence what is wrong with one."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from enum import Enum
from math import inf
from numbers import Real
from operator import index
from reprlib import repr as short_repr
from stat import S_IRUSR, S_IWUSR
from typing import Any, Final

from mpsr.errors import ConfigurationError, WrongType
from mpsr.limits import LARGEST_MESSAGE, LONGEST_TIMEOUT

_ALL_PERMISSIONS: Final = 0o777
_OWNERS: Final = S_IRUSR | S_IWUSR


class Own(Enum):
    """Stands for a time-out that was left out, where None means to wait for ever."""

    TIMEOUT = "the producer's own timeout"

    def __repr__(self) -> str:
        return self.value


OWN: Final = Own.TIMEOUT


def timeout(value: Any, name: str = "timeout") -> float | None:  # noqa: ANN401 - what is checked
    """Return a number of seconds, or None."""
    kind = type(value)
    if value is None or ((kind is float or kind is int) and 0 <= value <= LONGEST_TIMEOUT):
        return value  # type: ignore[no-any-return]  # soon, as most calls that wait ask for it
    return seconds(name, value, beside=", or None")


def seconds(name: str, value: Any, *, beside: str = "") -> float:  # noqa: ANN401 - what is checked
    """Return a number of seconds, LONGEST_TIMEOUT at most."""
    error = f"{name}={short_repr(value)}: pass a number of seconds, 0 or more{beside}"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        raise WrongType(error)
    if not 0 <= value < inf:  # as NaN is not, either
        raise ConfigurationError(error)
    return float(value) if value < LONGEST_TIMEOUT else LONGEST_TIMEOUT


def whole(name: str, value: Any, what: str) -> int:  # noqa: ANN401 - what is checked
    """Return a whole number of something."""
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        error = f"{name}={short_repr(value)}: pass a whole number of {what}, as an int"
        raise WrongType(error)
    return number


def integer(
    name: str,
    value: Any,  # noqa: ANN401 - what is checked
    what: str = "bytes",
    *,
    least: int = 1,
    most: int | None = None,
) -> int:
    """Return a whole number of something, within bounds."""
    number = whole(name, value, what)
    if number < least or (most is not None and number > most):
        bounds = f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigurationError(f"{name}={short_repr(number)}: pass {bounds} {what}")
    return number


def limit(name: str, value: Any, what: str) -> int | None:  # noqa: ANN401 - what is checked
    """Return a whole number of something, 1 or more; None stays None."""
    return None if value is None else integer(name, value, what)


def max_message(value: Any) -> int:  # noqa: ANN401 - what is checked
    """Return how many bytes a message may have, if a frame can hold so many."""
    return integer("max_message", value, most=LARGEST_MESSAGE)


def choice(name: str, value: object, known: Collection[str]) -> None:
    """Refuse all but a few words."""
    if not isinstance(value, str) or value not in known:
        kind = ConfigurationError if isinstance(value, str) else WrongType
        raise kind(f"{name}={short_repr(value)}: choose one of {', '.join(known)}")


def framing(value: object, by_type: Mapping[str, Collection[str]], *, socket_type: str) -> None:
    """Refuse an unknown framing, and one that the type of socket does not have."""
    known = by_type[socket_type]
    if not any(value in of for of in by_type.values()):
        choice("framing", value, known)
    if value not in known:
        error = f"framing={value!r} has no use with type={socket_type!r}"
        raise ConfigurationError(f"{error}; choose one of {', '.join(known)}, or leave it out")


def function(name: str, value: object, *, of: str = "message") -> None:
    """Refuse what cannot be called; None is good, too."""
    if value is not None and not callable(value):
        raise WrongType(f"{name}={short_repr(value)}: pass a function of one {of}, or None")


def text(name: str, value: object) -> None:
    """Refuse what is neither text nor None."""
    if value is not None and not isinstance(value, str):
        raise WrongType(f"{name}={short_repr(value)}: pass text (str), or None")


def file(name: str, value: object) -> None:
    """Refuse what can neither name a file nor is None."""
    if value is not None and not isinstance(value, str | bytes | os.PathLike):
        raise WrongType(f"{name}={short_repr(value)}: pass a path, or None")


def open_file(value: object) -> None:
    """Refuse what neither is a descriptor, has one, nor can name a file."""
    descriptor = isinstance(value, int) and not isinstance(value, bool)
    if not (descriptor or isinstance(value, str | bytes | os.PathLike) or hasattr(value, "fileno")):
        raise WrongType(f"file={short_repr(value)}: pass a descriptor, an open file or a path")


def address(value: object) -> None:
    """Refuse what cannot be the text of an address."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise WrongType(f"address={short_repr(value)}: pass a path, '@name' or 'fd:N'")


def several(messages: object) -> None:
    """Refuse a single message where an iterable of messages is to be."""
    if isinstance(messages, str | bytes | bytearray | memoryview):
        kind = type(messages).__name__
        raise WrongType(f"messages is a single {kind}: pass a list of messages, or use send()")


def group(value: object) -> None:
    """Refuse what is neither the name nor the id of a group, nor None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise WrongType(f"group={short_repr(value)}: pass the name or the id of a group, or None")


def receiver_uid(value: Any) -> Any:  # noqa: ANN401 - what is checked
    """Return who may receive, as ``trust.ReceiverUid`` has it."""
    several = [value] if isinstance(value, int) else value
    if value is None or (isinstance(value, str) and value == "any"):
        return value
    error = f'receiver_uid={short_repr(value)}: pass a user id, a set of them, or "any"'
    uids = _ids(several, error)
    if not uids:
        raise ConfigurationError(error)
    return uids


def ids(name: str, value: Any) -> frozenset[int] | None:  # noqa: ANN401 - what is checked
    """Return user or group ids; None stays None."""
    if value is None:
        return None
    error = f"{name}={short_repr(value)}: pass a collection of ids, as ints, or None"
    return _ids(value, error)


def _ids(value: Any, error: str) -> frozenset[int]:  # noqa: ANN401 - what is checked
    """Return a collection of ids as a set; raise what is wrong with it."""
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        raise WrongType(error)
    if any(not isinstance(each, int) or isinstance(each, bool) for each in value):
        raise WrongType(error)
    if any(each < 0 for each in value):
        raise ConfigurationError(error)
    return frozenset(value)


def mode(value: Any) -> int:  # noqa: ANN401 - what is checked
    """Return the permissions of a path, which must allow its owner to read and to write.

    A process needs write permission to connect. What its owner is denied it can give itself, so
    that such a mode is a slip, most often a decimal number.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        advice = _octal(value) if isinstance(value, str) else ""
        advice = f"write {advice}" if advice else "pass a number like 0o660"
        raise WrongType(f"mode={short_repr(value)}: {advice}")
    if not _is_mode(value):
        advice = _octal(str(value))
        if advice:
            raise ConfigurationError(f"mode={value} is {value:#o}: write {advice}")
        in_range = 0 <= value <= _ALL_PERMISSIONS
        why = "denies its owner to read or to write" if in_range else "is no set of permissions"
        raise ConfigurationError(f"mode={value:#o} {why}; pass one like 0o660")
    return value


def _is_mode(value: int) -> bool:
    return 0 <= value <= _ALL_PERMISSIONS and value & _OWNERS == _OWNERS


def _octal(digits: str) -> str:
    """Return a mode that was written like a decimal number as it should be; empty if it is none."""
    digits = digits.removeprefix("0o").lstrip("0")
    octal = digits.isascii() and digits.isdecimal() and not set(digits) & set("89")
    return f"0o{digits}" if octal and _is_mode(int(digits, 8)) else ""
