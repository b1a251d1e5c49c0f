"""Refuse lines of an error that say nothing, or speak of the library's arguments."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

USELESS: Final = re.compile(
    r"""see\ mpsr\ --help | the\ usage\ is | cause\ is\ not\ known | nothing\ came\ in\ time
      | it\ cannot\ (work|go\ on)\ so | the\ first\ line\ names | the\ system\ reports\ it
      | the\ system\ does\ not\ allow\ it | nobody\ foresaw\ it | it\ said\ no\ more
      | try:\ mpsr[a-z ]*\ --help$ | (why|try):\ *$ | sink\ It\ has""",
    re.VERBOSE | re.MULTILINE,
)
_ARGUMENT: Final = re.compile(
    r"(?<![\w?&,.])(allow_[gu]ids|journal_limit|max_[a-z_]+|observers|receiver_uid|spool)="
)


def check_words(told: str) -> None:
    """Fail if what a command has printed on stderr has such a line."""
    assert not USELESS.search(told), told
    assert not _ARGUMENT.search(told), told
    lines = told.splitlines()
    for what, following in pairwise(lines):
        detail = following.removeprefix("  why: ").removeprefix("  try: ")
        assert detail == following or detail not in what, told
