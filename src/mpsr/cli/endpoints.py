"""Read where to receive: an address, and behind commas what is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from mpsr.cli import types
from mpsr.errors import Explanation
from mpsr.front.listening import Endpoint
from mpsr.system.address import SOCKET_TYPES
from mpsr.wire.packing import RECEIVER_FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FRAMINGS: Final = tuple(dict.fromkeys(name for of in RECEIVER_FRAMINGS.values() for name in of))


def _choice(*names: str) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in names:
            from mpsr.cli.suggestions import not_among  # noqa: PLC0415 - needed for a slip alone

            raise click.BadParameter(not_among(text, names))
        return text

    return chosen


_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "type": _choice(*SOCKET_TYPES),
    "framing": _choice(*FRAMINGS),
    "mode": types.mode,
    "group": str,
}


def check_framing(kind: str, framing: str, by_type: Mapping[str, Sequence[str]]) -> None:
    """Refuse a framing that a type of socket does not have."""
    if framing not in by_type[kind]:
        known = ", ".join(by_type[kind])
        what = f"--framing {framing} has no use with --type {kind}"
        why = f"the framings of {kind} are {known}"
        raise click.UsageError(Explanation(what, why, f"choose --framing {by_type[kind][0]}"))


def endpoint(text: str) -> Endpoint:
    """Return where to receive: ``/run/log.sock,type=dgram,mode=660``.

    A comma without such an option behind it belongs to the address.
    """
    address = text
    options: dict[str, Any] = {}
    while True:
        before, comma, last = address.rpartition(",")
        name, equals, value = last.partition("=")
        if not (comma and equals and name in _OPTIONS):
            return Endpoint(address, **options)
        if name in options:
            raise click.BadParameter(
                Explanation(f"{text!r} has {name}= twice", advice="write it once")
            )
        address, options[name] = before, _OPTIONS[name](value)
