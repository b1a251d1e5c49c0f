"""Look into a running receiver, over the socket to which its producers connect.

``status`` returns what it is doing, ``watch`` goes on returning it, and ``tap`` returns samples of
the messages that pass. The receiver answers its own user, root, and whom its ``observers=`` names,
also while its handler is stuck, and loses nothing by it.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypedDict, cast

from msgspec import Meta

from mpsr import arguments
from mpsr.batch import Peer, ProducerIdentity
from mpsr.front.observing import Observation
from mpsr.limits import (
    LATEST_TIME,
    MAX_OBSERVED_NAME,
    MAX_SAMPLE,
    MAX_TAP_RATE,
    MIN_STATUS_INTERVAL,
)
from mpsr.wire.observing import ObservingSession, SampleSeen, StatusSeen

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator
    from typing import Self

    from mpsr.system.trust import ReceiverUid

__all__ = [
    "BatchInHand",
    "Consumer",
    "Counters",
    "Cursor",
    "Journal",
    "ProducerSeen",
    "Sample",
    "Sink",
    "Status",
    "Tap",
    "status",
    "tap",
    "watch",
]

_TIMEOUT: Final = 2.0  # seconds: a receiver answers within one, however stuck its handler is

# The shapes of documents: a receiver that sends another one has broken the protocol.
Count = Annotated[int, Meta(ge=0)]  # from_json limits every integer to signed 64 bits
Seconds = Annotated[float, Meta(ge=0, le=LATEST_TIME)]
Name = Annotated[str, Meta(max_length=MAX_OBSERVED_NAME)]
ProducerId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class BatchInHand(TypedDict):
    """The batch that the handler has not finished.

    Attributes:
        producer: the producer's id in hexadecimal digits; None in foreign framings.
        label: what the producer calls itself; None in foreign framings.
        pid: its process, as far as the kernel tells.
        first_seq: the sequence number of its first message.
        messages: how many it has.
        bytes: of these messages.
        position: of its last message in the journal; None without one.

    """

    producer: ProducerId | None
    label: Name | None
    pid: int | None
    first_seq: Count
    messages: Count
    bytes: Count
    position: Count | None


class Consumer(TypedDict):
    """What the receiver's caller is doing.

    Attributes:
        state: ``waiting`` (no message waits), ``handling`` a batch, ``stuck`` (a batch is in hand
            for more than a second, or the program does not call the receiver although messages or
            connections wait), or ``stopping``.
        since: when that began, in seconds since 1970.
        seconds: how long ago that is.
        batch: what is in hand; None if nothing is.

    """

    state: Name
    since: Seconds
    seconds: Seconds
    batch: BatchInHand | None


class ProducerSeen(TypedDict):
    """One open connection of a producer.

    Attributes:
        id: the producer's id in hexadecimal digits; None in foreign framings.
        label: what it calls itself; None in foreign framings.
        pid: its process; None where the kernel does not tell, as with uid and gid.
        uid: its user.
        gid: its group.
        name: what the kernel calls its program (``/proc/PID/comm``); None if it has ended.
        framing: how its bytes become messages.
        address: of the receiver, to which it is connected.
        connected: since when, in seconds since 1970.
        messages: read from this connection; one that was sent again counts once.
        bytes: of these messages, without framing.
        unacknowledged: messages read, and not acknowledged yet.
        lost: messages that it reported as dropped.
        ring: whether it sends through shared memory.

    """

    id: ProducerId | None
    label: Name | None
    pid: int | None
    uid: int | None
    gid: int | None
    name: Name | None
    framing: Name
    address: Name | None
    connected: Seconds
    messages: Count
    bytes: Count
    unacknowledged: Count
    lost: Count
    ring: bool


class Counters(TypedDict):
    """The fields of ReceiverStats; the keys of ``refused_by_uid`` are texts."""

    connections: Count
    accepted: Count
    batches: Count
    messages: Count
    nbytes: Count
    lost: Count
    rejected: Count
    refused: Count
    refused_by_uid: dict[str, Count]
    discarded: Count
    paused: bool
    limited: bool
    in_hand: Seconds


class Cursor(TypedDict):
    """How far somebody has come in the journal.

    Attributes:
        name: the cursor's.
        position: up to which it is done.
        lag: messages behind it that are in the journal; a report of lost ones counts as one.

    """

    name: Name
    position: Count
    lag: Count


class Journal(TypedDict):
    """The journal of a receiver.

    Attributes:
        directory: where it is.
        first: position of the first message that is kept.
        next: position that the next message will have.
        bytes: that it takes on the disk.
        limit: bytes that it may take.
        full: whether what has come waits for room.
        cursors: who follows it.

    """

    directory: Name
    first: Count
    next: Count
    bytes: Count
    limit: Count
    full: bool
    cursors: list[Cursor]


class Sink(TypedDict):
    """Where a receiver's messages go on to.

    Attributes:
        name: the sink's.
        state: what it is doing.
        lag: messages that it has still to take.
        error: what went wrong last; None if nothing does.
        since: when the state began, in seconds since 1970.
        rejected: messages that it can never write, and that were stored elsewhere.
        delivered: messages that it has committed since the receiver was started.
        delivered_bytes: bytes of these messages.
        lost: messages that producers reported as dropped, before or among these.

    """

    name: Name
    state: Name
    lag: Count
    error: str | None
    since: Seconds
    rejected: Count
    delivered: Count
    delivered_bytes: Count
    lost: Count


class Status(TypedDict):
    """What a receiver is doing; docs/protocol.md describes the same as JSON.

    Attributes:
        mpsr: the version of the receiver's mpsr.
        pid: its process.
        uid: its user.
        addresses: where it receives.
        started: when the receiver was made, in seconds since 1970.
        now: the receiver's clock.
        consumer: what its caller is doing.
        stats: the fields of ReceiverStats, with text as keys in ``refused_by_uid``.
        producers: the connections that have sent most, up to 1,000.
        producers_left_out: how many more there are.
        journal: None if there is none.
        sinks: where its messages go on to.

    """

    mpsr: Name
    pid: int
    uid: int
    addresses: list[Name]
    started: Seconds
    now: Seconds
    consumer: Consumer
    stats: Counters
    producers: list[ProducerSeen]
    producers_left_out: Count
    journal: Journal | None
    sinks: list[Sink]


class PeerSeen(TypedDict):
    """The process that sent a sample; the fields of Peer."""

    pid: int | None
    uid: int | None
    gid: int | None


class IdentitySeen(TypedDict):
    """The fields of ProducerIdentity."""

    id: ProducerId
    label: Name


class SampleHead(TypedDict):
    """The fields of a Sample, apart from its body."""

    time: Seconds
    peer: PeerSeen
    producer: IdentitySeen | None
    address: Name | None
    seq: Count
    size: Count
    skipped: Count


class Sample(NamedTuple):
    """A message that has passed.

    Attributes:
        time: when it was handed out, in seconds since 1970.
        peer: who sent it, by the kernel's word.
        producer: what the native producer says of itself; None in other framings.
        address: of the receiver, to which it came.
        seq: its sequence number.
        size: bytes of the whole message.
        body: the message, or its beginning.
        skipped: messages that have passed since the sample before, and are no samples.

    """

    time: float
    peer: Peer
    producer: ProducerIdentity | None
    address: str | None
    seq: int
    size: int
    body: bytes
    skipped: int


def status(
    address: str | os.PathLike[str],
    *,
    timeout: float | None = _TIMEOUT,
    receiver_uid: ReceiverUid = None,
) -> Status:
    """Return what the receiver at an address is doing.

    Args:
        address: where its producers connect to.
        timeout: seconds to wait for the answer; None: for ever.
        receiver_uid: int, collection of int or ``"any"``, users allowed to receive; the default is
            that of ``Producer``.

    Raises:
        TimedOut: it did not answer; the message says what is known of its process.
        NoReceiver: nobody listens there.
        AddressDenied: the permissions of the path, or the receiver, forbid it.
        ReceiverBusy: it has too many observers already, or its backlog is full.
        ConfigurationError: the receiver's mpsr cannot be looked into.
        AddressOccupied: whoever listens there does not speak mpsr's protocol.
        WrongReceiver: another user receives there, whom ``receiver_uid`` does not allow.
        RemoteProtocolError: the receiver sent something else than the protocol describes.
        WrongSocketType: it receives datagrams alone, which have no way back.

    """
    session = ObservingSession(status=Status)
    with closing(Observation(address, session, timeout, receiver_uid=receiver_uid)) as observation:
        while True:
            for seen in observation.read():
                if isinstance(seen, StatusSeen):
                    return cast("Status", seen.document)


def watch(
    address: str | os.PathLike[str],
    *,
    interval: float = 1.0,
    timeout: float | None = _TIMEOUT,
    receiver_uid: ReceiverUid = None,
) -> Generator[Status, None, None]:
    """Iterate over what the receiver at an address is doing, until it ends.

    Args:
        address: where its producers connect to.
        interval: seconds from one status to the next, 0.1 at least.
        timeout: seconds to wait for an answer, beyond the interval; None: for ever.
        receiver_uid: int, collection of int or ``"any"``, users allowed to receive; the default is
            that of ``Producer``.

    Raises:
        Closed: the receiver has ended, or hands over.
        TimedOut: it did not answer; and the other errors of ``status``.

    """
    seconds = max(arguments.seconds("interval", interval), MIN_STATUS_INTERVAL)
    session = ObservingSession(round(seconds * 1000), status=Status)
    patience = None if timeout is None else timeout + seconds
    with closing(Observation(address, session, timeout, receiver_uid=receiver_uid)) as observation:
        while True:
            for seen in observation.read():
                observation.timeout = patience
                if isinstance(seen, StatusSeen):
                    yield cast("Status", seen.document)


class Tap:
    """Samples of the messages that a receiver hands out; to be iterated, and closed.

    Attributes:
        passed: messages that the receiver has handed out since the tap began, as far as is known.
        status: the receiver's last status; there is one every second.

    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        rate: int,
        clip: int,
        timeout: float | None,
        receiver_uid: ReceiverUid = None,
    ) -> None:
        self.passed: int = 0
        self.status: Status | None = None
        self._first: int | None = None
        session = ObservingSession(1000, rate, clip, status=Status, head=SampleHead)
        self._observation = Observation(
            address, session, timeout, patience=1.0, receiver_uid=receiver_uid
        )

    def __iter__(self) -> Iterator[Sample | None]:
        """Iterate over samples, and None each second, so that the caller may look around."""
        while True:
            for seen in self._observation.read():
                if isinstance(seen, SampleSeen):
                    yield _sample(seen)
                elif isinstance(seen, StatusSeen):
                    self._take(cast("Status", seen.document))
                    yield None

    def _take(self, status: Status) -> None:
        self.status = status
        messages = status["stats"]["messages"]
        if self._first is None:
            self._first = messages
        self.passed = messages - self._first

    def close(self) -> None:
        """End it."""
        self._observation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tap(
    address: str | os.PathLike[str],
    *,
    rate: int = 100,
    clip: int = MAX_SAMPLE,
    timeout: float | None = _TIMEOUT,
    receiver_uid: ReceiverUid = None,
) -> Tap:
    """Return samples of the messages that the receiver at an address hands out.

    The receiver takes a few messages of a batch, never more than the rate, and none while the
    observer does not read: producers do not feel it.

    Args:
        address: where its producers connect to.
        rate: samples a second, at most 1,000.
        clip: bytes of each message that are wanted, at most 65,536.
        timeout: seconds to wait for an answer; None: for ever.
        receiver_uid: int, collection of int or ``"any"``, users allowed to receive; the default is
            that of ``Producer``.

    Raises:
        Closed: the receiver has ended, while the samples are iterated.
        TimedOut: it did not answer; and the other errors of ``status``.

    """
    rate = arguments.integer("rate", rate, "messages", most=MAX_TAP_RATE)
    clip = arguments.integer("clip", clip, "bytes", least=0, most=MAX_SAMPLE)
    return Tap(address, rate, clip, timeout, receiver_uid)


def _sample(seen: SampleSeen) -> Sample:
    head = cast("SampleHead", seen.head)
    peer, producer = head["peer"], head["producer"]
    identity = None
    if producer is not None:
        identity = ProducerIdentity(bytes.fromhex(producer["id"]), producer["label"])
    return Sample(
        head["time"],
        Peer(peer["pid"], peer["uid"], peer["gid"]),
        identity,
        head["address"],
        head["seq"],
        head["size"],
        seen.body,
        head["skipped"],
    )
