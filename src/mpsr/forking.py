"""Tell objects that a fork carried them into a child process."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that holds descriptors or threads that a child must not share."""

    def after_fork_in_child(self) -> None:
        """Part with what belongs to the parent."""


_forkables: WeakSet[Forkable] = WeakSet()


def watch_forks(forkable: Forkable) -> None:
    """Call the object's ``after_fork_in_child`` in every child that is forked from now on."""
    _forkables.add(forkable)


def _after_fork_in_child() -> None:
    for forkable in list(_forkables):
        forkable.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
