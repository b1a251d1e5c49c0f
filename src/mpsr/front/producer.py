"""Check and keep the arguments of a producer: what the sync and the async one share in public."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

from mpsr import arguments
from mpsr._speedups import codec
from mpsr.arguments import OWN, Own
from mpsr.engine.sending.batches import FileMessage
from mpsr.engine.sending.drops import REPORTED
from mpsr.engine.sending.outbox import Outbox
from mpsr.errors import (
    AddressError,
    Closed,
    ConfigurationError,
    Explanation,
    InvalidAddress,
    Undelivered,
)
from mpsr.front import reasons
from mpsr.front.files import FileSender
from mpsr.limits import BUFFER, GROUP_TIME, LINGER, MAX_MESSAGE, MAX_SPOOLED
from mpsr.system.address import SOCKET_TYPES, absolute, parse_address
from mpsr.system.calls import advice_for
from mpsr.system.files import keep
from mpsr.system.trust import trusted
from mpsr.wire.packing import PRODUCER_FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer, TypeVar

    from mpsr.engine.sending.window import OnFull
    from mpsr.stats import ProducerStats
    from mpsr.system.address import Address, SocketType
    from mpsr.system.files import File
    from mpsr.system.trust import ReceiverUid
    from mpsr.wire.framing import Framing

    T = TypeVar("T", default=Buffer)
else:
    from typing import TypeVar

    T = TypeVar("T")

ON_FULL: Final = ("block", "raise", "drop_newest", "drop_oldest")


class ProducerBase(FileSender, Generic[T]):
    """A producer, but for its waiting methods."""

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        type: SocketType = "stream",  # noqa: A002 - the standard library's word for it
        framing: Framing | None = None,
        encode: Callable[[T], Buffer] | None = None,
        label: str | None = None,
        on_full: OnFull = "block",
        timeout: float | None = None,
        buffer: int = BUFFER,
        linger: float = LINGER,
        max_message: int = MAX_MESSAGE,
        exit_timeout: float | None = None,
        receiver_uid: ReceiverUid = None,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        """Prepare to send; it connects on its own, and never waits for a receiver.

        A producer can be pickled: it travels to a child that multiprocessing spawns as its
        arguments, and is made anew there; a relative path stands for the file that it stood for
        here. One with a spool, or for ``fd:N``, belongs to its process and cannot.

        Args:
            address: str or path-like, where the receiver is: a path, ``@name`` or ``fd:N``.
            type: ``"stream"`` (default), ``"dgram"`` or ``"seqpacket"``.
            framing: ``"native"`` (default), or, for a foreign server, ``"lines"``, ``"null"``,
                ``"length"``, ``"length-le"``, ``"octet-counted"`` or ``"eof"`` (a connection for
                every message). With ``"seqpacket"``: ``"native"`` (default) or ``"packet"`` (a
                packet for every message); with ``"dgram"`` always ``"packet"``. Only native has
                acknowledgements: elsewhere a message counts as accepted when the kernel took it.
            encode: a function of one message that returns bytes-like; default: messages are
                bytes-like.
            label: str, a name for the receiver to show; default: the program's own name.
            on_full: what a full buffer does: ``"block"`` (default; wait for room, see
                ``timeout``), ``"raise"`` (BufferFull), ``"drop_newest"`` or ``"drop_oldest"``
                (counted, and reported to the receiver).
            timeout: float, seconds that ``send`` waits for room; None (default) waits for ever.
            buffer: int, bytes that may wait to be accepted (default 32 MiB); a single message
                always fits.
            linger: float, seconds that a burst gathers before it is sent (default 0.001).
            max_message: int, bytes (default 16 MiB); a longer message is refused, and so is one
                that is longer than the system lets a datagram or packet be.
            exit_timeout: float, seconds that the end of the program waits, where the producer was
                not closed by then, until all is accepted; None (default) waits as ``close()``
                does. What is not delivered is reported on stderr.
            receiver_uid: int, a collection of int, or ``"any"``: whose process may receive.
                Default: our own user and root, where another user could have taken the name
                first: at an abstract name, or at a path with a directory that others may write
                to. Where only its owner may write to each directory, as in ``/run/app``, such an
                owner may receive, too. The variable ``MPSR_RECEIVER_UID`` adds users to the
                default.
            spool: path of a directory that keeps the messages until they are accepted. What it
                holds is sent first, under the same identity; all that waits is in memory, too.
                Opening it waits for the disk. Default: no spool.

        Raises:
            AddressError: the address makes no sense. That nobody listens there is no error: the
                producer keeps trying. WrongReceiver is raised by what sends, flushes or closes.
            ConfigurationError: an argument makes no sense; WrongType if its type is wrong.
            JournalError: the spool cannot be used; JournalInUse: another producer has it.

        """
        arguments.address(address)
        arguments.choice("type", type, SOCKET_TYPES)
        if framing is not None:
            arguments.framing(framing, PRODUCER_FRAMINGS, socket_type=type)
        arguments.choice("on_full", on_full, ON_FULL)
        arguments.function("encode", encode)
        arguments.text("label", label)
        arguments.file("spool", spool)
        self.address: Address = parse_address(address)
        if self.address.kind == "systemd":
            what = f"{self.address} stands for a receiver's sockets"
            error = Explanation(what, advice="pass the path that they have")
            raise InvalidAddress(error, address=str(self.address))
        self._place = absolute(self.address)  # of this moment, whatever directory comes later
        self._arguments: dict[str, Any] = {
            "address": self._place.value if self._place.kind == "path" else str(self._place),
            "type": type,
            "framing": framing,
            "encode": encode,
            "label": label,
            "on_full": on_full,
            "timeout": timeout,
            "buffer": buffer,
            "linger": linger,
            "max_message": max_message,
            "exit_timeout": exit_timeout,
            "receiver_uid": receiver_uid,
            "spool": spool,
        }
        self._encode = encode
        self._on_full: OnFull = on_full
        self._timeout = arguments.timeout(timeout)
        self._exit_timeout = arguments.timeout(exit_timeout, "exit_timeout")
        self._buffer = arguments.integer("buffer", buffer)
        self._options: dict[str, Any] = {
            "type": type,
            "framing": framing or PRODUCER_FRAMINGS[type][0],
            "label": os.path.basename(sys.argv[0]) if label is None else label,
            "on_full": on_full,
            "buffer": self._buffer,
            "linger": arguments.seconds("linger", linger),
            "max_message": arguments.max_message(max_message),
            "receivers": trusted(arguments.receiver_uid(receiver_uid)),
        }
        if spool is not None:
            self._open_spool(spool)
        self._open_lock()
        self._open_outbox()
        try:
            self._begin()
        except BaseException:
            self._outbox.close()
            raise

    def _open_spool(self, path: str | os.PathLike[str]) -> None:
        from mpsr.engine.sending.spool import Spool  # noqa: PLC0415 - not light, and not for all

        options = self._options
        if options["type"] != "stream" or options["framing"] != "native":
            what, why = "spool= needs acknowledgements", "datagrams and foreign framings have none"
            advice = 'leave it out, or send with type="stream" and framing="native"'
            raise ConfigurationError(Explanation(what, why, advice))
        if self._on_full == "drop_oldest":
            error = 'spool= keeps what was taken: choose another on_full than "drop_oldest"'
            raise ConfigurationError(error)
        if options["max_message"] > MAX_SPOOLED:
            what = f"max_message={options['max_message']} is too large with spool="
            why = f"a spool stores messages of at most {MAX_SPOOLED} bytes"
            raise ConfigurationError(Explanation(what, why, f"pass max_message={MAX_SPOOLED}"))
        options["linger"] = max(options["linger"], GROUP_TIME)
        self._spool = Spool(path, label=options["label"], most=options["buffer"])
        options["spooled_as"] = self._spool.id

    def _open_outbox(self) -> None:
        try:
            self._use(Outbox(self._place, **self._options))
        except OSError as exc:
            what, why = f"cannot send to {self.address}", exc.strerror or str(exc)
            error = Explanation(what, why, advice_for(exc))
            raise AddressError(error, address=str(self.address)) from exc
        if self._spool is not None:
            left, self._spool.left = self._spool.left, []
            self._window.restore(left, self._spool.accepted_seq, self._spool.next_seq)

    def _begin(self) -> None:
        """Prepare what waiting needs."""

    # -- in public --------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        """The 16 random bytes by which the receiver knows this producer."""
        return self._outbox.id

    @property
    def buffer(self) -> int:
        """Bytes that may wait to be accepted."""
        return self._buffer

    @property
    def exit_timeout(self) -> float | None:
        """Seconds that the end of the program waits; it may be set until then, as at the start."""
        return self._exit_timeout

    @exit_timeout.setter
    def exit_timeout(self, timeout: float | None) -> None:
        self._exit_timeout = arguments.timeout(timeout, "exit_timeout")
        self._arguments["exit_timeout"] = timeout

    def try_send(self, message: T) -> bool:
        """Take a message if there is room, else return False; never waits.

        Args:
            message: bytes-like, or what ``encode=`` takes.

        Returns:
            Whether the message was taken, or, as ``on_full`` says, it or another one dropped.

        Raises:
            MessageError: the message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.

        """
        encoded: Any = message if self._encode is None else self._encode(message)
        if not self._deferred and (self._append(encoded) or self._write_direct(encoded)):
            return True
        return self._take([self._checked(encoded)])[0] > 0

    def try_send_many(self, messages: Iterable[T]) -> int:
        """Take as many messages as there is room for, in order; never waits.

        Args:
            messages: bytes-like, or what ``encode=`` takes. One that cannot be sent at all is an
                error before the first is taken.

        Returns:
            How many were taken, from the first on.

        Raises:
            MessageError: a message is too large, or the framing cannot carry it.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.

        """
        _, bodies = self._checked_all(messages)
        position, wrote = 0, True
        while wrote and position < len(bodies):
            position, wrote = self._take(bodies, position)
        return position

    def try_send_file(self, file: File, message: Buffer = b"") -> bool:
        """Take an open file with a message if there is room, else return False; never waits.

        To open a path may wait for its disk all the same.

        Args:
            file: as ``send_file`` takes it.
            message: bytes-like, what it says beside; ``encode=`` is not applied.

        Returns:
            Whether it was taken, or, as ``on_full`` says, it or others dropped.

        Raises:
            FilesRefused: the receiver takes no files.
            OSError: the path cannot be opened, or the descriptor duplicated.
            MessageError: the message is too large.
            ConfigurationError: this producer cannot send files.
            Rejected: the receiver has refused this producer for good.
            Closed: the producer was closed.
            ReentrantCall: a signal handler called it in the middle of another call.

        """
        body = self._checked_beside(file, message)
        return self._take([FileMessage(body, keep(file))])[0] > 0

    def stats(self) -> ProducerStats:
        """Return counters of everything since the producer was created."""
        deferred = sum(body is not None for body in self._deferred)
        stats = self._outbox.stats(exact=not self._is_mine())
        if deferred:
            stats = stats._replace(sent=stats.sent + deferred, buffered=stats.buffered + deferred)
        return stats

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.address}{' closed' * self._closed}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as the arguments, to be made anew there."""
        if self._closing:
            raise Closed(f"the producer for {self.address} {self._end}, and cannot be pickled")
        if self._spool is not None or self.address.kind == "fd":
            what = "its descriptor" if self._spool is None else "its spool"
            error = (
                f"the producer for {self.address} cannot be pickled: {what} belongs to this "
                "process; make one in the process that sends"
            )
            raise TypeError(error)
        return partial(type(self), **self._arguments), ()

    # -- for the fronts ---------------------------------------------------------------------

    def _checked(self, encoded: Buffer) -> bytes:
        body = codec.to_bytes(encoded)
        self._window.check(body)
        return body

    def _checked_all(self, messages: Iterable[T]) -> tuple[Sequence[T], Sequence[Any]]:
        """Return the messages, and what they are encoded, once all are found good."""
        if self._encode is None:
            arguments.several(messages)
        listed = messages if isinstance(messages, list | tuple) else list(messages)
        bodies: Sequence[Any] = listed
        if self._encode is not None:
            bodies = [self._encode(each) for each in listed]
        self._window.check_all(bodies)
        return listed, bodies

    def _timeout_of(self, timeout: float | Own | None) -> float | None:
        """Return the time-out of a call: the producer's own where it was left out."""
        return self._timeout if timeout is OWN else arguments.timeout(timeout)

    def _check_spooled(self, *, spooled: bool) -> None:
        if spooled and self._spool is None:
            raise ConfigurationError("flush(spooled=True): this producer has no spool")

    def _end_timeout(self, error: BaseException | None) -> float | None:
        """Return the time-out of the end of a block that an exception leaves.

        Where a call of this producer has waited in vain for a receiver, the end does not wait for
        one again.
        """
        own = error is not None and self._timed_out is not None and self._timed_out() is error
        return 0 if own and not self._outbox.may_deliver else None

    def _undelivered(self) -> Undelivered | None:
        left = self._window.unaccepted()
        messages, count, why = left, len(left), self._why() if left else None
        for reason in REPORTED:
            number, dropped = self._window.drops.take(reason)
            if number:
                messages, count = [*dropped, *messages], count + number
                why = why or reasons.why_dropped(self._outbox, reason)
        if why is None:
            return None
        in_flight = self._window.in_flight if self._spool is None else 0
        error = reasons.not_delivered(self.address, count, why, in_flight)
        return Undelivered(error, messages=messages, count=count)

    def _give_up_spool(self) -> None:
        """In a forked child: end, as the spool is the parent's."""
        self._closed = True
        self._end = "belongs to a parent process, and so does its spool: open another"
        self._window.packer.close()
