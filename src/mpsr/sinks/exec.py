"""Give messages to a program, on its standard input: ``exec:COMMAND``."""

from __future__ import annotations

import atexit
import fcntl
import os
import select
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import SinkError
from mpsr.limits import MIB, SINK_CLOSE_TIMEOUT, SINK_KILL_TIMEOUT
from mpsr.sinks.options import choice, options, unnamed
from mpsr.sinks.records import RECORDS
from mpsr.system import primitives
from mpsr.system.clock import monotonic

if TYPE_CHECKING:
    from mpsr.batch import Batch

_FIRST_LOOK: Final = 0.0005  # seconds: a pipe does not tell when it is empty, so it is asked
_LONGEST_LOOK: Final = 0.02
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, and so by what it starts


def sink(target: str) -> ExecSink:
    """Return a sink of ``COMMAND?format=lines``, which a shell runs."""
    command, given = options(target, {"format": choice(*RECORDS)})
    if not command.strip():
        raise unnamed("command", "exec:'grep -v debug'")
    return ExecSink(command, given.get("format", "lines"))


class ExecSink:
    """Runs a command, and writes records to its standard input.

    A commit waits until the program has read all that was written: whether it has dealt with
    that is unknown. So a message comes at least once. The program is in a process group of its
    own: Ctrl-C does not end it. ``close`` ends its input, and then every process that is left in
    the group.
    """

    def __init__(self, command: str, form: str) -> None:
        self._command = command
        self._records = RECORDS[form]
        self._pid: int | None = None
        self._group: int | None = None  # of the program and its children
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
        self._group = self._pid
        atexit.register(self._end_group)  # for a program that does not read, and so sees no end

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
        """End the input, wait for the program, then end all that is left of its group."""
        if self._pipe is not None:
            primitives.close(self._pipe)
            self._pipe = None
        self._wait(SINK_CLOSE_TIMEOUT)
        self._end_group()
        self._wait(SINK_KILL_TIMEOUT)
        atexit.unregister(self._end_group)

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _input(self) -> int:
        if self._pipe is None:
            raise SinkError("the program was not started")
        return self._pipe

    def _end_group(self) -> None:
        """End every process of the program's group: the program and its children."""
        self._signal(signal.SIGTERM)
        until = monotonic() + SINK_KILL_TIMEOUT
        while self._signal(0) and monotonic() < until:
            self._wait(0.0)
            primitives.sleep(_LONGEST_LOOK)
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> bool:
        """Send a signal to the group; return whether a process is left in it."""
        if self._group is None:
            return False
        try:
            os.killpg(self._group, signum)
        except ProcessLookupError:
            self._group = None  # from now on, the system may give the number to another group
            return False
        return True

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
        """Wait at most ``seconds`` for the end of the program."""
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
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # at the end of mpsr, the main thread was first
            self._pid = None
            return
        if pid:
            self._pid, self._ended = None, status
