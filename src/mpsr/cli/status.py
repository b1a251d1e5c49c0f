"""Say with a number how a command ended: the one table of exit statuses."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import click

from mpsr.errors import (
    AddressDenied,
    AddressInUse,
    AddressOccupied,
    BufferFull,
    ConfigurationError,
    Explanation,
    InvalidAddress,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalInUse,
    MessageError,
    MpsrError,
    NewerJournal,
    NoJournal,
    NoReceiver,
    NotAJournal,
    ReceiverBusy,
    TimedOut,
    WrongReceiver,
    WrongSocketType,
)


class Status(IntEnum):
    """Exit statuses: sysexits.h where it has a word, a shell's 128 + signal for the last ones."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DATA = 65
    NO_RECEIVER = 69
    IO = 74
    BUSY = 75
    DENIED = 77
    CONFIGURATION = 78
    TIMED_OUT = 124
    HUNG_UP = 129
    INTERRUPTED = 130
    STDOUT_CLOSED = 141
    TERMINATED = 143


MEANINGS: Final = {
    Status.OK: "all is well",
    Status.FAILURE: "another failure",
    Status.USAGE: "the command line makes no sense",
    Status.DATA: "a message is too large or not for this framing, or a journal is damaged",
    Status.NO_RECEIVER: "no receiver at the address",
    Status.IO: "stdout, a sink or a journal cannot be written, or stdin cannot be read",
    Status.BUSY: "the address or journal is in use, or the receiver is too busy to connect to",
    Status.DENIED: "the permissions forbid it",
    Status.CONFIGURATION: "the address, the file or an option cannot work: see the message",
    Status.TIMED_OUT: "the time-out passed",
    Status.HUNG_UP: "hung up (SIGHUP: its terminal was closed)",
    Status.INTERRUPTED: "interrupted (SIGINT, Ctrl-C)",
    Status.STDOUT_CLOSED: "whoever read stdout is gone",
    Status.TERMINATED: "terminated (SIGTERM)",
}

# The first row that fits decides.
_BY_ERROR: Final[tuple[tuple[type[BaseException], Status], ...]] = (
    (click.Abort, Status.INTERRUPTED),
    (KeyboardInterrupt, Status.INTERRUPTED),
    (click.ClickException, Status.USAGE),
    (NoReceiver, Status.NO_RECEIVER),
    (AddressInUse, Status.BUSY),
    (ReceiverBusy, Status.BUSY),
    (BufferFull, Status.BUSY),
    (AddressDenied, Status.DENIED),
    (WrongReceiver, Status.DENIED),
    (AddressOccupied, Status.CONFIGURATION),
    (InvalidAddress, Status.CONFIGURATION),
    (WrongSocketType, Status.CONFIGURATION),
    (ConfigurationError, Status.CONFIGURATION),
    (JournalInUse, Status.BUSY),
    (JournalDenied, Status.DENIED),
    (NoJournal, Status.CONFIGURATION),
    (NotAJournal, Status.CONFIGURATION),
    (NewerJournal, Status.CONFIGURATION),
    (JournalDamaged, Status.DATA),
    (JournalError, Status.IO),
    (MessageError, Status.DATA),
    (TimedOut, Status.TIMED_OUT),
    (MpsrError, Status.FAILURE),
    (BrokenPipeError, Status.STDOUT_CLOSED),
    (OSError, Status.IO),
    (MemoryError, Status.FAILURE),
)


# Whoever would read it knows already, or is gone.
SILENT: Final = (Status.HUNG_UP, Status.INTERRUPTED, Status.STDOUT_CLOSED, Status.TERMINATED)


class CommandFailed(Exception):
    """A command ends early, with this status.

    ``line`` is what stderr tells, best an Explanation; nothing if it is empty.
    """

    def __init__(self, status: Status, line: str = "") -> None:
        super().__init__(status, line)
        self.status = status
        self.line = line

    def __str__(self) -> str:
        return self.line


class Interrupted(SystemExit):
    """A signal ends the process at once; nothing that handles errors handles it."""

    def __init__(self, signum: int) -> None:
        self.status: Status = Status(128 + signum)
        super().__init__(int(self.status))


def status_of(error: BaseException) -> Status:
    """Return the exit status that an exception stands for."""
    if isinstance(error, (CommandFailed, Interrupted)):
        return error.status
    return next((status for kind, status in _BY_ERROR if isinstance(error, kind)), Status.FAILURE)


def is_defect(error: BaseException) -> bool:
    """Tell whether nobody foresaw this exception."""
    if any(isinstance(text, Explanation) for text in error.args):
        return False
    known = (CommandFailed, Interrupted, *(kind for kind, _ in _BY_ERROR))
    return not isinstance(error, known)


def table() -> str:
    """Return the table as text, a status a line."""
    return "\n".join(f"  {status:>3}  {meaning}" for status, meaning in MEANINGS.items())
