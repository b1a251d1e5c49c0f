"""Bring the messages to send: from the command line, or from stdin as they come."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from base64 import b64decode
from typing import TYPE_CHECKING, Final, Protocol

from mpsr.cli.status import CommandFailed, Status
from mpsr.errors import Explanation, MessageError, MessageTooLarge, RemoteProtocolError
from mpsr.system.wakeup import Wakeup
from mpsr.wire.foreign import deframer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpsr.wire.framing import Framing, Run

    Patience = Callable[[], float | None]
    """Gives the seconds after which to come back even if nothing has come."""

_CHUNK: Final = 1024 * 1024  # bytes: a pipe gives 64 KiB at most, a file all of it


def body_of(line: bytes) -> bytes | None:
    """Return the message in a line of ``recv -o json``; None if it only reports a loss.

    Raises:
        MessageError: The line is no such object.

    """
    try:
        found = json.loads(line.decode())
        if "body_b64" in found:
            return b64decode(found["body_b64"], validate=True)
        if "body" in found:
            body: bytes = found["body"].encode()
            return body
        if "lost" in found:
            return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    why = "the line is no JSON object with body or body_b64"
    raise MessageError(Explanation(why, advice="write lines as mpsr recv -o json prints them"))


class Unreadable(CommandFailed):
    """Stdin cannot be read."""


class Source(Protocol):
    """Where messages come from."""

    nbytes: int
    """Bytes brought so far."""
    total: int | None
    """Bytes there are in all; None where nobody knows."""
    typed: bool
    """Whether a person types them."""

    @property
    def unfinished(self) -> int:
        """Bytes of a message whose end was not read."""

    def groups(self, patience: Patience) -> Iterator[list[bytes]]:
        """Give messages as they come; a group may be empty, so that the caller can look around.

        Raises:
            MessageTooLarge: after everything before that message was given.
            MessageError: likewise, for a line that cannot be parsed.
            Unreadable: after everything that could be read.

        """

    def stop(self) -> None:
        """Bring no more. Safe in a signal handler."""

    def close(self) -> None:
        """Give back what reading needed."""


class Arguments:
    """Messages from the command line."""

    def __init__(self, messages: Sequence[str]) -> None:
        self._messages = [os.fsencode(message) for message in messages]
        self.nbytes: int = 0
        self.total: int | None = None
        self.typed = False
        self.unfinished = 0

    def groups(self, _: Patience) -> Iterator[list[bytes]]:
        """Give all of them."""
        yield self._messages

    def stop(self) -> None:
        """Do nothing: they are all here."""

    def close(self) -> None:
        """Do nothing."""


class Stdin:
    """Messages from stdin.

    Args:
        framing: what marks their ends: lines, null, or eof for the end of stdin.
        max_message: bytes.
        parse: converts a line to a message, or to None if it has none. Default: no conversion.

    """

    def __init__(
        self,
        framing: Framing,
        max_message: int,
        parse: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        if sys.stdin is None:  # its number may by now belong to another file
            error = Explanation(
                "stdin is closed", "nothing can be read", "pass messages as arguments"
            )
            raise Unreadable(Status.IO, error)
        self._descriptor = sys.stdin.fileno()
        self._whole = framing == "eof"
        self._parse = parse
        self._deframer = deframer(framing, max_message)
        self._wakeup = Wakeup()
        self._stopped = False
        self.nbytes: int = 0
        self.typed: bool = os.isatty(self._descriptor)
        status = os.fstat(self._descriptor)
        self.total: int | None = None
        if stat.S_ISREG(status.st_mode):
            self.total = status.st_size - os.lseek(self._descriptor, 0, os.SEEK_CUR)

    @property
    def unfinished(self) -> int:
        """Bytes of a message whose end was not read."""
        return self._deframer.pending

    def groups(self, patience: Patience) -> Iterator[list[bytes]]:
        """Read until the end, or until stopped."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            wait = patience()
            ready = {number for number, _ in poll.poll(None if wait is None else wait * 1000)}
            if self._stopped:
                return
            if not ready:
                yield []
                continue
            data = self._read()
            if data is None:
                continue
            runs: list[Run] = []
            failure = self._feed(data, runs)
            for run in runs:
                yield from self._parsed(run.split())
            if failure is not None:
                raise failure
            if not data:
                if self._whole and not self.nbytes:
                    yield [b""]  # an empty file is one message, too
                return

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True
        self._wakeup.set()

    def close(self) -> None:
        """Close what ``stop`` needed; stdin itself stays open."""
        self._wakeup.close()

    def _parsed(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        if self._parse is None:
            yield lines
            return
        messages: list[bytes] = []
        try:
            for line in lines:
                message = self._parse(line)
                if message is not None:
                    messages.append(message)
        finally:  # messages before a line that cannot be parsed are sent
            yield messages

    def _read(self) -> bytes | None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:  # somebody else was faster
            return None
        except OSError as exc:
            why, advice = exc.strerror or str(exc), "feed it from a file or a pipe"
            error = Explanation("stdin cannot be read", why, advice)
            raise Unreadable(Status.IO, error) from exc
        self.nbytes += len(data)
        return data

    def _feed(self, data: bytes, runs: list[Run]) -> MessageTooLarge | None:
        try:
            if data:
                self._deframer.feed(memoryview(data), runs)
            else:
                self._deframer.finish(runs)
        except RemoteProtocolError as exc:
            return MessageTooLarge(str(exc).removeprefix("too large: "))
        return None
