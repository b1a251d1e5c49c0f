"""Hold what a receiver hands out: a batch of messages that knows its sender."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, cast, overload

from mpsr.errors import ConfigurationError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from typing_extensions import Buffer, TypeVar

    T = TypeVar("T", default=bytes)
else:
    from typing import TypeVar

    T = TypeVar("T")


_HEAD: Final = 16  # bytes before the offsets in the payload of a BATCH frame
_MOST_OFFSET: Final = 2**31 - 1  # bytes: Arrow's binary arrays count to it


class Peer(NamedTuple):
    """The kernel's word for who is at the other end; an item is None where it does not tell.

    The properties are asked for on demand, through the connection: they are None for datagrams,
    and once the connection is closed.

    Attributes:
        pid: the process that made the connection, or sent the datagram; it may have ended, and
            its number may be another's by now.
        uid: its effective user id at that time.
        gid: its effective group id at that time.

    """

    pid: int | None
    uid: int | None
    gid: int | None

    @property
    def groups(self) -> tuple[int, ...] | None:
        """The supplementary groups at the time of connecting (SO_PEERGROUPS; Linux)."""
        return None

    def open_pidfd(self) -> int | None:
        """Return a descriptor of the process, which the caller closes (SO_PEERPIDFD; Linux 6.5).

        It stands for the very process that connected, whatever becomes of its number.
        """
        return None

    @property
    def executable(self) -> str | None:
        """The path of the program, read while the process is known to be the one that connected.

        None also where the system does not let us read it of another user's process.
        """
        return None

    @property
    def started_at(self) -> float | None:
        """When the process was started, in seconds since 1970; read like ``executable``."""
        return None


UNKNOWN_PEER: Final = Peer(None, None, None)


class ProducerIdentity(NamedTuple):
    """What a native producer says of itself.

    Attributes:
        id: 16 random bytes, new for every producer object and every fork.
        label: the name that it was given for receivers to show; its program's, if none.

    """

    id: bytes
    label: str


class Batch(Sequence[T], Generic[T]):
    """Messages of one sender, in order, that arrived together.

    A batch is lazy: its length and size are known at once, its messages are made one by one as
    it is iterated over, or all of them when one is asked for by its index. A receiver makes it;
    its constructor is not public. It can be pickled, as a copy of its messages with all that is
    known of them but files.

    Attributes:
        peer: who sent it, in the kernel's word.
        producer: who sent it, in the native producer's own word; None in other framings.
        first_seq: the sequence number of the first message. A native producer counts all its
            messages; in other framings it counts those of the connection (or, for datagrams,
            those of the socket).
        lost: how many messages the producer dropped just before this batch, as it reported.
            A batch that has only this to say is empty.
        nbytes: bytes of all messages, without framing.
        address: where it came, of the receiver's addresses; None if a journal does not say.
        position: where it stands in the receiver's journal: the position of its last message;
            None without a journal.
        received_at: when the receiver took it in, in nanoseconds since 1970, as its journal
            keeps it; None without a journal.
        files: the descriptor of the file that came with its message, in a tuple, where the
            receiver was made with ``accept_files=True``; such a batch has one message. It is
            closed when the receiver goes on to the next batch, or ends, unless ``take_files``
            took it before. Until then do not close it; ``os.dup`` gives one of your own.

    """

    __slots__ = (
        "_count",
        "_decode",
        "_messages",
        "_payload",
        "_raw",
        "_state",
        "address",
        "files",
        "first_seq",
        "lost",
        "nbytes",
        "peer",
        "position",
        "producer",
        "received_at",
    )

    def __init__(  # noqa: PLR0917 - one is made for every batch, and names cost time
        self,
        messages: Callable[[], Iterable[bytes]],
        count: int,
        nbytes: int,
        peer: Peer = UNKNOWN_PEER,
        producer: ProducerIdentity | None = None,
        first_seq: int = 0,
        lost: int = 0,
        decode: Callable[[bytes], T] | None = None,
        payload: Buffer | None = None,
        state: Any = None,  # noqa: ANN401 - the wire's own
    ) -> None:
        self._messages = messages  # makes them, anew each time
        self._raw: list[bytes] | None = None
        self._count = count
        self.nbytes: int = nbytes
        self.peer: Peer = peer
        self.producer: ProducerIdentity | None = producer
        self.first_seq: int = first_seq
        self.lost: int = lost
        self._decode = decode
        self._payload = payload
        self._state = state
        self.address: str | None = None
        self.position: int | None = None
        self.received_at: int | None = None
        self.files: tuple[int, ...] = ()

    def take_files(self) -> tuple[int, ...]:
        """Return ``files``, which are the caller's to close from now on, and are empty then."""
        files, self.files = self.files, ()
        return files

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as a copy of the messages, with all that is known of them.

        Files stay behind.
        """
        return _unpickled, (list(self.iter_raw()), self._known())

    @property
    def end_seq(self) -> int:
        """The sequence number behind the last message."""
        return self.first_seq + self._count

    def _known(self) -> dict[str, Any]:
        """Return what is known of it, beside its messages."""
        return {
            "peer": self.peer,
            "producer": self.producer,
            "first_seq": self.first_seq,
            "lost": self.lost,
            "decode": self._decode,
            "address": self.address,
            "position": self.position,
            "received_at": self.received_at,
        }

    def iter_raw(self) -> Iterator[bytes]:
        """Iterate over the messages as they came, before ``decode=``."""
        return iter(self._messages() if self._raw is None else self._raw)

    @property
    def raw(self) -> list[bytes]:
        """The messages as they came, before ``decode=``."""
        if self._raw is None:
            self._raw = list(self._messages())
        return self._raw

    def to_arrow(self) -> pa.BinaryArray | pa.LargeBinaryArray:
        """Return the messages as they came, before ``decode=``, as an array of Apache Arrow.

        It is of type ``binary``, or ``large_binary`` where the messages take 2 GiB or more. A
        native batch is laid out as Arrow lays out such an array (Columnar Format, variable-size
        binary), so the array shares the batch's memory, and keeps it. Batches in other framings,
        and of messages of 8 KiB or more, are copied.

        Raises:
            ConfigurationError: pyarrow is not installed.

        """
        try:
            import pyarrow as pa  # noqa: PLC0415 - not light, and an extra
        except ImportError as exc:
            error = "to_arrow() needs pyarrow: pip install 'mpsr[arrow]'"
            raise ConfigurationError(error) from exc
        shareable = self._payload is not None and sys.byteorder == "little"
        if not shareable or self.nbytes > _MOST_OFFSET:
            kind = pa.binary() if self.nbytes <= _MOST_OFFSET else pa.large_binary()
            return pa.array(self.raw, kind)
        payload = pa.py_buffer(self._payload)
        count = int.from_bytes(payload.slice(8, 4).to_pybytes(), "little")
        bodies = _HEAD + 4 * (count + 1)
        offsets = payload.slice(_HEAD, bodies - _HEAD)
        if offsets.address % 4:  # it stands anywhere in what was read, and Arrow wants it aligned
            offsets = pa.py_buffer(offsets.to_pybytes())
        buffers = [None, offsets, payload.slice(bodies)]
        # What was accepted before stands in front of the rest.
        return pa.Array.from_buffers(pa.binary(), self._count, buffers, 0, count - self._count)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """Iterate over the messages; raise DecodeError at one that ``decode=`` refuses."""
        if self._decode is None:
            return cast("Iterator[T]", self.iter_raw())
        raws = self.iter_raw()
        return map(partial(_decoded, self._decode, self, raws), raws)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if self._decode is None:
            return cast("list[T]", self.raw)[index]
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        body = self.raw[index]
        try:
            return self._decode(body)
        except Exception as exc:  # whatever a foreign decoder raises
            raise undecodable(self, index % self._count, body, exc) from exc

    def __repr__(self) -> str:
        lost = f", {self.lost} lost before it" if self.lost else ""
        return f"<Batch of {self._count}, {self.nbytes} bytes, from pid {self.peer.pid}{lost}>"


def batch_of(
    bodies: list[bytes],
    peer: Peer,
    *,
    producer: ProducerIdentity | None = None,
    first_seq: int = 0,
    lost: int = 0,
    decode: Callable[[bytes], Any] | None = None,
    state: Any = None,  # noqa: ANN401 - the wire's own
    address: str | None = None,
    position: int | None = None,
    received_at: int | None = None,
) -> Batch[Any]:
    """Return a batch of messages that are in a list."""
    nbytes = sum(map(len, bodies))
    messages = partial(iter, bodies)
    batch: Batch[Any] = Batch(
        messages, len(bodies), nbytes, peer, producer, first_seq, lost, decode, None, state
    )
    batch.address = address
    batch.position = position
    batch.received_at = received_at
    return batch


def last_of(batch: Batch[Any], bodies: list[bytes]) -> Batch[Any]:
    """Return the last messages of a batch, which these are, as a batch of their own."""
    known = {**batch._known(), "first_seq": batch.end_seq - len(bodies), "lost": 0}  # noqa: SLF001 - its own module
    rest = batch_of(bodies, **known, state=state_of(batch))
    rest.files = batch.take_files()
    return rest


def part_of(batch: Batch[Any], begin: int, end: int, *, lost: int = 0) -> Batch[Any]:
    """Return some messages of a batch as a batch of their own, with a loss before them."""
    known = {**batch._known(), "first_seq": batch.first_seq + begin, "lost": lost}  # noqa: SLF001 - its own module
    return batch_of(batch.raw[begin:end], **{**known, "position": position_of(batch, end - 1)})


def state_of(batch: Batch[Any]) -> Any:  # noqa: ANN401 - the wire's own
    """Return where the native producer of a batch stands; None in other framings."""
    return batch._state  # noqa: SLF001 - its own module


def payload_of(batch: Batch[Any]) -> Buffer | None:
    """Return the payload of the native frame in which a batch came whole; None if it did not."""
    return batch._payload  # noqa: SLF001 - its own module


def _unpickled(bodies: list[bytes], known: dict[str, Any]) -> Batch[Any]:
    return batch_of(bodies, **known)


def position_of(batch: Batch[Any], index: int) -> int | None:
    """Return the position of a message of a batch; None without a journal."""
    return None if batch.position is None else batch.position - len(batch) + 1 + index


def _decoded(
    decode: Callable[[bytes], T], batch: Batch[T], left: Iterator[bytes], body: bytes
) -> T:
    try:
        return decode(body)
    except Exception as exc:  # whatever a foreign decoder raises
        index = len(batch) - length_hint(left) - 1  # counted only now: it costs time
        raise undecodable(batch, index, body, exc) from exc


def undecodable(batch: Batch[Any], index: int, body: bytes, why: Exception) -> DecodeError:
    """Return the error for a message of a batch on which a decoder has failed."""
    return DecodeError(
        f"decode= failed on a message of {len(body)} bytes: {why!r}",
        body=body,
        position=position_of(batch, index),
        peer=batch.peer,
        producer=batch.producer,
    )
