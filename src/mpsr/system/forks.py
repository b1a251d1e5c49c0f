"""Tell objects that a fork carried them into a child process."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import MethodType
from typing import Any, cast
from weakref import WeakKeyDictionary

_watched: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def watch_forks(release: Callable[[], None]) -> None:
    """Call a method of an object in every child that is forked while the object lives.

    The object holds descriptors or threads of which a child has to give up its copies.
    """
    method = cast("MethodType", release)
    _watched[method.__self__] = method.__func__


def _after_fork_in_child() -> None:
    for holder, release in list(_watched.items()):
        release(holder)


os.register_at_fork(after_in_child=_after_fork_in_child)
