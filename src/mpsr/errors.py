"""Name everything that can go wrong.

MpsrError
├── ConfigurationError      an argument makes no sense (also a ValueError)
│   └── WrongType           it is of a type that it cannot be of (also a TypeError)
├── AddressError            an address cannot be claimed or reached
│   ├── InvalidAddress      the text is no usable address
│   ├── AddressInUse        a live process holds it; ``pid`` where known
│   ├── AddressOccupied     something that is not ours to remove is there
│   ├── AddressDenied       the permissions forbid it
│   ├── NoReceiver          nobody listens there
│   ├── ReceiverBusy        somebody listens there, but its backlog is full
│   ├── WrongSocketType     the socket there is of another type
│   └── WrongReceiver       who receives there is not trusted; ``uid`` and ``pid`` say who
├── MessageError            a message cannot be sent as it is (also a ValueError)
│   ├── FilesRefused        it is to go with a file, which the receiver does not take
│   ├── MessageTooLarge     it is larger than the limit
│   └── UnframeableMessage  its bytes would be taken for a boundary
├── NotSent                 messages that were not taken; ``messages`` gives them back
│   ├── BufferFull          the buffer is full and ``on_full="raise"``
│   └── Undelivered         the receiver has not accepted them, and will not
├── TimedOut                the time-out passed (also a TimeoutError)
│   └── SendTimedOut        ... while waiting for room (also a NotSent)
├── DecodeError             ``decode=`` failed; ``body`` holds the bytes
├── Closed                  the object was closed, or belongs to a parent process
├── ReentrantCall           it would wait for the call that it interrupted
├── JournalError            a journal or spool cannot be used; ``path`` says which
│   ├── JournalInUse        another process holds it; ``pid`` where known
│   ├── JournalDenied       the permissions forbid it
│   ├── NoJournal           there is none, nor is one to be made
│   ├── NotAJournal         the file is something else, and was left untouched
│   ├── NewerJournal        a later version wrote it, and it was left untouched
│   ├── JournalDamaged      what was written does not come back; ``position`` where known
│   └── JournalFull         there is no room now: nothing was written, try again
├── SinkError               a sink cannot take messages now; it is tried again
│   └── MessageRejected     it can never write some messages; ``reasons`` says which and why
└── ProtocolError           the wire format was broken
    ├── LocalProtocolError  by this side: a defect of the caller
    └── RemoteProtocolError by the other side; ``code`` says how
        └── Rejected        the receiver refused this producer, and said why
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self


class Explanation(str):  # noqa: SLOT000 - old pickle protocols take no slots
    """The text of an error, ``what: why; advice``, which keeps its parts.

    Attributes:
        what: what cannot be done, and to what.
        why: the reason; empty where ``what`` tells it.
        advice: what to do next; empty where nobody knows.

    """

    what: str
    why: str
    advice: str

    def __new__(cls, what: str, why: str = "", advice: str = "") -> Self:
        """Put the parts together."""
        text = f"{what}: {why}" if why else what
        made = super().__new__(cls, f"{text}; {advice}" if advice else text)
        made.what, made.why, made.advice = what, why, advice
        return made

    @classmethod
    def of(cls, error: BaseException) -> Explanation:
        """Return the text of an exception; one without parts is all ``what``."""
        found = (text for text in error.args if isinstance(text, Explanation))
        return next(found, None) or cls(str(error))

    def caused(self, what: str) -> Explanation:
        """Return the text for what this is the reason of."""
        return Explanation(what, f"{self.what}: {self.why}" if self.why else self.what, self.advice)


class MpsrError(Exception):
    """Any error that mpsr raises on purpose.

    It can be copied and pickled, so that it crosses from one process to another, with all that it
    carries; its cause and its traceback stay behind, as those of any exception do.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # By its arguments and attributes: constructors differ in what they ask for.
        return _restored, (type(self), self.args), self.__getstate__()


def _restored(kind: type[MpsrError], args: tuple[Any, ...]) -> MpsrError:
    """Return an exception as it was pickled, still without its attributes."""
    error = kind.__new__(kind, *args)
    error.args = args  # which those that are an OSError too leave to their constructor
    return error


class ConfigurationError(MpsrError, ValueError):
    """An argument makes no sense, alone or beside another."""


class WrongType(ConfigurationError, TypeError):
    """An argument is of a type that it cannot be of."""


