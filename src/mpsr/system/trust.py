"""Decide who may receive at an address: whose process a producer sends to.

Where a stranger could have taken the name first, a receiver of our own user or of root is trusted,
and nobody else. That is so for an abstract name, and for a path on which somebody else may write
to a directory. Where each directory is written by its owner alone, the owners are trusted too:
it takes one of them to put a socket there.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Collection
from typing import Final, Literal, NamedTuple

ReceiverUid = int | Collection[int] | Literal["any"] | None
"""Who may receive: a user id, several, anybody, or whoever could not be a stranger (None)."""

_ROOT: Final = 0
_MOST_LINKS: Final = 40  # symbolic links that the kernel follows on the way
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class Step(NamedTuple):
    """What stands on the way to a socket: a directory, or a symbolic link in one."""

    uid: int
    mode: int


def steps_to(path: str) -> list[Step]:
    """Return what a path leads through, from the root on, without the socket itself.

    Raises OSError where something of it is not there, or cannot be looked at.
    """
    left = deque(os.path.join(os.getcwd(), path).split("/"))
    links = 0
    at = "/"
    steps = [_step(os.lstat(at))]
    while left:
        name = left.popleft()
        if name in {"", "."}:
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        found = os.lstat(os.path.join(at, name))
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MOST_LINKS:
                break  # nobody gets there
            steps.append(_step(found))
            target = os.readlink(os.path.join(at, name))
            left.extendleft(reversed(target.split("/")))
            at = "/" if target.startswith("/") else at
        elif stat.S_ISDIR(found.st_mode):
            steps.append(_step(found))
            at = os.path.join(at, name)
    return steps


def trusted_by_path(steps: Collection[Step], me: int) -> set[int]:
    """Return the users of whom one has put the socket there, or just ourselves and root.

    Args:
        steps: what the path leads through, in order.
        me: our own effective user id.

    """
    own = {_ROOT, me}
    trusted = set(own)
    sticky = False  # whether what comes next may be a stranger's, but not be replaced
    for step in steps:
        if sticky and step.uid not in own:
            return own
        trusted.add(step.uid)
        sticky = False
        if stat.S_ISDIR(step.mode) and step.mode & _OTHERS:
            if not step.mode & stat.S_ISVTX:
                return own
            sticky = True
    return own if sticky else trusted


def _step(found: os.stat_result) -> Step:
    return Step(found.st_uid, found.st_mode)
