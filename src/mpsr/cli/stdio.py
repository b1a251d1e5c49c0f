"""Talk through the standard streams, whoever may have closed them."""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mpsr.cli.status import CommandFailed, Status
from mpsr.errors import Closed, Explanation
from mpsr.names import printable
from mpsr.system.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable


def say(text: str, *more: str) -> None:
    """Write a line to stderr, and more below it, in one piece; whether anybody reads it or not."""
    if sys.stderr is None:
        return
    try:
        lines = "".join(f"{printable(line)}\n" for line in (f"mpsr: {text}", *more))
        os.write(sys.stderr.fileno(), lines.encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def may_draw() -> bool:
    """Tell whether stderr is a terminal that can do more than lines."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal and os.environ.get("TERM") != "dumb"


def plural(count: int, what: str) -> str:
    """Return ``1 message``, ``2 messages``."""
    return f"{count} {what}{'s'[: count != 1]}"


class Stdout:
    """Standard output without a buffer: what was written is written, the rest is an error.

    Raises:
        CommandFailed: it is closed, it cannot be written, or nobody reads it any more.

    """

    def __init__(self) -> None:
        if sys.stdout is None:  # its number may by now belong to another file
            error = Explanation("stdout is closed", "there is nowhere to write to", "leave it open")
            raise CommandFailed(Status.IO, error)
        self._descriptor = sys.stdout.fileno()
        self.deserted: bool = False
        """Whether nobody reads it any more, as ``write`` or ``watch`` found."""

    def write(self, data: bytes) -> None:
        """Write everything."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody else has made the terminal or pipe non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except (BrokenPipeError, ConnectionResetError):
                self.deserted = True
                raise CommandFailed(Status.STDOUT_CLOSED) from None
            except OSError as exc:
                why, advice = exc.strerror or str(exc), "make room, or write elsewhere"
                error = Explanation("stdout cannot be written", why, advice)
                raise CommandFailed(Status.IO, error) from exc

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the last reader has gone."""
        poll = select.poll()
        if self._has_reader:
            poll.register(self._descriptor, 0)  # errors and hang-ups are reported in any case
        if poll.poll(seconds * 1000):
            self.deserted = True
            raise CommandFailed(Status.STDOUT_CLOSED)

    def watch(self, stop: Callable[[], None]) -> None:
        """Call ``stop``, in another thread, once the last reader has gone.

        A write would tell, too, but only with the next message: ``mpsr recv … | head -1`` is to
        end with the first.
        """
        if self._has_reader:
            start_thread(partial(self._wait_until_deserted, stop), name="watch the output")

    @property
    def _has_reader(self) -> bool:
        """Whether it is something that a reader can leave."""
        mode = os.fstat(self._descriptor).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    def _wait_until_deserted(self, stop: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(self._descriptor, 0)  # errors and hang-ups are reported in any case
        poll.poll()
        self.deserted = True
        with suppress(Closed, OSError):  # it has ended by itself meanwhile
            stop()


def abandon_stdout() -> None:
    """Keep Python from flushing, at exit, what could not be written."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