class AddressError(MpsrError):
    """An address cannot be claimed or reached.

    Attributes:
        address: str, its text.
        pid: int, the process id of who holds it or receives there; None where it is not known.

    """

    def __init__(self, message: str, *, address: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.address = address
        self.pid = pid


class InvalidAddress(AddressError, ValueError):
    """The text is no usable address."""


class AddressInUse(AddressError):
    """A live process holds the address; ``pid`` is its process id where known."""


class AddressOccupied(AddressError):
    """Something that is not ours to remove stands at the path; it was left untouched."""


class AddressDenied(AddressError):
    """The permissions of the path forbid it."""


class NoReceiver(AddressError):
    """Nobody listens at the address."""


class ReceiverBusy(AddressError):
    """Somebody listens at the address, but its backlog is full for now."""


class WrongSocketType(AddressError):
    """The socket at the address is of another type (stream, datagram)."""


class WrongReceiver(AddressError):
    """The process that receives at the address is of a user who may not.

    Attributes:
        uid: int, that user; None where it is not known.

    """

    def __init__(
        self, message: str, *, address: str, pid: int | None = None, uid: int | None = None
    ) -> None:
        super().__init__(message, address=address, pid=pid)
        self.uid = uid


class MessageError(MpsrError, ValueError):
    """A message cannot be sent as it is."""


class FilesRefused(MessageError):
    """A message was to go with a file: the receiver takes none, or the system passes none such.

    Attributes:
        messages: sequence of the messages, in order, that had been taken before that was known,
            and were dropped, as many as the producer's buffer holds; they count as lost.

    """

    def __init__(self, message: str, *, messages: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.messages = messages


class MessageTooLarge(MessageError):
    """A message is larger than the limit."""


class UnframeableMessage(MessageError):
    """The bytes of a message would be taken for a message boundary in this framing."""


class NotSent(MpsrError):
    """Messages that were not taken.

    Attributes:
        messages: sequence of them, in order, as they were passed.

    """

    def __init__(self, message: str, *, messages: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.messages = messages

    def __getstate__(self) -> dict[str, Any]:
        # A view of memory cannot be pickled; its bytes are equal to it.
        messages = self.messages
        if any(isinstance(each, memoryview) for each in messages):
            messages = [bytes(each) if isinstance(each, memoryview) else each for each in messages]
        return {**self.__dict__, "messages": messages}


class BufferFull(NotSent):
    """The producer's buffer is full and ``on_full="raise"``."""


class Undelivered(NotSent):
    """The receiver has not accepted all messages that were taken, and will not.

    The producer has ended before, or has dropped messages that are larger than the receiver takes.

    Attributes:
        messages: sequence of the messages, in order, as ``encode=`` made them; dropped ones come
            first. Of dropped ones, it holds as many as the producer's buffer.
        count: int, how many messages were not delivered.

    """

    def __init__(
        self, message: str, *, messages: Sequence[Any] = (), count: int | None = None
    ) -> None:
        super().__init__(message, messages=messages)
        self.count: int = len(messages) if count is None else count


class TimedOut(MpsrError, TimeoutError):
    """The time-out passed; the message says what was waited for, and why it did not come."""


class SendTimedOut(TimedOut, NotSent):
    """The time-out passed before there was room for ``messages``."""


class DecodeError(MpsrError):
    """``decode=`` failed on a message; the cause is chained.

    The receiver has handed the message out: the next call continues after it.

    Attributes:
        body: bytes, the message as it was received.
        position: int, its position in the receiver's journal; None without a journal.
        peer: Peer, its sender, as reported by the kernel; None if a decoder was called directly.
        producer: ProducerIdentity, its native producer; None in other framings.

    """

    def __init__(
        self,
        message: str,
        *,
        body: bytes,
        position: int | None = None,
        peer: Any = None,  # noqa: ANN401 - a Peer; its module imports this one
        producer: Any = None,  # noqa: ANN401 - a ProducerIdentity, likewise
    ) -> None:
        super().__init__(message)
        self.body = body
        self.position = position
        self.peer = peer
        self.producer = producer


class Closed(MpsrError):
    """The object was closed, or was inherited from a parent process."""


class ReentrantCall(MpsrError, RuntimeError):
    """A signal handler or finalizer called what would wait for the call that it interrupted."""


class JournalError(MpsrError):
    """A journal or spool cannot be used.

    Attributes:
        path: str, its directory.

    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class JournalInUse(JournalError):
    """Another process holds the journal.

    Attributes:
        pid: int, its process id; None where it is not known.

    """

    def __init__(self, message: str, *, path: str, pid: int | None = None) -> None:
        super().__init__(message, path=path)
        self.pid = pid


class JournalDenied(JournalError):
    """The permissions of the journal or its directory forbid it."""


class NoJournal(JournalError):
    """There is no such directory, nor is one to be made; or its parent is missing."""


class NotAJournal(JournalError):
    """What is there is something else; it was left untouched."""


class NewerJournal(JournalError):
    """A later version of mpsr wrote the journal; it was left untouched."""


class JournalDamaged(JournalError):
    """What was written does not come back as it was.

    Attributes:
        position: int, the first that cannot be read; None where the whole journal is meant.

    """

    def __init__(self, message: str, *, path: str, position: int | None = None) -> None:
        super().__init__(message, path=path)
        self.position = position


class JournalFull(JournalError):
    """There is no room in the journal or on its disk; nothing was written: try again later."""


class SinkError(MpsrError):
    """A sink cannot take messages now, or not any more: what is not committed is given it again.

    What can never work, such as an option that makes no sense, is a ConfigurationError.
    """


class MessageRejected(SinkError):
    """A sink can never write some messages of a batch, and has taken none of that batch.

    A sink raises it in ``write``. The messages are then stored where ``rejected=`` says, and the
    sink is given the rest of the batch.

    Attributes:
        reasons: dict of the reason for each message, by its index in the batch.

    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"message {index}: {why}" for index, why in reasons.items()))
        self.reasons: dict[int, str] = dict(reasons)


class ProtocolError(MpsrError):
    """The wire format was broken."""


class LocalProtocolError(ProtocolError):
    """This side tried what the wire format forbids."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the wire format.

    Attributes:
        code: int, the code of REJECT that names how; the wire protocol lists them.

    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class Rejected(RemoteProtocolError):
    """The receiver refused this producer for good, and said why."""
