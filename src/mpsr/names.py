"""Show text that another process, or the bytes of a path, may have chosen."""

from __future__ import annotations

from typing import Any, Final

# A byte of a path that is not UTF-8: os.fsdecode() makes a surrogate of it.
_BYTES: Final = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}


def in_utf8(text: str) -> str:
    r"""Return text that can be encoded: a byte that is not UTF-8 becomes an escape (``\xff``)."""
    return text if text.isascii() else text.translate(_BYTES)


def all_in_utf8(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return a value of JSON in which each text can be encoded; see ``in_utf8``."""
    if isinstance(value, str):
        return in_utf8(value)
    if isinstance(value, dict):
        return {all_in_utf8(key): all_in_utf8(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_in_utf8(each) for each in value]
    return value


def printable(text: str) -> str:
    """Return text that stays on its line and cannot command a terminal, from any source."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in in_utf8(text)
    )
