"""Send log records to a receiver: a handler for ``logging``."""

from __future__ import annotations

import logging
import sys
from copy import copy
from typing import TYPE_CHECKING, Final

from mpsr import arguments
from mpsr.errors import MpsrError, Undelivered
from mpsr.limits import LOG_BUFFER, LOG_TIMEOUT
from mpsr.logging.encoding import encode
from mpsr.logging.fields import RECEIVED
from mpsr.logging.producer import LogProducer
from mpsr.system.address import absolute, parse_address
from mpsr.system.exits import tell
from mpsr.system.forks import watch_forks

if TYPE_CHECKING:
    import os

    from mpsr.engine.sending.window import OnFull
    from mpsr.stats import ProducerStats
    from mpsr.system.trust import ReceiverUid

_OURS: Final = ("mpsr", "mpsr.")


class Handler(logging.Handler):
    """Sends each record as a message: an object of JSON on one line.

    A call of ``logging`` neither waits nor raises, whether there is a receiver or not. What finds
    no room in the buffer is dropped, counted, and told to the receiver. In a forked child the
    handler goes on with a connection of its own. After ``close()`` the next record opens it again,
    as with the handlers of the standard library.

    A formatter, if one is set, makes the message's text; exceptions and stacks are fields of their
    own, and it does not see them. Records of the logger ``mpsr``, and those that this process has
    received, as ``listen`` does, are not sent: they would beget others.
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        level: int | str = logging.NOTSET,
        on_full: OnFull = "drop_newest",
        buffer: int = LOG_BUFFER,
        timeout: float = LOG_TIMEOUT,
        label: str | None = None,
        receiver_uid: ReceiverUid = None,
    ) -> None:
        """Prepare to send; it connects on its own, and never waits for a receiver.

        Args:
            address: str or path-like, where the receiver is: a path or ``@name``.
            level: int or str, the least level that is handled.
            on_full: what a full buffer does: ``"drop_newest"`` (default), ``"drop_oldest"``,
                ``"block"`` (wait for room, ``timeout`` at most) or ``"raise"``. A record that the
                last two do not take is lost, and ``handleError`` is called.
            buffer: int, bytes that may wait to be accepted (default 16 MiB).
            timeout: float, seconds that ``flush()``, ``close()`` and the end of the program wait
                until all is accepted (default 1). Where no receiver has ever been at the address
                they do not wait.
            label: str, a name for the receiver to show; default: the program's own name.
            receiver_uid: int, collection of int or ``"any"``, users allowed to receive, as for
                ``Producer``.

        Raises:
            AddressError: the address makes no sense.
            ConfigurationError: an argument makes no sense; WrongType if its type is wrong.

        """
        super().__init__(level)
        arguments.seconds("timeout", timeout)
        self._timeout = timeout
        self._arguments = {
            "on_full": on_full,
            "buffer": buffer,
            "timeout": timeout,
            "exit_timeout": timeout,
            "label": label,
            "receiver_uid": receiver_uid,
        }
        self._lost = 0  # by producers that are closed, and what none has taken
        self._told: set[type[BaseException]] = set()
        self._vain = -1  # how many were sent when a flush has waited in vain
        self._producer: LogProducer | None = None
        arguments.address(address)
        place = parse_address(address)
        self.address: str = str(place)
        # Of this moment, whatever directory comes later.
        self._place = absolute(place).value if place.kind == "path" else self.address
        self._open()
        watch_forks(self._after_fork_in_child)

    def _open(self) -> LogProducer:
        if self._producer is None:
            self._producer = LogProducer(self._place, **self._arguments)  # type: ignore[arg-type]  # by name
        return self._producer

    def _after_fork_in_child(self) -> None:
        self._lost, self._vain = 0, -1

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - logging's name
        """Set what makes the message's text; ``basicConfig``'s own format says nothing new."""
        basic = type(fmt) is logging.Formatter and fmt._fmt == logging.BASIC_FORMAT  # noqa: SLF001 - no other way to know
        super().setFormatter(None if basic else fmt)

    # -- sending ----------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; never raises, and waits only with ``on_full="block"``."""
        name = record.name
        if name.startswith(_OURS) and name.partition(".")[0] == "mpsr":
            return
        if RECEIVED in record.__dict__:
            return
        try:
            message = record.getMessage() if self.formatter is None else self._formatted(record)
            (self._producer or self._open()).send(encode(record, message))
        except Exception as error:  # noqa: BLE001 - the program goes on, whatever it was
            if isinstance(error, MpsrError) and self._producer is not None:
                self._producer.refuse(error)
            else:
                self._lost += 1
            self.handleError(record)

    def _formatted(self, record: logging.LogRecord) -> str:
        """Return the text that the formatter makes, without exception and stack."""
        if record.exc_info or record.exc_text or record.stack_info:
            record = copy(record)
            record.exc_info = record.exc_text = record.stack_info = None
        return self.format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Tell of the error that is being handled, on stderr, if ``logging.raiseExceptions``.

        An error of sending is told in one line, once for each kind; any other, as of arguments
        that do not fit their text, as the standard library tells it.
        """
        error = sys.exc_info()[1]
        if not isinstance(error, MpsrError):
            super().handleError(record)
        elif type(error) not in self._told:
            self._told.add(type(error))
            self._tell(error)

    @staticmethod
    def _tell(error: MpsrError) -> None:
        if logging.raiseExceptions:
            tell(error)

    # -- ending -------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until the receiver has accepted all that was sent, ``timeout`` at most.

        Never raises. Where no receiver has ever been it does not wait.
        """
        producer = self._producer
        if producer is None:
            return
        sent = producer.stats().sent
        try:
            producer.flush(0 if producer.hopeless else self._timeout)
        except Undelivered as error:  # the others were accepted
            producer.drop(error)
        except MpsrError:
            self._vain = sent

    def close(self) -> None:
        """Wait until all is accepted, ``timeout`` at most, and give the connection up.

        Never raises. It counts the records that were not delivered as ``lost``, and prints one line
        on stderr with their number and the cause, if ``logging.raiseExceptions``. After a
        ``flush()`` that has waited in vain it does not wait again.
        """
        self.acquire()
        try:
            producer, self._producer = self._producer, None
        finally:
            self.release()
        super().close()
        if producer is None:
            return
        vain = producer.hopeless or self._vain == producer.stats().sent
        undelivered = None
        try:
            producer.close(0 if vain else self._timeout)
        except Undelivered as error:
            undelivered = error
        except MpsrError as error:  # in a signal handler: the end of the program does the remainder
            self._lost += producer.refused + producer.stats().lost
            self._tell(error)
            return
        stats = producer.stats()
        self._lost += producer.refused + stats.lost + stats.buffered
        if (loss := producer.loss(undelivered)) is not None:
            self._tell(loss)

    # -- looking ------------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """How many records of this process were lost: dropped, or not accepted at the end."""
        producer = self._producer
        return self._lost + (0 if producer is None else producer.refused + producer.stats().lost)

    def stats(self) -> ProducerStats:
        """Return the counters of the producer that sends now; a forked child has its own."""
        return self._open().stats()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.address} ({logging.getLevelName(self.level)})>"
