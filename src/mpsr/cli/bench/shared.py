"""Hold what the processes of a bench tell each other, in memory that a fork shares."""

from __future__ import annotations

import ctypes
import os
from mmap import mmap
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Board(ctypes.Structure):
    """How the whole of it stands."""

    _fields_: ClassVar = [
        ("signum", ctypes.c_int32),
        ("phase", ctypes.c_int32),
        ("began_ns", ctypes.c_int64),
        ("messages", ctypes.c_int64),
        ("nbytes", ctypes.c_int64),
    ]

    signum: int  # the signal that asked for an early end; 0: none has
    phase: int
    began_ns: int  # when the phase began, on CLOCK_MONOTONIC; 0: it has not
    messages: int  # received in this phase
    nbytes: int


class Report(ctypes.Structure):
    """What a producer has done in a phase."""

    _fields_: ClassVar = [
        ("began_ns", ctypes.c_int64),
        ("ended_ns", ctypes.c_int64),
        ("sent", ctypes.c_int64),
        ("accepted", ctypes.c_int64),
        ("cpu_ns", ctypes.c_int64),
    ]

    began_ns: int  # when it began to send, on CLOCK_MONOTONIC
    ended_ns: int  # when it had sent everything, and not yet waited for its acceptance
    sent: int
    accepted: int
    cpu_ns: int  # CPU time of all its threads, until everything was accepted


S = TypeVar("S", bound=ctypes.Structure)


def shared(kind: type[S], count: int) -> list[S]:
    """Return zeroed structures that this process and those it forks see alike."""
    return list((kind * count).from_buffer(mmap(-1, ctypes.sizeof(kind) * count)))


class Gate:
    """Lets any number of children pass at once, when the parent opens it or dies.

    A pipe, because a reader that was killed while it waited disturbs no other.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._open = False

    def fileno(self) -> int:
        """Return a descriptor that hangs up when the gate opens."""
        return self._reader

    def join(self) -> None:
        """Be a child: none holds the gate shut for the others."""
        os.close(self._writer)

    def wait(self) -> None:
        """Return once it is open."""
        os.read(self._reader, 1)

    def open(self) -> None:
        """Let everybody pass."""
        if not self._open:
            self._open = True
            os.close(self._writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.open()
        os.close(self._reader)
