"""Collect the result of `mpsr send`: its complaints, its summary and its exit status."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mpsr.amounts import size
from mpsr.cli.complaint import explained
from mpsr.cli.status import CommandFailed, Status, status_of
from mpsr.cli.stdio import plural
from mpsr.errors import Explanation, MessageError, MessageTooLarge, NoReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.errors import Undelivered
    from mpsr.stats import ProducerStats
    from mpsr.system.address import Address, SocketType
    from mpsr.wire.framing import Framing


class SendResult:
    """The result, as far as is known yet.

    Args:
        address: where the messages go.
        kind: its type of socket.
        framing: its framing.
        spool: the directory of the spool, if there is one.
        left: messages that it held at the start.

    Attributes:
        signum: the signal that interrupted it.
        failure: what went wrong first.
        undelivered: what the receiver has not accepted.
        unfinished: bytes of a message that an interruption cut off.

    """

    def __init__(
        self,
        address: Address,
        kind: SocketType,
        framing: Framing,
        *,
        spool: str | None = None,
        left: int = 0,
    ) -> None:
        self._address = address
        self._kind = kind
        self._framing = framing
        self._spool = spool
        self._left = left
        self.signum: int | None = None
        self.failure: Exception | None = None
        self.undelivered: Undelivered | None = None
        self.unfinished = 0

    def complaints(self, stats: ProducerStats) -> Iterator[Explanation]:
        """Give, for everything that went wrong, what, to how many, why, and what to try."""
        if isinstance(self.failure, MessageError):
            number = stats.sent - self._left + 1
            advice = ""
            if isinstance(self.failure, MessageTooLarge) and self._kind == "stream":
                advice = "raise --max-message, here and at the receiver"
            text = self._explained(self.failure)
            what = f"message {number} is not sent, nor what comes after it"
            why = f"{text.what}: {text.why}" if text.why else text.what
            yield Explanation(what, why, advice or text.advice)
            if self.undelivered is not None:
                yield self._explained(self.undelivered)
        elif isinstance(self.failure, CommandFailed) and self.undelivered is not None:
            left, text = self._explained(self.undelivered), self._explained(self.failure)
            yield Explanation(f"{text.what}: {left.what}", left.why, text.advice)
        elif self.failure is not None or self.undelivered is not None:
            text = self._explained(self.undelivered or self.failure)
            yield Explanation(text.what, text.why, self._advice() or text.advice)
        if self.unfinished and self.signum is not None:
            yield Explanation(f"left out {size(self.unfinished)} of an unfinished message")
        if stats.lost:
            yield Explanation(
                f"{plural(stats.lost, 'message')} dropped",
                "larger than the receiver takes",
                "raise --max-message at the receiver",
            )

    def summary(self, stats: ProducerStats) -> str:
        """Return the last line: how many were sent, and what became of them."""
        if self._framing == "native":
            sent, accepted = stats.sent - self._left, stats.accepted
            line = f"sent {sent}, accepted {accepted}"
            if self._left:
                line = f"sent {sent} and {self._left} from before, accepted {accepted}"
            undelivered = 0 if self.undelivered is None else self.undelivered.count
            left = stats.buffered - undelivered
            return f"{line}; {left} left in {self._spool}" if self._spool and left else line
        what = "datagrams have" if self._kind == "dgram" else f"--framing {self._framing} has"
        return f"sent {stats.sent}, written {stats.accepted} ({what} no acknowledgements)"

    def status(self, stats: ProducerStats) -> Status:
        """Return the exit status: 0 only if all were accepted."""
        if self.signum is not None:
            return Status(128 + self.signum)
        if self.failure is not None:
            return status_of(self.failure)
        return Status.DATA if stats.lost else Status.OK

    @staticmethod
    def _explained(error: BaseException | None) -> Explanation:
        return (error and explained(error)) or Explanation(str(error))

    def _advice(self) -> str:
        if not isinstance(self.failure, NoReceiver):
            return ""
        option = "" if self._kind == "stream" else f"--type {self._kind} "
        return f"start the receiver: mpsr recv {option}{shlex.quote(str(self._address))}"
