"""Decide who may receive at an address: whose process a producer sends to.

Where a stranger could have taken the name first, a receiver of our own user or of root is trusted,
and nobody else. That is so for an abstract name, and for a path on which somebody else may write
to a directory. Where each directory is written by its owner alone, the owners are trusted too:
it takes one of them to put a socket there.

The variable MPSR_RECEIVER_UID names users that are trusted in addition.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Collection
from typing import Final, Literal, NamedTuple

from mpsr.errors import ConfigurationError, Explanation

ReceiverUid = int | Collection[int] | Literal["any"] | None
"""Who may receive: a user id, several, anybody, or whoever could not be a stranger (None)."""

VARIABLE: Final = "MPSR_RECEIVER_UID"

_ROOT: Final = 0
_MOST_LINKS: Final = 40  # symbolic links that the kernel follows on the way
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class Trusted(NamedTuple):
    """Users that may receive."""

    uids: Collection[int] | Literal["any"]
    by_default: bool
    """Whether our own user and root, and those whom the path proves, may receive, too."""


def trusted(receiver_uid: ReceiverUid = None) -> Trusted:
    """Return who may receive: the users that are named, else the default and MPSR_RECEIVER_UID.

    Raises:
        ConfigurationError: the variable contains neither user ids nor ``any``.

    """
    if receiver_uid is not None:
        uids = {receiver_uid} if isinstance(receiver_uid, int) else receiver_uid
        return Trusted(uids, by_default=False)
    text = os.environ.get(VARIABLE, "")
    words = text.split()
    if words == ["any"]:
        return Trusted("any", by_default=True)
    if not all(word.isascii() and word.isdecimal() for word in words):
        advice = "set it to user ids with spaces between them, or to any"
        what = f"invalid value for the variable {VARIABLE}: {text!r}"
        raise ConfigurationError(Explanation(what, advice=advice))
    return Trusted(frozenset(map(int, words)), by_default=True)


class Step(NamedTuple):
    """What stands on the way to a socket: a directory, or a symbolic link in one."""

    uid: int
    mode: int
    path: str = ""


def steps_to(path: str) -> list[Step]:
    """Return what a path leads through, from the root on, without the socket itself.

    Raises OSError where something of it is not there, or cannot be looked at.
    """
    left = deque(os.path.join(os.getcwd(), path).split("/"))
    links = 0
    at = "/"
    steps = [_step(at, os.lstat(at))]
    while left:
        name = left.popleft()
        if name in {"", "."}:
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        path = os.path.join(at, name)
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MOST_LINKS:
                break  # nobody gets there
            steps.append(_step(path, found))
            target = os.readlink(path)
            left.extendleft(reversed(target.split("/")))
            at = "/" if target.startswith("/") else at
        elif stat.S_ISDIR(found.st_mode):
            steps.append(_step(path, found))
            at = path
    return steps


def trusted_by_path(steps: Collection[Step], me: int) -> set[int]:
    """Return the users of whom one has put the socket there, or just ourselves and root.

    Args:
        steps: what the path leads through, in order.
        me: our own effective user id.

    """
    own = {_ROOT, me}
    return own if open_step(steps, me) else own.union(step.uid for step in steps)


def open_step(steps: Collection[Step], me: int) -> Step | None:
    """Return the first directory where another user could have put a socket or a way to one."""
    sticky = None  # its entries may be created by another user, but not replaced
    for step in steps:
        if sticky and step.uid not in {_ROOT, me}:
            return sticky
        sticky = None
        if stat.S_ISDIR(step.mode) and step.mode & _OTHERS:
            if not step.mode & stat.S_ISVTX:
                return step
            sticky = step
    return sticky


def _step(path: str, found: os.stat_result) -> Step:
    return Step(found.st_uid, found.st_mode, path)
