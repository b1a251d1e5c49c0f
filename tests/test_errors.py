"""Exceptions cross from one process to another."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.cli.sources import Unreadable
from mpsr.cli.status import CommandFailed, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What the constructors ask for beside the text.
CARRIED: dict[str, Any] = {
    "address": "@events",
    "body": b"x",
    "code": 7,
    "messages": [b"one", {"two": 2}],
    "path": "/var/lib/events.journal",
    "pid": 12,
    "position": 34,
}

WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"protocol {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n))  # type: ignore[misc]
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def all_errors(kind: type[mpsr.MpsrError] = mpsr.MpsrError) -> Iterator[type[mpsr.MpsrError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from all_errors(each)


def example_of(kind: type[mpsr.MpsrError]) -> mpsr.MpsrError:
    asked_for = inspect.signature(kind.__init__).parameters.keys() & CARRIED.keys()
    if kind is mpsr.MessageRejected:
        return mpsr.MessageRejected({1: "it is too long"})
    return kind("what happened; what to do", **{name: CARRIED[name] for name in asked_for})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", sorted(set(all_errors()), key=str))
def test_every_error_is_the_same_behind_a_pickle(kind: type[mpsr.MpsrError], way: str) -> None:
    error = example_of(kind)
    error.add_note("what else happened")
    error.met_by = "a handler"  # type: ignore[attr-defined]
    got = WAYS[way](error)
    assert type(got) is kind
    assert got is not error
    assert (got.args, str(got), vars(got)) == (error.args, str(error), vars(error))
    assert "what else happened" in got.__notes__


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_a_users_own_is_the_same_behind_a_pickle(way: str) -> None:
    error = TooSlow("too slow", seconds=5, address="@events")
    got = WAYS[way](error)
    assert (type(got), got.args, vars(got)) == (TooSlow, error.args, vars(error))


class TooSlow(mpsr.NoReceiver, TimeoutError):
    """A subclass whose constructor asks for something else again."""

    def __init__(self, text: str, *, seconds: float, address: str) -> None:
        super().__init__(text, address=address)
        self.seconds = seconds


@pytest.mark.parametrize("way", WAYS)
def test_messages_that_are_views_of_memory_travel_as_their_bytes(way: str) -> None:
    error = mpsr.BufferFull("no room", messages=[memoryview(b"view")[1:], b"bytes"])
    assert WAYS[way](error).messages == [b"iew", b"bytes"]
    assert isinstance(error.messages[0], memoryview)


@pytest.mark.parametrize("kind", [CommandFailed, Unreadable])
def test_a_failed_command_is_the_same_behind_a_pickle(kind: type[CommandFailed]) -> None:
    got = pickle.loads(pickle.dumps(kind(Status.IO, "stdin is a directory")))
    assert (type(got), got.status, str(got)) == (kind, Status.IO, "stdin is a directory")
