"""Write arguments of the library as the options of the command."""

from __future__ import annotations

import re
import shlex
from typing import Final

from mpsr.errors import Explanation

OPTIONS: Final = {
    "allow_gids": "--allow-group",
    "allow_uids": "--allow-user",
    "framing": "--framing",
    "group": "--group",
    "handover": "--handover",
    "journal": "--journal",
    "journal_limit": "--journal-limit",
    "label": "--label",
    "max_bytes_per_uid": "--max-bytes-per-user",
    "max_connections": "--max-connections",
    "max_connections_per_uid": "--max-connections-per-user",
    "max_message": "--max-message",
    "max_rate_per_uid": "--max-rate-per-user",
    "mode": "--mode",
    "observers": "--observer",
    "receiver_uid": "--receiver-uid",
    "spool": "--spool",
    "timeout": "--timeout",
    "type": "--type",
}
"""The option for each argument of the library that a command passes on."""

# An argument begins a word, so no part of a path or a URL is one. Its value is a Python literal.
_ARGUMENT: Final = re.compile(
    rf"""(?<![^\s(])({"|".join(OPTIONS)})=('[^']*'|"[^"]*"|0o[0-7]+|-?[0-9]+)?"""
)


def in_options(text: Explanation) -> Explanation:
    """Return the text of an error with options: ``--mode 77`` for ``mode=0o77``."""
    parts = (text.what, text.why, text.advice)
    return Explanation(*(_ARGUMENT.sub(_option, part) for part in parts))


def _option(argument: re.Match[str]) -> str:
    name, value = argument.groups()
    if value is None:
        return OPTIONS[name]
    if value[0] in "'\"":
        value = shlex.quote(value[1:-1])
    return f"{OPTIONS[name]} {value.removeprefix('0o')}"
