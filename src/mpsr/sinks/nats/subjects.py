"""Make a subject for each batch from a template such as ``events.{host}.{label}``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError
from mpsr.json_format import host_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.batch import Batch

FIELDS: Final = ("host", "uid", "gid", "pid", "label", "producer")
_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_REFUSED: Final = re.compile(r"[^\w-]", re.ASCII)  # in a token that is made of somebody's word
_LONGEST: Final = 64  # characters of such a token
_PLAIN: Final = re.compile(r"[^\s.*>{}\x00-\x1f\x7f]+(\.[^\s.*>{}\x00-\x1f\x7f]+)*")


def check_template(template: str) -> None:
    """Raise ConfigurationError where no subject can be made of it."""
    for name in _FIELD.findall(template):
        if name not in FIELDS:
            known = ", ".join(f"{{{each}}}" for each in FIELDS)
            raise ConfigurationError(f"{{{name}}} is no field of a subject; there are {known}")
    if not _PLAIN.fullmatch(_FIELD.sub("_", template)):
        error = f"{template} is no subject: words with a dot between, without spaces, * or >"
        raise ConfigurationError(error)


def check_filter(subject: str) -> None:
    """Raise ConfigurationError where a text stands for no subjects."""
    plain = subject[:-1] + "_" if subject.endswith(".>") else subject
    words = ("_" if word == "*" else word for word in plain.split("."))
    if subject != ">" and not _PLAIN.fullmatch(".".join(words)):
        raise ConfigurationError(f"{subject} stands for no subjects: see NATS about * and >")


def pattern_of(template: str) -> str:
    """Return the subjects that a template can make, as a filter: ``events.*.*``."""
    words = template.split(".")
    return ".".join("*" if _FIELD.search(word) else word for word in words)


def matches(subject: str, pattern: str) -> bool:
    """Tell whether a filter has all subjects of another."""
    words, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        return len(words) >= len(wanted) and _all_match(words, wanted[:-1])
    return len(words) == len(wanted) and _all_match(words, wanted)


def _all_match(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return all(want in {"*", word} for word, want in zip(words, wanted, strict=False))


def token(text: object) -> str:
    """Return a text as a word of a subject: all but ASCII letters, digits, - and _ becomes _."""
    return _REFUSED.sub("_", "" if text is None else str(text))[:_LONGEST] or "_"


class Subjects:
    """Knows the subject of each batch."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._host = token(host_name())
        self.fixed: str | None = None
        """The subject of all batches, where that is one."""
        if set(_FIELD.findall(template)) <= {"host"}:
            self.fixed = template.replace("{host}", self._host)

    def of(self, batch: Batch[Any]) -> str:
        """Return the subject for a batch."""
        if self.fixed is not None:
            return self.fixed
        producer, peer = batch.producer, batch.peer
        return self._template.format(
            host=self._host,
            uid=token(peer.uid),
            gid=token(peer.gid),
            pid=token(peer.pid),
            label=token(producer.label if producer is not None else None),
            producer=token(producer.id.hex() if producer is not None else None),
        )
