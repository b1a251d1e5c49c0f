"""Read JSON that another process has written.

msgspec decodes it: UTF-8 only, no lone surrogates, no NaN and no infinity. Of a TypedDict, it
reads only the fields that are declared. Integers are limited to signed 64 bits, and containers to
a depth, so that every output can write every value that was read.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from mpsr.limits import MAX_INTEGER, MAX_JSON_DEPTH

if TYPE_CHECKING:
    from msgspec.json import Decoder

T = TypeVar("T")

_TOO_DEEP: Final = f"more than {MAX_JSON_DEPTH} containers are within each other"


def from_json(text: bytes, shape: type[T], *, most: int) -> T:
    """Return the value of a JSON text.

    Args:
        text: bytes, as another process has written them.
        shape: Type of the value: a TypedDict, or a type made of dict, list, tuple, str, int, float,
            bool, None and Any.
        most: int, maximum bytes of the text.

    Raises:
        ValueError: The text is too long or is not JSON, or the value has another shape or cannot be
            written by every output.

    """
    if len(text) > most:
        error = f"the JSON has {len(text)} bytes, the maximum is {most}"
        raise ValueError(error)
    try:
        value = _decoder(shape).decode(text)  # type: ignore[arg-type]  # a type is hashable
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check(value, MAX_JSON_DEPTH)
    return cast("T", value)


@cache
def _decoder(shape: type[Any]) -> Decoder[Any]:
    from msgspec.json import Decoder  # noqa: PLC0415 - slow to import

    return Decoder(shape)


def check(value: object, depth: int) -> None:
    """Raise ValueError for a value that msgspec decodes and an output cannot write.

    Args:
        value: what was decoded.
        depth: int, maximum number of containers within each other.

    """
    if isinstance(value, int):
        if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            raise ValueError("an integer does not fit in signed 64 bits")
    elif isinstance(value, (dict, list, tuple)):  # a union would be made at each call
        if not depth:
            raise ValueError(_TOO_DEEP)
        for each in value.values() if isinstance(value, dict) else value:
            if type(each) is not str:  # most are, and a call for each costs time
                check(each, depth - 1)
