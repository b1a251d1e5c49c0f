"""Give messages to a program, on its standard input: ``exec:COMMAND``."""

from __future__ import annotations

import atexit
import fcntl
import os
import select
import signal
import struct
import termios
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import ConfigurationError, SinkError
from mpsr.limits import MIB, SINK_CLOSE_TIMEOUT
from mpsr.sinks.options import choice, options
from mpsr.sinks.records import RECORDS
from mpsr.system import primitives

if TYPE_CHECKING:
    from mpsr.batch import Batch

_FIRST_LOOK: Final = 0.0005  # seconds: a pipe does not tell when it is empty, so it is asked
_LONGEST_LOOK: Final = 0.02
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, and so by what it starts


def sink(target: str) -> ExecSink:
    """Return a sink of ``COMMAND?format=lines``, which a shell runs."""
    command, given = options(target, {"format": choice(*RECORDS)})
    if not command.strip():
        raise ConfigurationError("say which command, as in exec:'grep -v debug'")
    return ExecSink(command, given.get("format", "lines"))


class ExecSink:
    """Runs a command, and writes records to its standard input.

    A commit waits until the program has read all that was written: whether it has dealt with
    that nobody knows. So a message comes at least once. The program is in a process group of its
    own; Ctrl-C does not end it, but the end of its input is to.
    """

    def __init__(self, command: str, form: str) -> None:
        self._command = command
        self._records = RECORDS[form]
        self._pid: int | None = None
        self._pipe: int | None = None
        self._ended: int | None = None  # with this wait status

    def open(self, journal: str) -> None:  # noqa: ARG002 - it keeps no position
        """Start the program."""
        reader, writer = os.pipe()
        try:
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", self._command],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)],
                setpgroup=0,
                setsigmask=(),  # this thread takes no signals, and a child inherits that
                setsigdef=_IGNORED,
            )
        except OSError:
            primitives.close(writer)
            raise
        finally:
            primitives.close(reader)
        self._pipe = writer
        atexit.register(self._terminate)  # where it does not read, and so hears of no end

    def write(self, batch: Batch[Any]) -> None:
        """Write a batch, waiting for the program to read."""
        data = memoryview(self._records(batch))
        while data:
            try:
                data = data[os.write(self._input, data[:MIB]) :]
            except BrokenPipeError:
                raise self._failure("it no longer reads its input") from None

    def commit(self) -> None:
        """Wait until the program has read everything."""
        pause = _FIRST_LOOK
        poll = primitives.poll()
        poll.register(self._input, 0)  # an error is told in any case: nobody reads any more
        while self._unread():
            if poll.poll(pause * 1000):
                raise self._failure("it ended without reading all")
            pause = min(2 * pause, _LONGEST_LOOK)
        if poll.poll(0):
            raise self._failure("it ended")

    def close(self) -> None:
        """End the program's input, and wait for it; end it where that takes too long."""
        atexit.unregister(self._terminate)
        if self._pipe is not None:
            primitives.close(self._pipe)
            self._pipe = None
        for signum in (None, signal.SIGTERM, signal.SIGKILL):
            if self._pid is None:
                return
            if signum is not None:
                self._terminate(signum)
            self._wait(SINK_CLOSE_TIMEOUT)

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _input(self) -> int:
        if self._pipe is None:
            raise SinkError("the program was not started")
        return self._pipe

    def _terminate(self, signum: int = signal.SIGTERM) -> None:
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signum)

    def _unread(self) -> int:
        (count,) = struct.unpack("i", fcntl.ioctl(self._input, termios.FIONREAD, bytes(4)))
        return int(count)

    def _failure(self, what: str) -> SinkError:
        self._wait(SINK_CLOSE_TIMEOUT)
        how = ""
        if self._ended is not None:
            code = os.waitstatus_to_exitcode(self._ended)
            how = f" (status {code})" if code >= 0 else f" ({signal.Signals(-code).name})"
        return SinkError(f"{what}{how}; what it has not read comes again")

    def _wait(self, seconds: float) -> None:
        """Wait for the end of the program, at most so long."""
        if self._pid is None:
            return
        until = monotonic() + seconds
        try:
            handle = os.pidfd_open(self._pid)
        except ProcessLookupError:
            self._pid = None
            return
        try:
            poll = primitives.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, until - monotonic()) * 1000)
        finally:
            primitives.close(handle)
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._pid, self._ended = None, status
